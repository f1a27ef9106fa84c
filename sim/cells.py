"""What tables for the terminal are made of: the table itself, and how the sums of a part are written in a row."""

from __future__ import annotations

from rich import box
from rich.table import Table

from minimodels.sim import units, views
from minimodels.sim.views import Totals


def table_of(first: str, *numbers: str) -> Table:
    """A table of one column of names and right-aligned columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    table.add_column(first, no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
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
