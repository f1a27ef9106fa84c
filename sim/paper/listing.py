"""What `minibench paper` prints: the scoreboard, number by number of the study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

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
    holds = sum(row["holds"] == "yes" for row in told)
    fails = sum(row["holds"] == "no" for row in told)
    devices = ", ".join(sorted({row["device"] for row in told})) or "no device"
    kind = "measured" if devices == "cuda" else f"SIMULATED on {devices}"
    line = (
        f"{kind}: {holds} of the study's numbers hold, {fails} do not, {len(rows) - holds - fails} are not told here."
    )
    return Group(table, Text(), Text(line), Text(f"Pictures, tables and scoreboard.csv are in {folder}."))
