"""The largest variant of an architecture that fits a budget of time and memory.

Larger: more parameters; of equally many, more FLOPs; of those, less time. Along an axis of numbers whose ends say that
size, time and memory grow with it, they are taken to do so everywhere: a point beyond one that breaks the budget
breaks it, a point before one that keeps it is smaller. Such an axis is halved, not walked; values of any other axis
are all tried.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minimodels.sim import device as devices
from minimodels.sim import units
from minimodels.sim.memory import RESERVE
from minimodels.sim.progress import Advance, silent
from minimodels.sim.sweep.grid import Axes, Axis, Base, points
from minimodels.sim.sweep.ledger import Point

TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
SIZES = ("parameters", "flops")  # by which a variant is larger
SIZE = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class Budget:
    """The most a variant may take: seconds, None for any, and bytes, the runtime's reserve among them."""

    seconds: float | None
    memory: int

    def broken(self, point: Point) -> list[str]:
        """What a point breaks: "time", "memory", both or neither; a time that is unknown is broken."""
        time = point.metrics["time"]
        slow = self.seconds is not None and (time is None or time > self.seconds)
        return ["time"] * slow + ["memory"] * (needs(point) > self.memory)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to.

    best: the largest that fits, None if nothing does; beyond: the next value of each axis that was taken to grow, and
    the point there, None where it is no architecture; tried: every point that was simulated, in order; grid: how many
    there are.
    """

    best: Point | None
    beyond: tuple[tuple[Axes, Point | None], ...]
    tried: tuple[Point, ...]
    grid: int


def amount(text: str, table: dict[str, Any], option: str) -> float:
    """A quantity that a user wrote, such as 2s or 20GB, in seconds or bytes.

    Raises:
        ValueError: it has no such unit, or is not above 0.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([A-Za-z]+)", text.strip())
    scale = found and next((size for unit, size in table.items() if unit.lower() == found[2].lower()), None)
    if not found or scale is None or float(found[1]) <= 0:
        raise ValueError(f"{option} {text!r}: write a number and a unit ({', '.join(table)}), as in 2{[*table][2]}")
    return float(found[1]) * scale


def budget(under: str | None, memory: str | None, device: str) -> Budget:
    """The budget as a user gives it; memory is at most the device's, and that where none is given.

    Raises:
        ValueError: a quantity is none, or the device has less memory.
    """
    have = devices.load(device).datasheet.memory_bytes
    most = have if memory is None else int(amount(memory, SIZE, "--memory"))
    if most > have:
        raise ValueError(f"--memory {memory}: {device} has {units.size(have)}")
    return Budget(None if under is None else amount(under, TIME, "--under"), most)


def needs(point: Point) -> int:
    """Bytes that a point needs: its peak and what the runtime takes beside it."""
    return int(point.metrics["peak_memory"] or 0) + RESERVE


def rank(point: Point) -> tuple[float, ...]:
    """What larger means."""
    known = point.metrics
    return (*(known[name] or 0 for name in SIZES), -(known["time"] or 0.0))


@dataclass(slots=True)
class _Search:
    base: Base
    axes: Sequence[Axis]
    device: str
    within: Budget
    progress: Advance
    grid: int
    tried: dict[tuple[int, ...], Point] = field(default_factory=dict)
    grows: list[bool] = field(default_factory=list)  # of each axis: whether size and cost grow with it

    def at(self, place: tuple[int, ...]) -> Point:
        """The point at a place of the grid, simulated once."""
        if place not in self.tried:
            from minimodels.sim.sweep.point import evaluate

            self.progress("variants", len(self.tried), self.grid)
            (self.tried[place],) = evaluate(self.base, self.axes_of(place), [self.device])
        return self.tried[place]

    def axes_of(self, place: tuple[int, ...]) -> Axes:
        return {axis.key: axis.values[index] for axis, index in zip(self.axes, place, strict=True)}

    def built(self, place: tuple[int, ...]) -> bool:
        """Whether there is such an architecture; nothing is simulated."""
        try:
            self.base.at(self.axes_of(place))
        except ValueError:
            return False
        return True

    def beyond(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        """Whether `one` costs at least what `other` does, on every axis."""
        return all(a >= b if grows else a == b for a, b, grows in zip(one, other, self.grows, strict=True))

    def known(self, place: tuple[int, ...]) -> bool | None:
        """Whether a place keeps the budget, as far as the points tried say."""
        for tried, point in self.tried.items():
            if point.status == "ok" and self.beyond(tried, place) and not self.within.broken(point):
                return True
            if point.status == "ok" and self.beyond(place, tried) and self.within.broken(point):
                return False
        return None

    def growing(self, number: int) -> bool:
        """Whether size and cost grow along an axis, from its ends where all other axes are at their first value."""
        values = self.axes[number].values
        if len(values) < 2 or not self.axes[number].numeric:
            return False
        line = [tuple(i if k == number else 0 for k in range(len(self.axes))) for i in range(len(values))]
        line = [place for place in line if self.built(place)]
        if len(line) < 2:
            return False
        low, high = self.at(line[0]), self.at(line[-1])
        if "failed" in (low.status, high.status):
            return False
        pairs = [[point.metrics[name] or 0 for point in (low, high)] for name in ("time", "peak_memory", *SIZES)]
        return all(a <= b for a, b in pairs) and rank(low)[:2] < rank(high)[:2]

    def halve(self, line: list[tuple[int, ...]]) -> None:
        """Try points of a line, whose cost grows, until the last that keeps the budget is among them."""
        low, high = -1, len(line)
        while high - low > 1:
            middle = high - 1 if low == -1 and high == len(line) else (low + high) // 2
            known = self.known(line[middle])
            if known is None and self.at(line[middle]).status == "failed":  # nobody's neighbour
                del line[middle]
                high -= 1
            elif known if known is not None else not self.within.broken(self.at(line[middle])):
                low = middle
            else:
                high = middle


def search(base: Base, axes: Sequence[Axis], device: str, within: Budget, progress: Advance = silent) -> Found:
    """The largest variant that keeps a budget.

    Raises:
        ValueError: there is no such axis, or no point can be built.
    """
    base.check(axes)
    axes = [Axis(axis.key, tuple(sorted(axis.values)) if axis.numeric else axis.values) for axis in axes]
    grid = len(list(points(axes)))
    seen = _Search(base, axes, device, within, progress, grid)
    seen.grows = [seen.growing(number) for number in range(len(axes))]
    for line in _lines(seen):
        seen.halve(line)
    tried = tuple(seen.tried.values())
    if all(point.status == "failed" for point in tried):
        raise ValueError(f"no variant could be built: {tried[0].error}" if tried else "no variant can be built")
    kept = [place for place, point in seen.tried.items() if point.status == "ok" and not within.broken(point)]
    best = max(kept, key=lambda place: rank(seen.tried[place]), default=None)
    beyond = () if best is None else tuple(_next(seen, best))
    return Found(None if best is None else seen.tried[best], beyond, tuple(seen.tried.values()), grid)


def _lines(seen: _Search) -> list[list[tuple[int, ...]]]:
    """The places of the grid that can be built, along the longest axis that grows; one by one where none does."""
    places = [tuple(place.values()) for place in points([Axis(a.key, tuple(range(len(a.values)))) for a in seen.axes])]
    places = [place for place in places if seen.built(place)]
    ordered = [number for number, grows in enumerate(seen.grows) if grows]
    if not ordered:
        return [[place] for place in places]
    along = max(ordered, key=lambda number: len(seen.axes[number].values))
    lines: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for place in places:
        lines.setdefault(place[:along] + place[along + 1 :], []).append(place)
    return list(lines.values())


def _next(seen: _Search, best: tuple[int, ...]) -> list[tuple[Axes, Point | None]]:
    """What lies one step beyond a place, along every axis that grows."""
    found: list[tuple[Axes, Point | None]] = []
    for number, grows in enumerate(seen.grows):
        place = (*best[:number], best[number] + 1, *best[number + 1 :])
        if grows and place[number] < len(seen.axes[number].values):
            found.append((seen.axes_of(place), seen.at(place) if seen.built(place) else None))
    return found
