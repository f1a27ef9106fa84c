"""A file to start a hypothetical architecture from: its base, and every number of the base, commented out.

What a user uncomments and edits differs from the base; what stays a comment follows it. Values set from the start
stand uncommented.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import Any

from minimodels import toml_writer
from minimodels.config_errors import Table
from minimodels.loader import builtin_text, parse, parse_on_base, resolve

HEAD = """{name}: a hypothetical architecture. It is {base} but for what stands uncommented below.
To change a number, uncomment its line and the [section] above it. The items of a list, each headed [[section]],
are taken together: uncomment all of them."""
HEADER = re.compile(r"\[(\[?)([\w.-]+)\]\]?\s*(?:#.*)?")
LINE = re.compile(r"([\w-]+) = ((?:\"(?:[^\"\\]|\\.)*\"|[^#\"])*)(?:# (.*))?")


def starting_file(name: str, base: str, overrides: Iterable[str] = ()) -> str:
    """The text of a config called `name` that equals the built-in architecture `base` but for `overrides`.

    Raises:
        ValueError: there is no such base, an override is none, or it takes out what a file can only add to.
    """
    if not name.strip() or not name.isprintable():
        raise ValueError(f"an architecture is called by a word or a few, not {name!r}")
    if base.endswith(".toml"):
        raise ValueError(f"--base {base}: a base is an architecture of `minibench list`; a file of yours can be copied")
    base, overrides = base.removesuffix("-config"), list(overrides)
    old, new, title = resolve(base)[0], *resolve(base, overrides)
    wanted = parse(new, title)
    comments = _comments(base)
    about = comments.pop("base", None) or comments.pop("title", "")
    given = set(_given(old, new, ""))
    table = {"base": base} | new | {"title": name}
    del table["name"]
    before, after = dict(_paths(old, "")), dict(_paths(table, ""))
    texts = {key: text for key, text in comments.items() if key in after and after[key] == before.get(key)}
    texts[""] = f"{HEAD.format(name=name, base=base)}\n\n{about.strip()}".strip()
    text = toml_writer.dumps(table, texts, set(after) - given - {"base", "title"})
    found = parse_on_base(tomllib.loads(text), name)
    if _architecture(found.model_dump()) != _architecture(wanted.model_dump()):
        raise ValueError(f"--set {' '.join(overrides)}: a file on {base} cannot say so; set single values, or a kind")
    return text


def _architecture(record: Table) -> Table:
    """A config without what a file calls itself."""
    return {key: value for key, value in record.items() if key not in ("name", "title")}


def _given(old: Any, new: Any, path: str) -> Iterator[str]:
    """The paths that a file has to give for `old` to become `new`: values, and the sections that hold them."""
    if isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind"):
        inner = [found for key in new for found in _given(old.get(key), new[key], f"{path}.{key}" if path else key)]
        if inner:
            yield from (path, *inner)
    elif old != new:
        yield from (path, *dict(_paths(new, path)))


def _paths(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every path inside a value, with what is there: its keys, its items where they are sections, what is in them."""
    items = value if isinstance(value, dict) else {}
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        items = dict(enumerate(value))
    for key, one in items.items():
        where = f"{path}.{key}" if path else str(key)
        yield where, one
        yield from _paths(one, where)


def _comments(name: str) -> dict[str, str]:
    """The comments of a built-in file by dotted path, with those of its base where it does not speak.

    Lines above a key come before the comment behind it, which is the last line.
    """
    own: dict[str, str] = {}
    inherited: dict[str, str] = {}
    section, above, seen = "", list[str](), dict[str, int]()
    for line in builtin_text(name).splitlines():
        if header := HEADER.fullmatch(line):
            section, above = _numbered(header[2], bool(header[1]), seen), []
        elif found := LINE.fullmatch(line):
            path = f"{section}.{found[1]}" if section else found[1]
            own[path] = "\n".join([*above, (found[3] or "").strip()])
            above = []
            if path == "base":
                inherited = _comments(found[2].strip().strip('"'))
        elif line.startswith("# "):
            above.append(line[2:])
    whole = tuple(f"{path}." for path in seen)  # a list is taken whole: nothing of the base's remains
    return {path: text for path, text in inherited.items() if not path.startswith(whole)} | own


def _numbered(header: str, item: bool, seen: dict[str, int]) -> str:
    """The path of a section, items of lists by number; `seen` counts the items of each list."""
    if item:
        seen[header] = seen.get(header, -1) + 1
    steps: list[str] = []
    for step in header.split("."):
        steps.append(step)
        listed = ".".join(one for one in steps if not one.isdecimal())
        if listed in seen:
            steps.append(str(seen[listed]))
    return ".".join(steps)
