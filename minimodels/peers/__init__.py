"""How a class of diffusers or transformers maps onto a part of ours: its config, and the names of its weights.

Each file of this package lists the classes of one family in `PEERS`, by the name their `config.json` gives;
`weights.from_pretrained` looks them up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from minimodels.config import Part

Table = dict[str, Any]
State = dict[str, Tensor]


def same(state: State, part: Part) -> State:
    """The weights as they are."""
    return state


class Settings:
    """The settings of a config.json, each read once; `close` refuses those that nothing has read."""

    def __init__(self, table: Table) -> None:
        self.unread = {name: value for name, value in table.items() if not name.startswith("_")}

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a setting, which is `default` where the file does not say."""
        return self.unread.pop(name, default)

    def one_of(self, name: str, *allowed: Any) -> Any:
        """A setting that must have one of these values, the first where the file does not say."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise ValueError(f"{name} {value!r} is not supported; allowed: {', '.join(map(repr, allowed))}")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number."""
        value = self.take(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"{name} must be a positive number, not {value!r}")
        return float(value)

    def integers(self, name: str, length: int | None, default: int | list[int]) -> list[int]:
        """Positive integers, one for each of `length` levels, or a single one for all."""
        value = self.take(name, default)
        values = [value] * length if isinstance(value, int) and length else value
        if not isinstance(values, list | tuple) or not values or (length and len(values) != length):
            raise ValueError(f"{name} must be {length or 'some'} positive integers, not {value!r}")
        return [Settings({name: each}).integer(name) for each in values]

    def words(self, name: str, default: Sequence[str]) -> list[str]:
        """A list of names."""
        value = self.take(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
            raise ValueError(f"{name} must be a list of names, not {value!r}")
        return list(value)

    def close(self, *without_effect: str) -> None:
        """Refuse what is left, but for settings that are off and those that do not change what is computed."""
        off = None, False, [], {}
        left = [name for name, value in self.unread.items() if value not in off and name not in without_effect]
        if left:
            raise ValueError(f"{left[0]} {self.unread[left[0]]!r} is not supported: unknown setting")


class Peer(NamedTuple):
    """A class of another library.

    part: its config.json -> our part, a ValueError names what is not supported; build: the module of that part;
    names: (pattern, replacement) pairs, applied in order, that turn its weights' names into ours, an empty name
    for a weight that has no use here; convert: weights that are split, joined or turned, by what our part says, before
    they are renamed.
    """

    part: Callable[[Table], Part]
    build: Callable[[Any], nn.Module]
    names: Sequence[tuple[str, str]]
    convert: Callable[[State, Any], State] = same

    def rename(self, name: str) -> str:
        """Our name of one of its weights."""
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return name
