"""What a wrong config says: the key, the section, what was given, what is allowed and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from minimodels.kinds import Config

Table = dict[str, Any]


def near(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}" if close else ""


def explain(error: ValidationError, table: Mapping[str, Any], model: type[Config], title: str) -> str:
    """All problems of a config, one a line, five at most."""
    lines = [_line(problem, table, model) for problem in error.errors()[:5]]
    if error.error_count() > 5:
        lines.append(f"and {error.error_count() - 5} more")
    return "\n".join(f"{title}: {line}" for line in lines)


def _line(problem: ErrorDetails, table: Mapping[str, Any], model: type[Config]) -> str:
    """One problem: the key, what was given, what is allowed, the nearest valid key."""
    what = problem["type"]
    path = _keys(table, problem["loc"], what)
    where, message = ".".join(map(str, path)), problem["msg"].removeprefix("Value error, ")
    if what == "extra_forbidden":
        allowed, section = fields_at(model, table, path[:-1]), ".".join(map(str, path[:-1])) or "the top level"
        return (
            f"unknown key {path[-1]!r} in {section}{near(str(path[-1]), allowed) or '; allowed: ' + ', '.join(allowed)}"
        )
    if what in ("missing", "union_tag_not_found"):
        return f"{where}{'.kind' if what != 'missing' else ''} is missing"
    if what == "union_tag_invalid":
        tag, allowed = (problem.get("ctx", {})[key] for key in ("tag", "expected_tags"))
        return f"{where}.kind is {tag!r}; allowed: {allowed}"
    if what in ("model_type", "model_attributes_type"):
        message = "must be a section" + (f", or none (--set {where}=none)" if optional_at(model, table, path) else "")
    given = "" if what in ("value_error", "too_short", "too_long") else f", not {_shown(problem['input'])}"
    message = f"{message[:1].lower()}{message[1:]}{given}"
    return f"{where}: {message}" if where else message


def _keys(table: Mapping[str, Any], loc: tuple[int | str, ...], what: str) -> list[int | str]:
    """The keys of the file in an error's location, without the tags of tagged unions; a missing one is the last."""
    node: Any = table
    keys = []
    for index, step in enumerate(loc):
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and isinstance(step, int):
            node = node[step] if step < len(node) else None
        elif index < len(loc) - 1 or what != "missing":
            continue
        keys.append(step)
    return keys


def _shown(value: Any) -> str:
    """A value as an error shows it, in one short line."""
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    text = hex(value) if isinstance(value, int) and abs(value) > 10**50 else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fields_at(model: type[Config] | None, table: Mapping[str, Any], path: Sequence[int | str]) -> list[str]:
    """The keys allowed at a path of the table, there or not, from the JSON Schema of its type."""
    node, given, schema = _at(model, table, path)
    return sorted(_chosen(node, given, schema).get("properties", {}))


def optional_at(model: type[Config] | None, table: Mapping[str, Any], path: Sequence[int | str]) -> bool:
    """Whether the value at a path of the table may be left out and means that something is not there."""
    node, _, schema = _at(model, table, path)
    return any(option.get("type") == "null" for option in _options(node, schema))


def _at(model: type[Config] | None, table: Mapping[str, Any], path: Sequence[int | str]) -> tuple[Table, Any, Table]:
    """What the schema says of the value at a path, the value if it is there, and the schema."""
    schema: Table = {} if model is None else model.model_json_schema()
    node, given = schema, table
    for part in path:
        node = _chosen(node, given, schema)
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
        there = isinstance(part, int) or part in given
        given = given[part] if there else {}  # type: ignore[index]
    return node, given, schema


def _chosen(node: Table, given: Any, schema: Table) -> Table:
    """The schema a value is held against: of a union that of its kind, or of all kinds together."""
    options = list(_options(node, schema))
    kind = given.get("kind") if isinstance(given, dict) else None
    for option in options:
        if kind is not None and option.get("properties", {}).get("kind", {}).get("const") == kind:
            return option
    together: Table = {}
    for option in options:
        together |= option | {"properties": together.get("properties", {}) | option.get("properties", {})}
    return together


def _options(node: Table, schema: Table) -> Iterator[Table]:
    """What a value may be: the members of a union and of the unions in it."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    members = node.get("oneOf", node.get("anyOf"))
    if members is None:
        yield node
    else:
        for member in members:
            yield from _options(member, schema)
