"""The accuracy report for the terminal and the docs: whole models row by row, kernels by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from minimodels.sim.validate import Group, Row, groups

WHOLE = ("prefill", "decode", "prefill+decode")


def report(rows: Sequence[Row]) -> Lines:
    """Every whole-model row with its error, kernel families by GPU, and what could not be predicted."""
    whole, kernels = _table("Model, phase, settings", "GPU"), _table("Kernel family", "GPU")
    for column in ("measured", "predicted", "error"):
        whole.add_column(column, justify="right")
    for column in ("rows", "median", "p90", "bias"):
        kernels.add_column(column, justify="right")
    for row in rows:
        if row.group in WHOLE and row.predicted is not None:
            whole.add_row(
                row.what, row.gpu, f"{row.measured:g} {row.unit}", f"{row.predicted:.4g}", f"{row.error:+.0%}"
            )
    for group in groups(row for row in rows if row.group not in WHOLE):
        numbers = (f"{group.median:.0%}", f"{group.p90:.0%}", f"{group.bias:+.0%}")
        kernels.add_row(
            group.family, group.gpu, f"{group.n}" if group.judged else f"{group.n}, too few to judge", *numbers
        )
    unpredicted = [row for row in rows if row.predicted is None]
    lines = [f"{len(rows) - len(unpredicted)} of {len(rows)} rows predicted; errors are of the prediction, simulated."]
    lines += [f"not predicted: {row.id}: {row.reason}" for row in unpredicted[:20]]
    if len(unpredicted) > 20:
        lines.append(f"and {len(unpredicted) - 20} more; --json lists them all")
    return Lines(whole, Text(), kernels, Text(), Text("\n".join(lines)))


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """{"groups": [{family, gpu, n, median, p90, bias}], "unpredicted": [{id, reason}]}."""
    return {
        "groups": [_group(group) for group in groups(rows)],
        "unpredicted": [{"id": row.id, "reason": row.reason} for row in rows if row.predicted is None],
    }


def _group(group: Group) -> dict[str, Any]:
    return {name: getattr(group, name) for name in ("family", "gpu", "n", "median", "p90", "bias")}


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table
