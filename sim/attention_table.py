"""Attention by kind of call: what attends to what, over which lengths, on which kernel, and what it takes.

Only the cores are summed (scores, softmax, values), not the projections around them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from minimodels.sim import views
from minimodels.sim.cells import cells, table_of
from minimodels.sim.profile import Op, Profile
from minimodels.sim.views import Totals


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of call; `keys` are the least and the most, which differ where they grow from step to step."""

    stage: str
    role: str
    queries: int
    keys: tuple[int, int]
    head_dim: int
    backend: str
    totals: Totals


def by_role(profile: Profile) -> dict[str, Totals]:
    """The sums of each role, longest first where the times are known."""
    found = views.grouped(
        (op for op in profile.ops if op.attention), lambda op: op.attention.role if op.attention else ""
    )
    return dict(sorted(found.items(), key=lambda item: -item[1].known_seconds))


def rows(profile: Profile) -> list[Row]:
    """A row per kind of call, longest first; a decoding loop whose keys grow is one kind."""
    kinds: dict[object, list[Op]] = {}
    for op in profile.ops:
        facts = op.attention
        if facts is not None:
            growing = facts.query_length == 1 and facts.role != "cross"
            kind = facts.model_copy(update={"key_length": 1}) if growing else facts
            kinds.setdefault((op.stage, kind), []).append(op)
    found = []
    for ops in kinds.values():
        first = ops[0].attention
        assert first is not None
        keys = [op.attention.key_length for op in ops if op.attention is not None]
        span = (min(keys), max(keys))
        found.append(Row(ops[0].stage, first.role, first.query_length, span, first.head_dim, first.backend, views.totals(ops)))  # fmt: skip
    return sorted(found, key=lambda row: -row.totals.known_seconds)


def table(profile: Profile) -> Table:
    """The kinds of call and the sums of each role; shares are of the whole run."""
    result = table_of("Attention", "Queries x keys", "Dim", "Backend", "Time", "Share", "FLOPs")
    whole = views.totals(profile.ops)
    for row in rows(profile):
        least, most = row.keys
        keys = f"{most:,}" if least == most else f"{least:,}..{most:,}"
        time, share, flops, *_ = cells(row.totals, whole)
        result.add_row(
            f"{row.stage} {row.role}", f"{row.queries:,} x {keys}", str(row.head_dim), row.backend, time, share, flops
        )
    result.add_section()
    for role, part in by_role(profile).items():
        time, share, flops, *_ = cells(part, whole)
        result.add_row(f"all {role}", "", "", "", time, share, flops)
    return result
