"""The accuracy report for the terminal and the docs.

Whole models and the kernels of a second GPU stand row by row, all else in groups by family and GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from minimodels.sim.validate import GPUS, WHOLE_MODELS, Group, Row, groups, lengths

LISTED = "NVIDIA H100-80GB-SXM"  # not the GPU of the whole-model rows: its kernels show whether the model carries over
CLOSE = 0.2  # of the measurement
BIAS = "Bias is in time, a rate being the time it stands for: above 0 is predicted too slow."


def report(rows: Sequence[Row]) -> Lines:
    """Whole models one by one, kernels by family and GPU, those of `LISTED` one by one, and what has no prediction."""
    whole = [row for row in rows if row.group == WHOLE_MODELS and row.error is not None]
    listed = [row for row in rows if row.group != WHOLE_MODELS and row.gpu == LISTED and row.error is not None]
    parts: list[RenderableType] = [_whole(whole), _groups(rows), _kernels(listed)]
    if listed:
        close = sum(abs(row.error or 0) <= CLOSE for row in listed)
        parts.append(Text(f"{close} of {len(listed)} kernels on {LISTED} are within {CLOSE:.0%}."))
    unpredicted = [row for row in rows if row.predicted is None]
    lines = [
        f"{len(rows) - len(unpredicted)} of {len(rows)} rows predicted; errors are of the prediction, simulated.",
        BIAS,
    ]
    lines += [f"not predicted: {row.id}: {row.reason}" for row in unpredicted[:20]]
    if len(unpredicted) > 20:
        lines.append(f"and {len(unpredicted) - 20} more; --json lists them all")
    return Lines(*(piece for part in parts for piece in (part, Text())), Text("\n".join(lines)))


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """{"groups": [{family, gpu, n, median, p90, bias}], "rows": [{id, ..., error}], "unpredicted": [{id, reason}]}."""
    names = ("id", "model", "phase", "gpu", "dtype", "batch", "settings", "measured", "predicted", "unit", "error")
    return {
        "groups": [_group(group) for group in groups(rows)],
        "rows": [{name: getattr(row, name) for name in names} for row in rows if row.predicted is not None],
        "unpredicted": [{"id": row.id, "reason": row.reason} for row in rows if row.predicted is None],
    }


def _group(group: Group) -> dict[str, Any]:
    return {name: getattr(group, name) for name in ("family", "gpu", "n", "median", "p90", "bias")}


def _whole(rows: Iterable[Row]) -> Table:
    """Whole models row by row, under a heading per model, dtype and GPU."""
    table = _table("Whole model", "tokens", "batch", "measured", "predicted", "error")
    for heading, members in groupby(rows, lambda row: f"{row.model}, {row.dtype}, {GPUS[row.gpu]}"):
        table.add_section()
        table.add_row(Text(heading, style="bold"))
        for row in members:
            tokens = " + ".join(map(str, lengths(row)))
            table.add_row(f"  {row.id} {row.phase}", tokens, str(row.batch), *_numbers(row))
    return table


def _groups(rows: Sequence[Row]) -> Table:
    """Errors by family and GPU."""
    table = _table("Group", "rows", "median", "p90", "bias")
    table.columns[1].justify = "left"
    for group in groups(rows):
        table.add_row(
            f"{group.family}, {group.gpu}",
            f"{group.n}" if group.judged else f"{group.n}, too few to judge",
            *(f"{group.median:.0%}", f"{group.p90:.0%}", f"{group.bias:+.0%}"),
        )
    return table


def _kernels(rows: Iterable[Row]) -> Table:
    """Single kernels row by row, under a heading per GPU."""
    table = _table("Kernel", "tokens", "measured", "predicted", "error")
    for gpu, members in groupby(rows, lambda row: row.gpu):
        table.add_section()
        table.add_row(Text(f"{gpu}, one by one", style="bold"))
        for row in sorted(members, key=lambda row: (row.group, row.phase)):
            tokens = row.settings.removeprefix("tokens=").partition(",")[0]
            table.add_row(f"  {row.id} {row.phase}", tokens, *_numbers(row))
    return table


def _numbers(row: Row) -> tuple[str, str, str]:
    return f"{row.measured:g} {row.unit}", f"{row.predicted:.4g}", f"{row.error:+.0%}"


def _table(first: str, *numbers: str) -> Table:
    """A table of one column of names, never wrapped, and right-aligned columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
