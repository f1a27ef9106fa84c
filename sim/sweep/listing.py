"""What the terminal shows of a sweep: its points as a table, what failed, and the front between two metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from minimodels.sim import units
from minimodels.sim.cells import table_of
from minimodels.sim.sweep.ledger import Point
from minimodels.sim.sweep.metrics import TOTALS, metric

SHOWN = ("time", "flops", "peak_memory", "parameters")
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
        notes += _front(points, told, pareto)
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
    lines = [f"failed, {count:,} times: {error}" for error, count in counts.most_common(REASONS)]
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


def _front(points: Sequence[Point], told: dict[str, list[str]], pareto: tuple[str, str]) -> list[str]:
    lines = ["", f"Pareto front, {' and '.join(f'{name} ({direction(name)})' for name in pareto)}:"]
    for point in front(points, *pareto):
        index = points.index(point)
        place = ", ".join(f"{key} {texts[index]}" for key, texts in told.items()) or point.model
        values = ", ".join(metric(name).write(point.metrics.get(name)) for name in pareto)
        lines.append(f"  {values}: {place}")
    return lines


def direction(name: str) -> str:
    """Which way a metric is better."""
    return "more is better" if metric(name).more else "less is better"
