"""Figures of the study: panels under each other, one look for all."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import cos, hypot, radians, sin
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#BBBBBB")  # Okabe and Ito


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes."""

    title: str
    x: str = ""
    y: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: what it says, in small what it is held against, and whether the two differ."""

    text: str
    beside: str = ""
    marked: bool = False


def figure(*panels: Panel, height: float = 4.0, columns: int = 1, above: str = "") -> tuple[Figure, Sequence[Axes]]:
    """A figure and its axes, row by row; height: inches of a row; above: what is said of all panels."""
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    made = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    grid = made.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes, panel in zip(grid, panels, strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=panel.x, ylabel=panel.y)
        axes.set_title(panel.title, fontsize=10)
    for axes in grid[len(panels) :]:
        axes.remove()
    if above:
        made.suptitle(above, fontsize=10)
    return made, grid[: len(panels)]


def log_axes(axes: Axes, x: bool = True, y: bool = True) -> None:
    """Logarithmic axes with plain numbers at 1, 2 and 5 of every decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if x:
        axes.set_xscale("log")
    if y:
        axes.set_yscale("log")
    for axis, wanted in ((axes.xaxis, x), (axes.yaxis, y)):
        if wanted:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axis.set_minor_formatter(NullFormatter())


def name_points(
    axes: Axes, points: Mapping[str, tuple[float, float]], avoid: Sequence[tuple[float, float]] = (), size: float = 8
) -> None:
    """Names beside their points, clear of points and of each other where there is room; far ones are joined by a line.

    avoid: further points, better left free. Axes must have their scales; their limits stay as they are from here on.
    """
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    made = axes.get_figure(root=True)
    assert made is not None
    room = 0.86 * WIDTH, 0.78 * made.get_size_inches()[1] / len(made.get_axes())  # inches that the axes will have
    to_share = axes.transScale + axes.transLimits
    at = {name: to_share.transform(point) * room for name, point in points.items()}
    fixed = [(2.0, *_around(*at[name])) for name in at]
    fixed += [(0.4, *_around(*to_share.transform(point) * room, reach=0.04)) for point in avoid]
    spots = _spots(at, size, room, fixed)
    line: dict[str, Any] = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    for name in points:
        dx, dy = spots[name]
        side = "left" if dx > 0.01 else "right" if dx < -0.01 else "center"
        look: dict[str, Any] = {"ha": side, "va": "center", "fontsize": size, "zorder": 5}
        ends = {"relpos": ({"left": 0.0, "right": 1.0, "center": 0.5}[side], 0.5)}  # where the line meets the name
        joined = line | ends if hypot(dx, dy) > 0.18 else None
        axes.annotate(name, points[name], (72 * dx, 72 * dy), textcoords="offset points", arrowprops=joined, **look)


def _spots(
    at: Mapping[str, Any], size: float, room: tuple[float, float], fixed: Sequence[Taken]
) -> dict[str, tuple[float, float]]:
    """How far each name goes from its point: of several orders of placing them the one in which all cost least."""
    names = list(at)
    orders = [names[start:] + names[:start] for start in range(0, len(names), -(-len(names) // ORDERS))]
    return min((_placed(order, at, size, room, fixed) for order in orders), key=lambda placed: placed[0])[1]


def _placed(
    order: Sequence[str], at: Mapping[str, Any], size: float, room: tuple[float, float], fixed: Sequence[Taken]
) -> tuple[float, dict[str, tuple[float, float]]]:
    """The names placed in an order, then each again in view of all others; what that costs in all."""
    own: dict[str, list[Taken]] = {}
    costs: dict[str, float] = {}
    found: dict[str, tuple[float, float]] = {}
    for _, name in product(range(ROUNDS), order):
        x, y = at[name]
        taken = [*fixed, *(item for other, items in own.items() if other != name for item in items)]
        costs[name], dx, dy, box = _spot(x, y, 0.0078 * size * len(name), 0.0165 * size, room, taken)
        own[name] = [(2.0, *box), *((1.0, *_around(x + share * dx, y + share * dy, 0.02)) for share in WAY)]
        found[name] = dx, dy
    return sum(costs.values()), found


ROUNDS, ORDERS = 3, 5  # of placing names
WAY = tuple(step / 16 for step in range(1, 16))  # shares of the way from a point to its name
Box = tuple[float, float, float, float]  # left, bottom, right, top, in inches
Taken = tuple[float, float, float, float, float]  # what it costs to cover a box, and the box


def _around(x: float, y: float, reach: float = 0.06) -> Box:
    return x - reach, y - reach, x + reach, y + reach


def _spot(
    x: float, y: float, wide: float, high: float, room: tuple[float, float], taken: Sequence[Taken]
) -> tuple[float, float, float, Box]:
    """What a text costs, how far from (x, y) it goes, and the box it takes: where distance and what it covers cost
    least.

    taken: what covering a box costs, and the box; room: of the axes, in inches.
    """
    import numpy as np

    costs, *sides = np.array(taken).T
    left, bottom, right, top = sides
    others = np.where((left < x) & (x < right) & (bottom < y) & (y < top), 0.0, costs / 2)
    ways = np.array(WAY)[:, None]
    found: list[tuple[float, float, float, Box]] = []
    for distance, angle in product((0.11, 0.2, 0.32, 0.46, 0.62), range(0, 360, 15)):
        dx, dy = distance * cos(radians(angle)), distance * sin(radians(angle))
        start = x + dx - (0 if dx > 0.01 else wide if dx < -0.01 else wide / 2)
        box = start, y + dy - high / 2, start + wide, y + dy + high / 2
        covered = (left < box[2]) & (box[0] < right) & (bottom < box[3]) & (box[1] < top)
        across, along = x + ways * dx, y + ways * dy
        crossed = ((left < across) & (across < right) & (bottom < along) & (along < top)).any(axis=0)
        cost = distance + 0.1 * abs(sin(radians(angle))) + float(costs[covered].sum() + others[crossed].sum())
        if box[0] < 0 or box[1] < 0 or box[2] > room[0] or box[3] > room[1]:
            cost += 5
        found.append((cost, dx, dy, box))
    return min(found)


def dots(axes: Axes, rows: Mapping[str, Mapping[str, float]], looks: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for every row, from the top, with a mark for each of its values; looks: of the kinds of values."""
    names = list(rows)
    for place, name in enumerate(names):
        axes.axhline(place, color="#E5E5E5", linewidth=0.8, zorder=0)
        for kind, value in rows[name].items():
            axes.plot([value], [place], linestyle="", **looks[kind])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -1.1)
    axes.tick_params(axis="y", length=0)


def cells(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], notes: Sequence[str]) -> Figure:
    """A table with a line of text for its title and lines of notes under it; marked cells are shaded and say so."""
    from matplotlib.figure import Figure

    texts = [line for note in notes for line in textwrap.wrap(note, 165, subsequent_indent="  ")]
    height, small = 0.36 * (len(rows) + 1), 0.16 * len(texts)
    whole = height + small + 0.6
    made = Figure(figsize=(WIDTH, whole))
    axes = made.add_axes((0.01, (small + 0.15) / whole, 0.98, height / whole))
    axes.set(xlim=(0, len(header) - 0.14), ylim=(len(rows) + 1, 0))
    axes.axis("off")
    for row, line in enumerate([[Cell(name) for name in header], *rows]):
        for column, cell in enumerate(line):
            left = column - 0.14 if column else 0.0
            if cell.marked:
                axes.fill_between([left, left + 0.97], row + 0.04, row + 0.96, color="#F6CDB0", linewidth=0)
            look: dict[str, Any] = {"va": "center", "fontweight": "bold" if not (row and column) else "normal"}
            axes.text(left + 0.04, row + (0.32 if cell.beside else 0.5), cell.text, fontsize=8, **look)
            beside = f"\N{NOT EQUAL TO} {cell.beside}" if cell.marked else cell.beside
            axes.text(
                left + 0.04, row + 0.72, beside, fontsize=6.5, color="black" if cell.marked else "#555555", va="center"
            )
        axes.axhline(row + 1, color="black" if not row else "#DDDDDD", linewidth=0.8)
    made.text(0.015, 1 - 0.25 / whole, title, fontsize=10, va="center")
    made.text(0.015, (small + 0.08) / whole, "\n".join(texts), fontsize=6.5, va="top", linespacing=1.35)
    return made
