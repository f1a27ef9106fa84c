"""Pictures of a sweep: a metric over an axis, a line for every combination of the others; and the Pareto front.

Colours are those of Okabe and Ito, which everyone can tell apart; where lines differ in one thing only, dashes and
markers tell them apart too. What does not fit its device's memory is hollow; what failed is not drawn, and the picture
says so.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minimodels.sim import units
from minimodels.sim.figures import WIDTH, legend, new_figure, plain
from minimodels.sim.sweep.ledger import Point
from minimodels.sim.sweep.listing import APART, contests, direction, front, spread, written
from minimodels.sim.sweep.metrics import Metric, metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito, without yellow
DASHES = ("-", "--", ":", "-.")
MARKERS = "os^Dvp*"
LOG = 30  # ratio of the largest to the smallest value from which on an axis is logarithmic
SELF_NAMED = ("device", "model", "attention")  # whose values say what they are
NAMED = 12  # points of a front that are named


def over(points: Sequence[Point], name: str, x: str) -> Figure:
    """Metric `name` over axis `x`.

    Raises:
        ValueError: there is no such metric or axis, nothing to draw, or more lines than can be told apart.
    """
    what, told = metric(name), spread(points)
    known = list(dict.fromkeys(key for point in points for key in point.axes))
    if x not in known:
        raise ValueError(f"--x {x}: the sweep has no such axis; it has {', '.join(known)}")
    others = [key for key in told if key != x]
    lines: dict[tuple[str, ...], list[tuple[Any, Point]]] = {}
    for index, point in enumerate(points):
        if point.status == "ok" and point.metrics.get(name, 0.0) is not None and x in point.axes:
            lines.setdefault(tuple(told[key][index] for key in others), []).append((point.axes[x], point))
    looks, handles = _looks(list(lines), others, name)
    figure, (axes,) = new_figure(4.6)
    values = [value for line in lines.values() for value, _ in line]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = {} if numeric else {written(v): i for i, v in enumerate(dict.fromkeys(map(written, values)))}
    factor = _scale(axes, what, points, name)
    for label, line in lines.items():
        spots = [(value if numeric else places[written(value)], point) for value, point in line]
        spots.sort(key=lambda spot: spot[0])
        ys = [(point.metrics.get(name) or 0.0) / factor for _, point in spots]
        axes.plot([place for place, _ in spots], ys, **looks[label])
        _hollow(axes, [(place, y, point) for (place, point), y in zip(spots, ys, strict=True)], looks[label])
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    if not numeric:
        axes.set_xticks(list(places.values()), [plain(text) for text in places])
    elif len(ticks := sorted(set(values))) <= 10:
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel(plain(x))
    _finish(figure, axes, points, f"{what.title} over {x}", handles)
    return figure


def pareto(points: Sequence[Point], first: str, second: str) -> Figure:
    """Two metrics of all points, and for each device and model the front of those that no other beats in both.

    Raises:
        ValueError: there is no such metric, or nothing to draw.
    """
    told = spread(points)
    groups, keys = contests(points, told, first, second), [key for key in APART if key in told]
    looks, handles = _looks(list(groups), keys, f"{first} and {second}")
    figure, (axes,) = new_figure(5.2)
    scale = _scale(axes, metric(first), points, first, "x"), _scale(axes, metric(second), points, second)
    axes.margins(0.12)  # room for what stands beside the outermost points
    for group, members in groups.items():
        look = looks[group]
        spots = [tuple((p.metrics[n] or 0.0) / f for n, f in zip((first, second), scale, strict=True)) for p in members]
        best = front(members, first, second)
        beaten: dict[str, Any] = look | {"ls": "", "alpha": 0.35}
        axes.plot(*zip(*spots, strict=True), **beaten)
        ends = [spots[members.index(point)] for point in best]
        axes.plot(*zip(*ends, strict=True), **look)
        _hollow(axes, [(x, y, point) for (x, y), point in zip(spots, members, strict=True)], look)
        for (x, y), point in list(zip(ends, best, strict=True))[:: math.ceil(len(best) / NAMED)]:
            index = points.index(point)
            text = plain(", ".join(told[key][index] for key in told if key not in keys))
            below = (6, -9 * (1 + list(groups).index(group)))
            axes.annotate(text, (x, y), below, textcoords="offset points", fontsize=7, color=look["color"])
    ways = [f"{metric(name).title} ({direction(name)})" for name in (first, second)]
    _finish(figure, axes, points, f"Pareto front: {' and '.join(ways)}", handles)
    return figure


Looks = dict[tuple[str, ...], dict[str, Any]]
"""How lines are drawn, by the values that tell them apart."""


def _looks(lines: Sequence[tuple[str, ...]], keys: Sequence[str], name: str) -> tuple[Looks, list[Any]]:
    """A look for each line, and the legend: colour for the key of most values, then dashes, then markers.

    A single key has all three, so that nothing is told by colour alone; what is beyond the third key shares its marker.
    """
    from matplotlib.lines import Line2D

    if not lines:
        raise ValueError(f"nothing to draw: no point has a value of {name}")
    order = sorted(range(len(keys)), key=lambda k: -len({line[k] for line in lines}))
    parts = [order[:1], order[1:2], order[2:]]
    told = [list(dict.fromkeys(tuple(line[k] for k in part) for line in lines)) for part in parts]
    for values, most, part in zip(told, (len(COLOURS), len(DASHES), len(MARKERS)), parts, strict=True):
        if len(values) > most:
            what = " and ".join(keys[k] for k in part)
            raise ValueError(f"{len(values)} values of {what} cannot be told apart in one picture; at most {most}")
    looks: Looks = {}
    for line in lines:
        places = [values.index(tuple(line[k] for k in part)) for values, part in zip(told, parts, strict=True)]
        colour, dash, marker = places if len(keys) > 1 else (places[0], places[0] % len(DASHES), places[0])
        looks[line] = {"color": COLOURS[colour], "ls": DASHES[dash], "marker": MARKERS[marker], "lw": 1.6, "ms": 5}
    if len(keys) < 2:
        return looks, [Line2D([], [], label=_label(keys, line), **look) for line, look in looks.items() if keys]
    styles = [[{"color": c, "lw": 3} for c in COLOURS], [{"color": "black", "ls": d} for d in DASHES],
              [{"color": "black", "ls": "", "marker": m} for m in MARKERS]]  # fmt: skip
    return looks, [
        Line2D([], [], label=_label([keys[k] for k in part], value), **style)
        for part, values, kind in zip(parts, told, styles, strict=True)
        for value, style in zip(values, kind, strict=False)
        if part
    ]


def _label(keys: Sequence[str], values: Sequence[str]) -> str:
    named = zip(keys, values, strict=True)
    return plain(", ".join(text if key in SELF_NAMED else f"{key} {text}" for key, text in named))


def _scale(axes: Axes, what: Metric, points: Sequence[Point], name: str, side: str = "y") -> float:
    """Label an axis of a metric and make it logarithmic where values are far apart; what to divide them by."""
    values = [abs(value) for point in points if (value := point.metrics.get(name)) is not None]
    most, least = max(values, default=0.0), min((value for value in values if value), default=0.0)
    if what.unit == "1":
        factor, unit = 0.01, "%"
    else:
        factor, prefix = units.scale(most, highest=0 if what.unit == "s" else 8)
        unit = f"{prefix}{what.unit}" if what.unit else {"G": "billions", "M": "millions", "k": "thousands"}.get(prefix)
    label = f"{what.title} ({unit})" if unit else what.title
    if most > LOG * least > 0:
        axes.set(**{f"{side}scale": "log"})
        getattr(axes, f"{side}axis").set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set(**{f"{side}label": label})
    return factor


def _hollow(axes: Axes, spots: Sequence[tuple[float, float, Point]], look: dict[str, Any]) -> None:
    """Whiten the markers of what does not fit its device."""
    empty = [(x, y) for x, y, point in spots if point.metrics.get("fits") is False]
    if empty:
        colour, marker, size = look["color"], look["marker"], look["ms"]
        axes.plot(*zip(*empty, strict=True), ls="", marker=marker, ms=size, mfc="white", mec=colour, zorder=3)


def _finish(figure: Figure, axes: Axes, points: Sequence[Point], title: str, handles: list[Any]) -> None:
    from matplotlib.lines import Line2D

    models, devices = ({getattr(point, what) for point in points} for what in ("model", "device"))
    shared = [*models] if len(models) == 1 else []
    shared += [f"simulated on {one}" for one in devices] if len(devices) == 1 else ["simulated"]
    failed = sum(point.status == "failed" for point in points)
    shared += [f"{failed} of {len(points)} points failed and are not drawn"] if failed else []
    axes.set_title(textwrap.fill(plain(f"{title}; {', '.join(shared)}"), WIDTH), fontsize=10)
    if any(point.metrics.get("fits") is False for point in points):
        handles.append(Line2D([], [], ls="", marker="o", mfc="white", mec="black", label="does not fit the memory"))
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        legend(figure, handles, columns=max(1, min(4, WIDTH // (longest + 6))))
