"""A config as TOML text: the reading half is in the standard library, the writing half is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

INLINE = 90  # characters: a longer table is a section of its own


def dumps(table: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """TOML of a table of strings, numbers, lists and tables.

    comments: by dotted path; that of a value stands behind it, that of a section below its header, that of "" first.
    """
    head = [f"# {line}" for line in comments.get("", "").splitlines()]
    return "\n".join([*head, *_section(table, "", comments)]) + "\n"


def _section(table: Mapping[str, Any], path: str, comments: Mapping[str, str]) -> Iterator[str]:
    """The lines of a section: its values first, then the sections inside it."""
    inner = {key: value for key, value in table.items() if _is_section(value, top=not path)}
    for key, value in table.items():
        if key not in inner:
            comment = comments.get(_join(path, key))
            yield f"{_key(key)} = {_value(value)}" + (f"  # {_line(comment)}" if comment else "")
    for key, value in inner.items():
        where = _join(path, key)
        mark = "[[{}]]" if isinstance(value, list) else "[{}]"
        for one in value if isinstance(value, list) else [value]:
            yield ""
            yield mark.format(where)
            if where in comments:
                yield f"# {_line(comments[where])}"
            yield from _section(one, where, comments)


def _is_section(value: Any, *, top: bool) -> bool:
    """Whether a value is written as a section, or as several of one name, and not behind its key."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, Mapping) for one in value)
    return isinstance(value, Mapping) and (top or len(_value(value)) > INLINE)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """A string as JSON writes it, which is TOML's way but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _quoted(key)


def _join(path: str, key: str) -> str:
    return f"{path}.{_key(key)}" if path else _key(key)


def _line(comment: str) -> str:
    """A comment on one line, without what TOML forbids in one."""
    return "".join(letter if letter.isprintable() else "?" for letter in comment)
