"""Which variants of an architecture a sweep has: axes, as a user writes them, and the points between them.

An axis is KEY=a,b,c or KEY=start:stop:step, whose stop is a value too. KEY is an option of a run (`OPTIONS`), a run
length of the architecture (image_size, frames, steps, prompt_len, gen_len) or a dotted path of its config.
Nothing here needs torch.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from minimodels import loader, overrides
from minimodels.config_errors import Table
from minimodels.kinds import Config

OPTIONS = ("attention", "batch", "dtype", "kernels", "layout", "mode", "resident")
MOST = 100_000  # points of a sweep
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"({NUMBER}):({NUMBER}):({NUMBER})")
OUTSIDE = re.compile(r",(?![^{\[]*[}\]])")  # a comma in no list or table

Value = Any
"""What a key of a config can be: a number, a truth value, a string, a list or a table of them."""
Axes = dict[str, Value]
"""Where a point lies: a value for each key that varies."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A key and the values that it takes."""

    key: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"--over {self.key}: no values")
        for value in self.values:
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                raise ValueError(f"--over {self.key}: {value!r} is no number, word or list of them") from None
        for index, value in enumerate(self.values):
            if any(value == other and type(value) is type(other) for other in self.values[:index]):
                raise ValueError(f"--over {self.key}: {value} is given twice")

    @property
    def numeric(self) -> bool:
        """Whether its values lie on a line."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


def axis(text: str) -> Axis:
    """The axis that a user wrote: KEY=a,b,c or KEY=start:stop:step.

    Raises:
        ValueError: it is neither, or a range that has no values or too many.
    """
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ValueError(f"--over {text!r}: write it as KEY=a,b,c or KEY=start:stop:step")
    span = RANGE.fullmatch(values.strip())
    if not span and re.fullmatch(rf"{NUMBER}(?::(?:{NUMBER})?)+", values.strip()):
        raise ValueError(f"--over {text}: a range is start:stop:step, stop included, such as 256:1024:128")
    return Axis(key.strip(), _range(text, *span.groups()) if span else _listed(values))


def _range(text: str, *numbers: str) -> tuple[Value, ...]:
    """The values from start to stop, stop included where the steps reach it; whole where all three are."""
    start, stop, step = map(Decimal, numbers)
    if not step or (stop - start) / step < 0:
        raise ValueError(f"--over {text}: no step of {step} leads from {start} to {stop}")
    count = int((stop - start) / step) + 1
    if count > MOST:
        raise ValueError(f"--over {text}: {count:,} values; a sweep has at most {MOST:,} points")
    whole = not any(re.search("[.eE]", number) for number in numbers)
    return tuple((int if whole else float)(start + i * step) for i in range(count))


def _listed(text: str) -> tuple[Value, ...]:
    """Values between commas; commas inside lists and tables are theirs."""
    together = overrides.value_of(f"[{text}]")
    if isinstance(together, list):
        return tuple(together)
    return tuple(overrides.value_of(one.strip()) for one in OUTSIDE.split(text))


def points(axes: Sequence[Axis]) -> Iterator[Axes]:
    """All combinations of the values of some axes, the last axis running fastest.

    Raises:
        ValueError: two axes have one key, or there are too many points.
    """
    keys = [one.key for one in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"--over {key}: given twice; write all its values behind one")
    count = math.prod(len(one.values) for one in axes)
    if count > MOST:
        raise ValueError(f"{count:,} points; a sweep has at most {MOST:,}")
    return (dict(zip(keys, values, strict=True)) for values in itertools.product(*(one.values for one in axes)))


@dataclass(frozen=True, slots=True)
class Base:
    """What all points share: the table of an architecture, what errors call it, and options of `Run`, device apart."""

    table: Table
    title: str
    options: dict[str, Any]

    @classmethod
    def of_config(cls, config: Config, options: Mapping[str, Any]) -> Base:
        """The base of an architecture that is loaded."""
        return cls(config.model_dump(mode="json", exclude_none=True), config.name, dict(options))

    @property
    def name(self) -> str:
        """The name of the architecture."""
        return str(self.table["name"])

    def digest(self) -> str:
        """Some letters that differ where anything does that the points share."""
        whole = json.dumps([self.table, self.options], sort_keys=True, default=str)
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    def check(self, axes: Iterable[Axis]) -> None:
        """See that there are such keys; their values are seen to point by point.

        Raises:
            ValueError: there is no such option, length or path.
        """
        for one in axes:
            if one.key == "device":
                raise ValueError("--over device: name several devices behind --device instead, with commas")
            if one.key not in OPTIONS:
                self._changed({one.key: one.values[0]})

    def at(self, axes: Axes) -> tuple[Config, dict[str, Any]]:
        """The config and the options of a point.

        Raises:
            ValueError: the architecture cannot be so.
        """
        given = {key: value for key, value in axes.items() if key in OPTIONS}
        table = self._changed({key: value for key, value in axes.items() if key not in OPTIONS})
        return loader.parse(table, self.title), self.options | given

    def _changed(self, values: Axes) -> Table:
        table = copy.deepcopy(self.table)
        for key, value in values.items():
            if "." in key:
                overrides.put(table, key, copy.deepcopy(value), self.title)
            elif key in table:
                raise ValueError(f"--over {key}: name a number inside it, as in {key}.KEY, or a run length")
            else:
                overrides.set_length(table, key, value, self.title)
        return table
