"""The accuracy report for the terminal and the docs: errors by family and GPU, and generation with LLaMA row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from minimodels.sim.bars import verdicts
from minimodels.sim.cells import table_of
from minimodels.sim.truth_gpus import device_of
from minimodels.sim.truth_models import GENERATION, lengths
from minimodels.sim.validate import FEW, Group, Row, coverage, groups

BIAS = "Bias is in time, a rate being the time it stands for: above 0 is predicted too slow, or of memory too much."


def report(rows: Sequence[Row]) -> Lines:
    """Families by GPU, generation row by row, how many rows of the claimed families are covered, and what is not."""
    listed = [row for row in rows if row.phase in GENERATION and row.error is not None]
    parts: list[RenderableType] = [_groups(rows), _bars(rows)]
    if listed:
        parts.append(_generation(listed))
    predicted, claimed = coverage(rows)
    fitted = sum(row.fitted for row in rows)
    missing = [row for row in rows if row.claimed and row.predicted is None]
    unclaimed = sum(not row.claimed for row in rows)
    lines = [
        f"{predicted} of {claimed} rows of claimed families predicted; {fitted} of them, fitted to, are left out.",
        f"{unclaimed} rows are of families that are not claimed; --json lists every row without a prediction, and why.",
        BIAS,
    ]
    lines += [f"not predicted: {row.id}: {row.reason}" for row in missing[:20]]
    if len(missing) > 20:
        lines.append(f"and {len(missing) - 20} more")
    return Lines(*(piece for part in parts for piece in (part, Text())), Text("\n".join(lines)))


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """{"groups": [{family, gpu, n, distinct, median, p90, bias}], "coverage": {...}, "rows": [], "unpredicted": []}."""
    names = ("id", "model", "phase", "gpu", "dtype", "batch", "settings", "measured", "predicted", "unit", "error")
    predicted, claimed = coverage(rows)
    return {
        "groups": [_group(group) for group in groups(rows)],
        "missed": [_group(verdict.group) for verdict in verdicts(groups(rows)) if not verdict.met],
        "coverage": {"predicted": predicted, "claimed": claimed, "fitted": sum(row.fitted for row in rows)},
        "rows": [
            {name: getattr(row, name) for name in (*names, "family", "fitted")}
            for row in rows
            if row.predicted is not None
        ],
        "unpredicted": [
            {"id": row.id, "reason": row.reason, "claimed": row.claimed} for row in rows if row.predicted is None
        ],
    }  # fmt: skip


def _bars(rows: Sequence[Row]) -> Table:
    """The bars that are missed, and how many there are."""
    found = list(verdicts(groups(rows)))
    missed = [verdict for verdict in found if not verdict.met]
    table = table_of("Bars missed", "median", "bar", "p90", "bar")
    for verdict in missed:
        group, bar = verdict.group, verdict.bar
        p90 = "-" if bar.p90 is None else f"{bar.p90:.0%}"
        few = "" if group.judged else f" ({group.n} rows)"
        numbers = f"{group.median:.1%}", f"{bar.median:.0%}", f"{group.p90:.0%}", p90
        table.add_row(f"{group.family}, {group.gpu}{few}", *numbers)
    table.caption_justify = "left"
    table.caption = f"{len(found) - len(missed)} of {len(found)} bars that the project set are met"
    return table


def _group(group: Group) -> dict[str, Any]:
    return {name: getattr(group, name) for name in ("family", "gpu", "n", "distinct", "median", "p90", "bias")}


def _generation(rows: Iterable[Row]) -> Table:
    """Generation row by row, under a heading per model, dtype and GPU."""
    table = table_of("Generation", "tokens", "batch", "measured", "predicted", "error")
    for heading, members in groupby(rows, lambda row: f"{row.model}, {row.dtype}, {device_of(row.gpu)}"):
        table.add_section()
        table.add_row(Text(heading, style="bold"))
        for row in members:
            tokens = " + ".join(map(str, lengths(row.settings)))
            numbers = f"{row.measured:g} {row.unit}", f"{row.predicted:.4g}", f"{row.error:+.0%}"
            table.add_row(f"  {row.id} {row.phase}", tokens, str(row.batch), *numbers)
    return table


def _groups(rows: Sequence[Row]) -> Table:
    """Errors by family and GPU, over the rows that no constant was fitted to."""
    table = table_of("Family", "rows", "distinct", "median", "p90", "bias")
    for family, members in groupby(groups(rows), lambda group: group.family):
        table.add_section()
        table.add_row(Text(family, style="bold"))
        for group in members:
            table.add_row(
                f"  {group.gpu}",
                *(f"{group.n}" if group.judged else f"{group.n} (few)", f"{group.distinct}"),
                *(f"{group.median:.1%}", f"{group.p90:.0%}", f"{group.bias:+.0%}"),
            )
    table.caption_justify = "left"
    table.caption = f"few: under {FEW} rows, too few to judge; distinct: different predictions"
    return table
