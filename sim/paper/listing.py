"""What `minibench paper` prints: the scoreboard, number by number of the study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from minimodels.sim.paper.result import by_kind
from minimodels.sim.paper.study import Setting

MARKS = {"yes": "yes", "no": "NO", "cannot be told": "-"}


def report(rows: Sequence[dict[str, str]], folder: Path) -> Group:
    """The numbers of the targets that were run, and how many hold."""
    told = [row for row in rows if row["target"]]
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("Target", no_wrap=True)
    table.add_column("Quantity, and where the study states it", overflow="fold", ratio=3)
    table.add_column("Published", overflow="fold", ratio=1)
    table.add_column("Ours, and by which reading", overflow="fold", ratio=3)
    table.add_column("Holds", no_wrap=True)
    for row in told:
        ours = f"{row['ours']} ({row['reading']})" if row["reading"] else row["ours"]
        ours += f"; {row['why']}" if row["why"] else ""
        table.add_row(row["target"], f"{row['quantity']}, {row['where']}", row["published"], ours, MARKS[row["holds"]])
    counts = Counter(row["holds"] for row in rows)
    kinds = "; ".join(f"{kind} {_counted(found)}" for kind, found in by_kind(rows).items())
    devices = sorted({row["device"] for row in told}) or ["no device"]
    kind = " and ".join("measured" if device == "cuda" else f"SIMULATED on {device}" for device in devices)
    line = (
        f"{kind}: of {len(rows)} rows on the study's numbers {counts['yes']} hold, {counts['no']} do not, "
        f"{counts['cannot be told']} are not told here."
    )
    split = Text(f"Rows that hold, do not, are not told, by kind of number: {kinds}.")
    return Group(
        table, Text(), Text(line), split, Text(f"report.html, pictures, tables and scoreboard.csv are in {folder}.")
    )


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(str(found[verdict]) for verdict in MARKS)


def changes(settings: Sequence[Setting], folder: Path) -> Group:
    """What was changed of the study's workloads, and what stays as it is."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("Workload", "Length", "As configured", "Here", "Why it stays"):
        table.add_column(name, overflow="fold")
    for one in settings:
        here = one.own if one.changed is None else one.changed
        table.add_row(one.workload, one.length.replace("_", " "), f"{one.own:,}", f"{here:,}", one.why)
    said = f"Not the study's settings, so nothing is scored. report.html, pictures and tables are in {folder}."
    return Group(table, Text(), Text(said))
