"""What the terminal shows of a sweep: its points as a table, what failed, and the front between two metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from minimodels.sim import units
from minimodels.sim.cells import table_of
from minimodels.sim.memory import RESERVE
from minimodels.sim.sweep.budget import Budget, Found, needs
from minimodels.sim.sweep.grid import Axes
from minimodels.sim.sweep.ledger import Point, record
from minimodels.sim.sweep.metrics import TOTALS, metric

SHOWN = ("time", "flops", "peak_memory", "parameters")
APART = ("device", "model")  # between which no point beats another
ROWS = 60  # of a table; a file has them all
REASONS = 5  # why points failed, that are told


def spread(points: Sequence[Point]) -> dict[str, list[str]]:
    """What tells points apart: for each axis that varies, and for the device and the model, its value at each point."""
    keys = dict.fromkeys(key for point in points for key in point.axes)
    told = {key: [written(point.axes[key]) if key in point.axes else "-" for point in points] for key in keys}
    told["device"] = [point.device for point in points]
    names = {point.base: point.model for point in points}
    equal = Counter(names.values())
    told["model"] = [p.model if equal[p.model] == 1 else f"{p.model} {p.base[:4]}" for p in points]
    return {key: texts for key, texts in told.items() if len(set(texts)) > 1}


def written(value: object) -> str:
    """A value of an axis on one line."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else units.printable(value)


def report(points: Sequence[Point], title: str, pareto: tuple[str, str] | None = None) -> Group:
    """All that `minibench sweep` prints."""
    failed = [point for point in points if point.status == "failed"]
    places = {point.device for point in points}
    where = f" on {next(iter(places))}" if len(places) == 1 else ""
    head = f"{title}: {len(points):,} points, SIMULATED{where}" + (f"; {len(failed):,} failed" if failed else "")
    told = spread(points)
    table = table_of(next(iter(told), "point"), *list(told)[1:], *(TOTALS[name].title for name in SHOWN), "fits")
    for index, point in enumerate(points[:ROWS]):
        place = [texts[index] for texts in told.values()] or ["1"]
        table.add_row(*place, *_cells(point))
    notes = [f"{len(points) - ROWS:,} more points are not shown."] if len(points) > ROWS else []
    notes += _reasons(failed)
    if pareto:
        notes += [*([""] if notes else []), *front_lines(points, pareto)]
    return Group(Text(head), Text(), table, *([Text(), Text("\n".join(notes))] if notes else []))


def _cells(point: Point) -> list[str]:
    if point.status == "failed":
        return ["failed", *["-"] * len(SHOWN)]
    fits = point.metrics.get("fits")
    return [
        *(TOTALS[name].write(point.metrics.get(name)) for name in SHOWN),
        units.UNKNOWN if fits is None else "yes" if fits else "no",
    ]


def _reasons(failed: Sequence[Point]) -> list[str]:
    """Why points failed, the commonest first."""
    counts = Counter(units.printable(point.error) for point in failed)
    lines = [f"failed ({count:,}): {error}" for error, count in counts.most_common(REASONS)]
    return lines + ([f"and {len(counts) - REASONS} reasons more"] if len(counts) > REASONS else [])


def front(points: Sequence[Point], first: str, second: str) -> list[Point]:
    """The points that no other one beats in both metrics, by the first metric; those without either are left out.

    Raises:
        ValueError: there is no such metric.
    """
    signs = [-1 if metric(name).more else 1 for name in (first, second)]
    known = [(point, [point.metrics.get(name) for name in (first, second)]) for point in points]
    rated = [
        (sign_first * one, sign_second * two, point)
        for point, (one, two) in known
        if one is not None and two is not None
        for sign_first, sign_second in [signs]
    ]
    best, found = float("inf"), list[Point]()
    for _, cost, point in sorted(rated, key=lambda row: row[:2]):
        if cost < best:
            best = cost
            found.append(point)
    return found


def contests(
    points: Sequence[Point], told: dict[str, list[str]], first: str, second: str
) -> dict[tuple[str, ...], list[Point]]:
    """The points that have both metrics, those of each device and model apart, which do not beat each other's."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for index, point in enumerate(points):
        if point.status == "ok" and None not in (point.metrics.get(first), point.metrics.get(second)):
            groups.setdefault(tuple(told[key][index] for key in APART if key in told), []).append(point)
    return groups


def front_lines(points: Sequence[Point], pareto: tuple[str, str]) -> list[str]:
    """The fronts of two metrics, one of each device and model, a line a point."""
    told = spread(points)
    named, lines = " and ".join(f"{name} ({direction(name)})" for name in pareto), list[str]()
    for where, members in contests(points, told, *pareto).items():
        lines.append(f"Pareto front{' on ' if where else ''}{', '.join(where)}, {named}:")
        for point in front(members, *pareto):
            index = points.index(point)
            place = ", ".join(f"{key} {texts[index]}" for key, texts in told.items() if key not in APART)
            values = ", ".join(metric(name).write(point.metrics.get(name)) for name in pareto)
            lines.append(f"  {values}: {place or point.model}")
    return lines


def direction(name: str) -> str:
    """Which way a metric is better."""
    return "more is better" if metric(name).more else "less is better"


def fitted(found: Found, within: Budget, title: str, device: str) -> Group:
    """All that `minibench fit` prints: the largest variant in a budget, how near it is, and what stops a larger one."""
    room = f"{units.size(within.memory)}, {units.size(RESERVE)} of it kept for context and libraries"
    time = "any time" if within.seconds is None else units.seconds(within.seconds)
    head = f"{title} on {device}, SIMULATED: at most {time} and {room}"
    counted = f"{len(found.tried):,} of {found.grid:,} variants were simulated."
    if found.best is None:
        ok = [point for point in found.tried if point.status == "ok"]
        least = min(ok, key=lambda point: (len(within.broken(point)), point.metrics["time"] or 0.0))
        said = f"Nothing fits. {_named(least.axes)} comes near: {_takes(least)}."
        return Group(Text(f"{head}\n\n{said}\n{counted}"))
    table = table_of("Largest that fits", "Value", "Budget", "Left")
    for key, value in found.best.axes.items():
        table.add_row(key, written(value), "", "")
    table.add_section()
    for name, value, most, write in _against(found.best, within):
        left = "" if most is None else units.percent(1 - value / most)
        table.add_row(name, write(value), "" if most is None else write(most), left)
    notes = [*_bounds(found, within), counted]
    return Group(Text(head), Text(), table, Text(), Text("\n".join(notes)))


def _against(point: Point, within: Budget) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, value, budget and way of writing of what a variant has."""
    yield "parameters", point.metrics["parameters"], None, units.params
    yield "FLOPs", point.metrics["flops"], None, units.flops
    yield "time", point.metrics["time"], within.seconds, units.seconds
    yield "memory", needs(point), within.memory, units.size


def _bounds(found: Found, within: Budget) -> Iterator[str]:
    """Why no larger variant fits, axis by axis."""
    assert found.best is not None
    known: list[str] = []
    for axes, point in found.beyond:
        (key,) = (key for key, value in axes.items() if value != found.best.axes[key])
        known.append(key)
        step = f"{key} {written(axes[key])}"
        if point is None or point.status == "failed":
            yield f"Bound by the architecture: {step} cannot be built."
        elif broken := within.broken(point):
            yield f"Bound by {' and '.join(broken)}: {step} needs {_takes(point)}."
        else:
            yield f"{step} fits too, but is not larger: {_takes(point)}."
    for key in (key for key in found.best.axes if key not in known):
        yield f"Bound by the axis: no further value of {key} was given, or cost does not grow along it."


def _takes(point: Point) -> str:
    return f"{units.seconds(point.metrics['time'])} and {units.size(needs(point))}"


def _named(axes: Axes) -> str:
    return ", ".join(f"{key} {written(value)}" for key, value in axes.items())


def fit_json(found: Found, within: Budget) -> dict[str, Any]:
    """The same as a record; null where there is none."""
    return {
        "budget": {"seconds": within.seconds, "memory": within.memory},
        "best": None if found.best is None else record(found.best) | {"needs": needs(found.best)},
        "beyond": [
            {"axes": axes, "point": None if point is None else record(point),
             "broken": within.broken(point) if point is not None and point.status == "ok" else None}
            for axes, point in found.beyond
        ],
        "tried": [record(point) for point in found.tried],
        "grid": found.grid,
    }  # fmt: skip
