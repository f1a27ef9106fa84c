"""Figures of the study: panels under each other, one look for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def figure(*panels: Panel, height: float = 4.0, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """A figure and its axes, row by row; height: inches of a row."""
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
            axis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value:,.3g}" if value < 1e4 else f"{value:,.0f}")
            )
            axis.set_minor_formatter(NullFormatter())
