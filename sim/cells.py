"""What tables for the terminal are made of: the table itself, and how the sums of a part are written in a row."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

from minimodels.sim import units, views
from minimodels.sim.views import Totals

EDGE = 2  # columns that rich keeps for the padding at the edges
NAMES = (12, 4)  # characters that names keep: before numbers are folded, and after


class Rows(Table):
    """A table that narrows without cropping: gaps, then names are folded, then numbers, at their spaces."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sizes = [
            [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
            for column in self.columns
        ]
        whole = [max(size.maximum for size in column) for column in sizes]
        words = [max(size.minimum for size in column) for column in sizes]
        gaps = len(self.columns) - 1
        self.collapse_padding = sum(whole) + 3 * gaps + EDGE > options.max_width
        widths, room = whole, options.max_width - 2 * gaps - EDGE
        for name, numbers in ((NAMES[0], whole), (NAMES[0], words), (NAMES[1], words)):
            kept = [n if c.justify == "right" else name for c, n in zip(self.columns, numbers, strict=True)]
            widths = _narrowed(widths, kept, room)
        for column, width in zip(self.columns, widths, strict=True):
            column.width = width
        yield from super().__rich_console__(console, options)


def _narrowed(widths: Sequence[int], kept: Sequence[int], room: int) -> list[int]:
    """Widths that together take `room`, the widest giving first, none going below what it keeps."""
    result = list(widths)
    while sum(result) > room:
        wide = [index for index, width in enumerate(result) if width > kept[index]]
        if not wide:
            break
        result[max(wide, key=lambda index: result[index])] -= 1
    return result


def table_of(first: str, *numbers: str) -> Rows:
    """A table of one column of names and right-aligned columns of numbers."""
    table = Rows(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    table.add_column(first, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", overflow="fold")
    return table


def at_least(known: str, complete: bool) -> str:
    """A sum as it is written: "≥" where something in it is unknown."""
    return known if complete else f"≥ {known}"


def cells(part: Totals, whole: Totals) -> list[str]:
    """Time, share, FLOPs, bytes and arithmetic intensity of a part; lower bounds where something is unknown."""
    return [
        at_least(units.seconds(part.known_seconds), part.seconds is not None),
        share(part, whole),
        at_least(units.flops(part.known_flops), part.flops is not None),
        units.size(part.bytes),
        "-" if part.intensity is None else units.digits(part.intensity),
    ]


def share(part: Totals, whole: Totals) -> str:
    """The share of the time, "-" where it is unknown."""
    fraction = views.share(part, whole)
    return "-" if fraction is None else units.percent(fraction)
