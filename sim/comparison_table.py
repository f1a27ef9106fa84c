"""What `minibench compare` prints: what differs, then the sums side by side, with ratios to the first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from minimodels.sim import units
from minimodels.sim.cells import at_least, table_of
from minimodels.sim.comparison import Comparison, Difference, Row
from minimodels.sim.sentences import sentences
from minimodels.sim.tables import MOVEMENT, fit, warnings

WRITE: dict[str, Callable[[Any], str]] = {
    "Parameters": units.params,
    "Time": units.seconds,
    "FLOPs": units.flops,
    "Bytes": units.size,
    "Memory in use": units.size,
}
RATIOS = "Ratios are to A; categories are the operators' own (core). Biggest change first."
SMALL = 0.001  # of the change of the whole: contributors below are left out of the split by stage and category
ROUNDING = 1e-9  # of a value: sums of floats in another order differ by less
MANY = 40  # differences that are listed


def report(found: Comparison) -> Group:
    """Two or more variants: what each is, what differs, what bounds each, then sums, the biggest change first."""
    letters = [chr(ord("A") + i) if i < 26 else f"P{i + 1}" for i in range(len(found.names))]
    columns = list(zip(letters, found.names, found.profiles, strict=True))
    legend = [f"{letter}  {name}: {fit(profile)}" for letter, name, profile in columns]
    legend += [f"{letter}  {line}" for letter, _, profile in columns for line in warnings(profile)]
    legend += ["", *_different(found.differences)]
    legend += [f"{letter}: {' '.join(sentences(profile))}" for letter, _, profile in columns]
    legend += ["", RATIOS, MOVEMENT]
    two = len(letters) == 2
    table = table_of("", *letters, *(["B - A"] if two else []))
    for title, rows in sections(found):
        _section(table, title, rows, two)
    return Group(Text("\n".join(legend)), Text(), table)


def _different(differences: tuple[Difference, ...]) -> Iterator[str]:
    """A line for every key that differs: its value in A, then in each other."""
    if not differences:
        yield "Nothing differs in the architecture or the run."
    for one in differences[:MANY]:
        label = f"{one.where}: " if one.where == "run" else ""
        yield f"  {label}{one.key}: {' -> '.join(map(written, one.values))}"
    if len(differences) > MANY:
        yield f"  and {len(differences) - MANY} keys more; --json lists all"
    yield ""


def written(value: Any) -> str:
    """A value of a config in words."""
    if value is None:
        return "none"
    return units.printable(value if isinstance(value, str) else json.dumps(value))


def sections(found: Comparison) -> Iterator[tuple[str, list[Row]]]:
    """The tables of a comparison: title, and the rows worth a line."""
    for (quantity, of), rows in groupby(found.rows, key=lambda row: (row.quantity, row.of)):
        shown = list(_contributors(list(rows)))
        if shown:
            yield f"{quantity} by {of}" if of else quantity, shown


def cells(row: Row) -> list[tuple[str, str]]:
    """Of each variant the sum as it is written, and its ratio to the first; that of the first is empty."""
    write, (first, *_), found = WRITE[row.quantity], row.values, []
    for value, whole in zip(row.values, row.complete, strict=True):
        ratio = units.times(value / first) if value is not None and whole and row.complete[0] and first else "-"
        found.append(("-" if value is None else at_least(write(value), whole), ratio if value is not None else ""))
    return [(found[0][0], ""), *found[1:]]


def _contributors(rows: list[Row]) -> Iterator[Row]:
    """Rows worth a line: of the split by stage and category only those that change something."""
    whole = sum(row.change for row in rows)
    for row in rows:
        if row.of != "stage and category" or row.change > SMALL * whole:
            yield row


def _section(table: Table, title: str, rows: list[Row], two: bool) -> None:
    table.add_section()
    table.add_row(Text(title, style="bold"))
    for row in rows:
        between = " " if len(row.values) <= 3 else "\n"
        texts = [f"{text}{between}{ratio:>6}" if ratio else text for text, ratio in cells(row)]
        table.add_row(row.name, *texts, *([_change(row, WRITE[row.quantity])] if two else []))


def _change(row: Row, write: Callable[[Any], str]) -> str:
    """What B has more than A, with its sign."""
    if not all(row.complete):
        return "-"
    change = (row.values[1] or 0) - (row.values[0] or 0)
    if abs(change) <= ROUNDING * abs(row.values[0] or 0):
        return "0"
    return f"{'+' if change > 0 else '-'}{write(abs(change))}"
