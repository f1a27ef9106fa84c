"""Changes of a config before it is parsed: one value by dotted path, or a length of its runs.

TOML has no word for what is not there; here it is `none`, for what may be left out: `unet.levels.0.attention=none`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from minimodels.config_errors import Table, fields_at, near, optional_at
from minimodels.kinds import KINDS

SIZELESS = frozenset({"run", "schedule", "schedules", "published"})  # sections that are no part
NONE = "none"


def apply(table: Table, text: str, title: str) -> None:
    """Set what `text`, key.path=value, says in a table of a config; `title` names the table in errors.

    Raises:
        ValueError: it is not written so, or there is no such key.
    """
    path, equals, raw = text.partition("=")
    if not equals or not path:
        raise ValueError(f"--set {text!r}: write it as key.path=value")
    put(table, path, value_of(raw), title)


def put(table: Table, path: str, value: Any, title: str) -> None:
    """Set one value by dotted path; `NONE` takes out what is optional.

    Raises:
        ValueError: there is no such key.
    """
    node: Any = table
    keys = path.split(".")
    walked: list[int | str] = []
    for depth, key in enumerate(keys):
        where = ".".join(keys[:depth]) or "the top level"
        if isinstance(node, list):
            if not (key.isdecimal() and int(key) < len(node)):
                raise ValueError(f"--set {path}: {where} has items 0 to {len(node) - 1}, not {key!r}")
            position: Any = int(key)
        elif isinstance(node, dict):
            if key not in node:
                _check_absent(table, keys, walked, title)
            position = key
        else:
            raise ValueError(f"--set {path}: {where} is the value {node!r}, not a section")
        if depth == len(keys) - 1:
            kind = KINDS.get(str(table.get("kind")))
            if value == NONE and isinstance(node, dict) and optional_at(kind, table, [*walked, position]):
                node.pop(position, None)
            else:
                node[position] = value
            # Another size is not what the authors counted
            if depth and keys[1] != "published" and _is_part(table[keys[0]]):
                del table[keys[0]]["published"]
            if depth and keys[0] not in SIZELESS:
                table.pop("published", None)
        else:
            node = node[position]
            walked.append(position)


def _check_absent(table: Table, keys: Sequence[str], walked: Sequence[int | str], title: str) -> None:
    """Raise unless the next key of a path may be set, though `table` has none: it is optional, and the last."""
    key, where, kind = keys[len(walked)], ".".join(map(str, walked)), KINDS.get(str(table.get("kind")))
    option, allowed = f"--set {'.'.join(keys)}", fields_at(kind, table, walked)
    if key not in allowed:
        hint = near(key, allowed) or f"; allowed: {', '.join(allowed) or 'none'}"
        raise ValueError(f"{option}: {title} has no key {key!r} in {where or 'the top level'}{hint}")
    if len(keys) == len(walked) + 1:
        return
    section, inside = ".".join([*keys[: len(walked)], key]), fields_at(kind, table, [*walked, key])
    if not inside:
        raise ValueError(f"{option}: {section} is a value, not a section")
    raise ValueError(
        f"{option}: {title} has no section {section}; set it whole: --set '{section}={{KEY = VALUE, ...}}', "
        f"whose keys are {', '.join(inside)}"
    )


def set_length(table: Table, key: str, value: Any, title: str) -> None:
    """Set a run option of the architecture, such as image_size.

    Raises:
        ValueError: the architecture has no such length.
    """
    given = table.get("run")
    defaults: Table = given if isinstance(given, dict) else {}
    if key not in defaults:
        option, known = f"--{key.replace('_', '-')}", ", ".join(defaults) or "none"
        loops = [name for name, inner in defaults.items() if isinstance(inner, dict) and key in inner]
        if loops:
            raise ValueError(
                f"{option}: {title} has one each for {', '.join(loops)}; use --set run.{loops[0]}.{key}={value}"
            )
        raise ValueError(f"{option}: {title} has no such length; its run options are {known}")
    defaults[key] = value


def value_of(raw: str) -> Any:
    """A value as TOML reads it; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        return raw


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "published" in value
