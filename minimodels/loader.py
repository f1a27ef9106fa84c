"""The one loader of configs: a name, a path to a TOML file, `base =`, overrides by dotted path.

Every failure is a `ValueError` that names the key, the section, what was given and what is allowed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from minimodels.config import Part
from minimodels.config_errors import Table, explain, near
from minimodels.kinds import KINDS, Config
from minimodels.overrides import SIZELESS, apply, set_length

MAX_FILE = 1 << 20  # bytes: a config is a page of text


def names() -> list[str]:
    """The names of the built-in architectures, sorted by family and size as the files are named."""
    folder = resources.files("minimodels") / "configs"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load(name: str | Path, overrides: Iterable[str] = (), lengths: Mapping[str, int | None] | None = None) -> Config:
    """Load an architecture by name or from a `.toml` path, with `key.path=value` overrides.

    name: "parti-20b", "parti-20b-config" or "path/to/mine.toml", also as a Path; value: TOML, a bare word is a string;
    lengths: run options of the architecture such as {"prompt_len": 512}, those that are None left as they are.
    Example: docs/python.md.

    Raises:
        ValueError: unknown name, unreadable file, invalid TOML, unknown or missing key, impossible size.
    """
    table, title = resolve(name, overrides, lengths)
    return parse(table, title)


def resolve(
    name: str | Path, overrides: Iterable[str] = (), lengths: Mapping[str, int | None] | None = None
) -> tuple[Table, str]:
    """As `load`, but the table before its values are looked at, and what errors call it.

    Raises:
        ValueError: unknown name, unreadable file, invalid TOML, or a key set that there is not.
    """
    if not isinstance(name, str | Path):
        raise ValueError(f"an architecture is loaded by its name or the path of a .toml file, not by {name!r}")
    if isinstance(overrides, str):
        raise ValueError(f"overrides are a list of key.path=value, not the string {overrides!r}")
    table, title = _resolve(str(name))
    for override in overrides:
        apply(table, override, title)
    for key, value in (lengths or {}).items():
        if value is not None:
            set_length(table, key, value, title)
    return table, title


def parse(table: Mapping[str, Any], title: str) -> Config:
    """Turn a parsed TOML table into a config; `title` names it in errors.

    Raises:
        ValueError: a key is unknown, missing or impossible.
    """
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        if kind is None and (section := _lone_section(table)):
            raise ValueError(
                f"{title}: [{section}] is a section of an architecture; a whole one needs a line "
                f'`base = "NAME"` above it, an architecture of `minibench list` that has a [{section}]'
            )
        given = "missing" if kind is None else repr(kind)
        raise ValueError(f"{title}: kind is {given}; allowed: {', '.join(KINDS)}{near(str(kind), KINDS)}")
    try:
        return KINDS[kind].model_validate(table)
    except ValidationError as error:
        raise ValueError(explain(error, table, KINDS[kind], title)) from None


def parse_on_base(table: Table, title: str) -> Config:
    """As `parse`, of a table that may name a `base`.

    Raises:
        ValueError: as `parse`, or there is no such base.
    """
    return parse(_on_base(table, title) | {"name": "imported"}, title)


def json_schema() -> Table:
    """JSON Schema of a config file, for editors: everything is required, or nothing where there is a base."""
    schema = TypeAdapter(Config).json_schema()
    whole: Table = schema["$defs"]
    for model in KINDS.values():  # the file's name gives it
        whole[model.__name__]["required"].remove("name")
        del whole[model.__name__]["properties"]["name"]
    partial: Table = {name: _relaxed(definition) for name, definition in json.loads(json.dumps(whole)).items()}
    for model in KINDS.values():
        what = "architecture to start from; sections that give their kind take nothing of it"
        base = {"type": "string", "enum": names(), "description": what}
        partial[model.__name__]["properties"]["base"] = base
        partial[model.__name__]["required"] = ["base"]
        schema["anyOf"].append({"$ref": f"#/$defs/Partial{model.__name__}"})
    whole |= {f"Partial{name}": definition for name, definition in partial.items()}
    return schema | {"title": "minimodels architecture"}


def _relaxed(node: Any) -> Any:
    """A definition of which nothing is required, as it is merged over a base; lists are taken whole."""
    if isinstance(node, list):
        return [_relaxed(item) for item in node]
    if not isinstance(node, dict):
        return node
    result: Table = {}
    for key, value in node.items():
        if key == "$ref":
            result[key] = value.replace("#/$defs/", "#/$defs/Partial")
        elif key == "oneOf":  # without its kind, a table may be any of several
            result["anyOf"] = _relaxed(value)
        elif key == "items":
            result[key] = value
        elif key not in ("required", "discriminator"):
            result[key] = _relaxed(value)
    return result


def _resolve(name: str) -> tuple[Table, str]:
    if name.endswith(".toml"):
        path = Path(name)
        table = _read_file(path)
        if "name" in table:
            raise ValueError(f"{name}: unknown key 'name' in the top level: an architecture is called as its file")
        return _on_base(table, name) | {"name": path.stem}, name
    stem = name.removesuffix("-config")
    return _on_base(_read_builtin(stem), name) | {"name": stem}, name


def _on_base(table: Table, title: str) -> Table:
    """`table` merged over the built-in architecture its `base` names.

    A section that gives its `kind` is taken whole: of the base's, nothing remains in it. Any other says what differs.

    A built-in may have a base too, but that one is whole (a test holds it), so no chain is longer than two.
    """
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise ValueError(f"{title}: base must be the name of a built-in architecture, not {base!r}")
    parent = _on_base(_read_builtin(base.removesuffix("-config"), asked_by=title), base)
    resized = [key for key, value in table.items() if isinstance(value, dict) and "published" not in value]
    whole = {key for key, value in table.items() if isinstance(value, dict) and "kind" in value}
    if "published" not in table and not SIZELESS.issuperset(key for key in table if isinstance(table[key], dict)):
        parent.pop("published", None)
    table = _merge({key: value for key, value in parent.items() if key not in whole}, table)
    for key in resized:  # another size is not what the authors counted
        table[key].pop("published", None)
    return table


def _read_builtin(name: str, asked_by: str | None = None) -> Table:
    known = names()
    if name not in known:
        what = f"{asked_by}: unknown base" if asked_by else "unknown model"
        if not any(map(str.isalnum, name)):
            raise ValueError(f"{what} {name!r}: a name such as {known[0]} (`minibench list`) or a path to a .toml file")
        raise ValueError(
            f"{what} {name!r}{near(name, known) or '; known: ' + ', '.join(known)}. "
            "`minibench list` shows all; a path must end in .toml"
        )
    return tomllib.loads(builtin_text(name))


def builtin_text(name: str) -> str:
    """The file of a built-in architecture."""
    return (resources.files("minimodels") / "configs" / f"{name}.toml").read_text("utf-8")


def _read_file(path: Path) -> Table:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_FILE:
        raise ValueError(f"{path} is too large: a config has at most {MAX_FILE:,} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    except RecursionError:
        raise ValueError(f"{path} is not a config: its tables are nested too deeply") from None
    except ValueError as error:  # bad syntax, or a number of too many digits
        raise ValueError(f"{path} is not valid TOML: {str(error).partition(';')[0]}") from None


def _lone_section(table: Mapping[str, Any]) -> str | None:
    """The one section of a table that holds a part and, but for titles, nothing else, as `minibench import` makes."""
    kinds = {get_args(part.model_fields["kind"].annotation)[0] for part in _leaves(Part)}
    match [key for key in table if key not in ("name", "title", "paper")]:
        case [key] if isinstance(table[key], dict) and table[key].get("kind") in kinds:
            return key
    return None


def _leaves(model: type[Part]) -> Iterator[type[Part]]:
    for derived in model.__subclasses__():
        yield from _leaves(derived)
    if not model.__subclasses__():
        yield model


def _merge(base: Table, over: Table) -> Table:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged
