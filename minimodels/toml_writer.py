"""A config as TOML text: the reading half is in the standard library, the writing half is not."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

INLINE = 90  # characters: a longer table is a section of its own


def dumps(table: Mapping[str, Any], comments: Mapping[str, str], off: Container[str] = ()) -> str:
    """TOML of a table of strings, numbers, lists and tables.

    comments: by dotted path, items of a list by number. That of a value stands behind it, its lines before the last
    above it; that of a section below its header, that of "" first. off: paths of values and sections whose lines are
    written as comments.
    """
    head = [f"# {line}".rstrip() for line in comments.get("", "").splitlines()]
    return "\n".join([*head, *_Writer(comments, off).section(table, "", "")]) + "\n"


@dataclass(frozen=True, slots=True)
class _Writer:
    comments: Mapping[str, str]
    off: Container[str]

    def section(self, table: Mapping[str, Any], path: str, header: str) -> Iterator[str]:
        """The lines of a section: its values first, then the sections inside it; `path` counts items of lists."""
        inner = {key: value for key, value in table.items() if self._is_section(value, _join(path, key), not path)}
        for key, value in table.items():
            if key not in inner:
                where = _join(path, key)
                *above, behind = self.comments.get(where, "").split("\n")
                yield from (f"# {_line(line)}" for line in above)
                yield f"{self._mark(where)}{_key(key)} = {_value(value)}" + (f"  # {_line(behind)}" if behind else "")
        for key, value in inner.items():
            where, name = _join(path, key), _join(header, key)
            if isinstance(value, list):
                for index, one in enumerate(value):
                    yield from self._headed(one, f"{where}.{index}", f"[[{name}]]", name)
            else:
                yield from self._headed(value, where, f"[{name}]", name)

    def _headed(self, table: Mapping[str, Any], path: str, line: str, header: str) -> Iterator[str]:
        yield ""
        yield self._mark(path) + line
        yield from (f"# {_line(comment)}" for comment in self.comments.get(path, "").splitlines())
        yield from self.section(table, path, header)

    def _mark(self, path: str) -> str:
        return "# " if path in self.off else ""

    def _is_section(self, value: Any, path: str, top: bool) -> bool:
        """Whether a value is written as a section, or as several of one name, and not behind its key."""
        if isinstance(value, list):
            return bool(value) and all(isinstance(one, Mapping) for one in value)
        if not isinstance(value, Mapping):
            return False
        return top or len(_value(value)) > INLINE or any(key.startswith(f"{path}.") for key in self.comments)


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
