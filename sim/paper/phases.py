"""Table III: what prefill and decode are in each kind of model, from the lengths of the queries that were recorded.

A call of self-attention with more than one query is prefill, one with a single query is decode. Cross-attention does
not count: its keys are the text, whatever the phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from minimodels.sim import units, views
from minimodels.sim.paper.draw import Panel, figure
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import DIFFUSION, TRANSFORMERS, WORKLOADS, Study
from minimodels.sim.profile import Profile

LOOKS = {"prefill": ("#0072B2", "o"), "decode": ("#D55E00", "s")}


@dataclass(frozen=True, slots=True)
class Calls:
    """The self-attention of a stage that has one length of queries. keys: least and most; width: of a query."""

    stage: str
    queries: int
    keys: tuple[int, int]
    width: int
    executions: float

    @property
    def phase(self) -> str:
        """ "prefill", or "decode" for a single query."""
        return "decode" if self.queries == 1 else "prefill"


def self_attention(profile: Profile) -> list[Calls]:
    """The calls of self-attention by stage and length of their queries, in order of first appearance."""
    found: dict[tuple[str, int], list[views.AttentionCall]] = {}
    for call in views.attention_calls(profile):
        if call.facts.role != "cross":
            found.setdefault((call.stage, call.facts.query_length), []).append(call)
    return [
        Calls(
            stage, queries, (min(c.facts.key_length for c in calls), max(c.facts.key_length for c in calls)),
            calls[0].facts.heads * calls[0].facts.head_dim, float(sum(call.executions for call in calls)),
        )
        for (stage, queries), calls in found.items()
    ]  # fmt: skip


def table3(study: Study) -> Result:
    """Which workloads prefill, which decode, by the lengths of their queries."""
    found = {name: self_attention(study.profile(name)) for name in WORKLOADS}
    rows = [
        (name, calls.stage, calls.queries, *calls.keys, calls.width, calls.executions, calls.phase)
        for name, group in found.items()
        for calls in group
    ]
    header = ("workload", "stage", "queries", "least keys", "most keys", "width", "calls", "phase")
    return Result(_picture(found), header, rows, list(_scores(study, found)))


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def said(calls: list[Calls], phase: str) -> str:
    """What a workload does in a phase, stage by stage: "1 against 2,049 to 2,175 keys (decode)", or N/A."""
    stages = dict.fromkeys(group.stage for group in calls if group.phase == phase)
    parts = []
    for stage in stages:
        own = [group for group in calls if group.stage == stage and group.phase == phase]
        keys = _span([key for group in own for key in group.keys])
        what = f"1 against {keys} keys" if phase == "decode" else f"{_span([group.queries for group in own])} at once"
        parts.append(f"{what} ({stage.replace('_', ' ')})")
    return ", ".join(parts) or "N/A"


def _picture(found: dict[str, list[Calls]]) -> Any:
    decoding = [name for name, calls in found.items() if any(group.phase == "decode" for group in calls)]
    title = f"Only {' and '.join(decoding)} ever decode: a single query per call" if decoding else "None decodes"
    made, (axes,) = figure(Panel(title, "queries of a call of self-attention"), height=5.4)
    names = list(reversed(found))
    for place, name in enumerate(names):
        whole = sum(calls.executions for calls in found[name])
        for calls in found[name]:
            colour, marker = LOOKS[calls.phase]
            size = 25 + 375 * calls.executions / whole
            axes.scatter(calls.queries, place, size, color=colour, marker=marker, alpha=0.75, edgecolor="white")
        for phase, height in (("prefill", 0.34), ("decode", -0.34)):
            axes.annotate(f"queries, {phase}: {said(found[name], phase)}", (1.5, place + height), fontsize=6.5,
                          color=LOOKS[phase][0], va="center")  # fmt: skip
        axes.axhline(place + 0.5, color="#DDDDDD", linewidth=0.8)
    axes.axvspan(0.7, 1.4, color="#FBE6D9", zorder=0)
    axes.set(xscale="log", xlim=(0.7, 4e4), ylim=(-0.5, len(names) - 0.5))
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    handles = [
        axes.scatter([], [], 60, color=colour, marker=marker, label=f"{phase}, area: share of the calls")
        for phase, (colour, marker) in LOOKS.items()
    ]
    made.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return made


def _scores(study: Study, found: dict[str, list[Calls]]) -> Iterator[Score]:
    first, later = (next((c for c in found["LLaMA"] if c.phase == phase), None) for phase in LOOKS)
    steps = study.profile("LLaMA").run.gen_len
    if first is not None and later is not None and steps is not None:
        tokens = next(stage.steps for stage in study.profile("LLaMA").stages if stage.name == later.stage)
        yield Score("t3-01", f"{first.queries:,} queries at once, then one for each of {tokens} tokens",
                    tokens == steps - 1, "query lengths", why="decode is every token from the 2nd on")  # fmt: skip
        square = first.keys == (first.queries, first.queries)
        matrix = f"{first.queries:,} x {first.keys[1]:,}"
        yield Score("s4b-03", f"{first.queries:,} x {first.width:,} query, {matrix} matrix", square, "LLaMA, all heads")
        keys = later.keys[1]
        yield Score(
            "s4b-04", f"1 x {later.width:,} query, 1 x {keys:,} matrix", (later.queries, later.width) == (1, keys),
            "LLaMA, all heads, last token", why="N is the length: the query is 1 x d, the matrix 1 x N",
        )  # fmt: skip
    calls = [group for name in DIFFUSION for group in found[name]]
    lone = sum(group.executions for group in calls if group.phase == "decode")
    lengths = _span([group.queries for group in calls])
    whole = units.count(sum(group.executions for group in calls))
    yield Score("t3-02", f"{lengths} queries at once; {lone:.0f} of {whole} calls with one", lone == 0, "query lengths")
    decodes = {name: [group for group in found[name] if group.phase == "decode"] for name in TRANSFORMERS}
    told = "; ".join(f"{name}: prefill {said(found[name], 'prefill')}, decode {said(found[name], 'decode')}"
                     for name in TRANSFORMERS)  # fmt: skip
    without = [name for name, groups in decodes.items() if not groups]
    yield Score(
        "t3-03", told, not without, "query lengths",
        why=f"{' and '.join(without)} fill in all tokens at once, step by step: no decode" if without else "",
    )  # fmt: skip
