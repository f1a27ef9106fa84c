"""Attention by kind of call: what attends to what, over which lengths, on which kernel, and what it takes.

A core is scores, softmax and values, not the projections around them: the operators whose own category is Attention.
Copies that a core makes of its input and output are Memory, and summed apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from minimodels.sim import views
from minimodels.sim.cells import cells, table_of
from minimodels.sim.profile import Attention, Op, Profile
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


def cores(profile: Profile) -> dict[str, Totals]:
    """The sums of the cores of each role, longest first where the times are known: together the category Attention."""
    return _by_role(profile, core=True)


def copies(profile: Profile) -> dict[str, Totals]:
    """The sums of the copies made for the cores of each role, longest first where the times are known."""
    return _by_role(profile, core=False)


def rows(profile: Profile) -> list[Row]:
    """A row per kind of call, longest first; a decoding loop whose keys grow is one kind."""
    kinds: dict[object, list[tuple[Op, Attention]]] = {}
    for op in profile.ops:
        facts = op.attention
        if facts is not None and op.category == "Attention":
            growing = facts.query_length == 1 and facts.role != "cross"
            kind = facts.model_copy(update={"key_length": 1}) if growing else facts
            kinds.setdefault((op.stage, kind), []).append((op, facts))
    found = []
    for calls in kinds.values():
        op, first = calls[0]
        keys = [facts.key_length for _, facts in calls]
        span, sums = (min(keys), max(keys)), views.totals(op for op, _ in calls)
        found.append(Row(op.stage, first.role, first.query_length, span, first.head_dim, first.backend, sums))
    return sorted(found, key=lambda row: -row.totals.known_seconds)


def table(profile: Profile) -> Table:
    """The kinds of call, the sums of each role, and the copies; shares are of the whole run."""
    result = table_of("Attention", "Queries x keys", "Dim", "Backend", "Time", "Share", "FLOPs")
    whole = views.totals(profile.ops)
    for row in rows(profile):
        least, most = row.keys
        keys = f"{most:,}" if least == most else f"{least:,}..{most:,}"
        facts = (f"{row.queries:,} x {keys}", str(row.head_dim), row.backend)
        result.add_row(f"{row.stage} {row.role}", *facts, *cells(row.totals, whole)[:3])
    sums = {f"all {role}": part for role, part in cores(profile).items()}
    if len(sums) > 1:
        sums["all cores"] = views.by_category(profile)["Attention"]
    for part in (sums, {f"copies for {role}": part for role, part in copies(profile).items()}):
        result.add_section()
        for name, totals in part.items():
            result.add_row(name, "", "", "", *cells(totals, whole)[:3])
    return result


def _by_role(profile: Profile, *, core: bool) -> dict[str, Totals]:
    """The sums by role of what cores compute, or of the rest that is inside of them."""
    inside = (op for op in profile.ops if op.attention is not None and (op.category == "Attention") == core)
    found = views.grouped(inside, lambda op: op.attention.role if op.attention else "")
    return dict(sorted(found.items(), key=lambda item: -item[1].known_seconds))
