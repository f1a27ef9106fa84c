"""Spatial and temporal attention of Make-A-Video: Fig. 11, their tensors, and Fig. 12, their time and FLOPs.

The study does not say what it timed. Every reading is computed: the cores alone (products and softmax), the cores with
the copies made for them, the whole modules with their projections; of the decoder and of all stages; at each
resolution; with attention written out, with FlashAttention, and with FlashAttention for spatial attention alone, as
code runs whose temporal attention was never given a fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from minimodels.sim import units
from minimodels.sim.paper.draw import CYCLE, Panel, dots, figure, log_axes
from minimodels.sim.paper.frames import by_count
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import Study, kernel_seconds, where
from minimodels.sim.profile import Op, Profile

ROLES = ("spatial", "temporal")
DECODER, ALL = "decoder", "all stages"
STAGES = (DECODER, ALL)
READINGS: dict[str, Callable[[Op], bool]] = {
    "core": lambda op: op.attention is not None and op.category == "Attention",
    "core and copies": lambda op: op.attention is not None,
    "module": lambda op: True,
}
WAYS = {
    "baseline": "written out", "flash": "FlashAttention", "flash in space": "FlashAttention in space alone",
    "all": "however computed",
}  # fmt: skip
LOOKS: dict[str, dict[str, Any]] = {
    kind: {"marker": marker, "color": colour, "markersize": 6}
    for kind, marker, colour in zip(WAYS, "os^D", (CYCLE[1], CYCLE[0], CYCLE[2], CYCLE[6]), strict=True)
}
RING: dict[str, Any] = {
    "marker": "o", "markersize": 11, "color": "black", "markerfacecolor": "none", "linestyle": "",
}  # fmt: skip
PUBLISHED: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": "--", "zorder": 1}
TIMES, FEWER = 2.0, 9.0  # what the study states: temporal over spatial time, spatial over temporal FLOPs
FRAMES = tuple(range(4, 129, 4))


@dataclass(frozen=True, slots=True)
class Ratio:
    """One reading: temporal over spatial time, spatial over temporal FLOPs."""

    attention: str
    stages: str
    reading: str
    side: int | None  # of the resolution, in tokens; None: all
    slower: float
    fewer: float

    @property
    def off(self) -> float:
        """How far it is from what the study states, in factors of 2 and 9."""
        return max(self.slower / TIMES, TIMES / self.slower) * max(self.fewer / FEWER, FEWER / self.fewer)

    @property
    def row(self) -> str:
        """What is looked at, but for how it was computed."""
        place = self.stages if self.side is None else f"{self.stages} at {self.side} x {self.side}"
        return f"{place}, {self.reading}"

    def __str__(self) -> str:
        return f"{self.row}, {self.attention}"


def role_of(op: Op) -> str | None:
    """The role of the attention module that an operator is in."""
    return next((role for role in ROLES if f"attention.{role}" in op.scope.split("/")), None)


def side_of(op: Op, batch: int) -> int | None:
    """The side of the square that a call of attention runs on, in tokens; batch: videos at once, both of guidance."""
    if op.attention is None:
        return None
    tokens = op.attention.query_length if op.attention.role == "spatial" else op.attention.batch // batch
    side = round(tokens**0.5)
    return side if side * side == tokens else None


def videos(profile: Profile) -> int:
    """Videos that the decoder runs at once, two with guidance: the batch of spatial calls over the frames."""
    batches = {
        op.attention.batch for op in profile.ops if op.stage == DECODER and op.attention and role_of(op) == "spatial"
    }
    return max(1, min(batches, default=1) // (profile.run.frames or 1))


def ways(pair: tuple[Profile, Profile]) -> dict[str, list[Op]]:
    """The operators of spatial and temporal attention, by how each was computed; pair: written out, and fused."""
    before, after = ([op for op in profile.ops if role_of(op)] for profile in pair)
    mixed = [op for op in after if role_of(op) == "spatial"] + [op for op in before if role_of(op) == "temporal"]
    return {"baseline": before, "flash": after, "flash in space": mixed}


def ratios(ops: list[Op], attention: str, batch: int) -> Iterator[Ratio]:
    """All readings of one way; batch: videos at once, both of guidance."""
    for stages in STAGES:
        for reading in READINGS:
            yield from _ratio(attention, stages, reading, None, taken(ops, stages, reading))
    cores = taken(ops, DECODER, "core")
    for side in sorted({side for op in cores if (side := side_of(op, batch))}):
        yield from _ratio(attention, DECODER, "core", side, [op for op in cores if side_of(op, batch) == side])


def taken(ops: list[Op], stages: str, reading: str) -> list[Op]:
    """The operators that a reading takes in, of the decoder or of all stages."""
    return [op for op in ops if (stages == ALL or op.stage == DECODER) and READINGS[reading](op)]


def _ratio(attention: str, stages: str, reading: str, side: int | None, ops: list[Op]) -> Iterator[Ratio]:
    seconds, flops = sums(ops)
    if all(seconds.values()) and all(flops.values()):
        slower, fewer = seconds["temporal"] / seconds["spatial"], flops["spatial"] / flops["temporal"]
        yield Ratio(attention, stages, reading, side, slower, fewer)


def sums(ops: list[Op]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the kernels and FLOPs of the operators of each role."""
    seconds, flops = dict.fromkeys(ROLES, 0.0), dict.fromkeys(ROLES, 0.0)
    for op in ops:
        role = role_of(op)
        if role is not None:
            seconds[role] += kernel_seconds([op])
            flops[role] += op.weight * (op.flops or 0)
    return seconds, flops


def fig12(study: Study) -> Result:
    """Time and FLOPs of temporal and spatial attention under each reading."""
    pair = study.pair("MakeAVideo")
    after, batch = pair[1], videos(pair[1])
    found = [ratio for name, ops in ways(pair).items() for ratio in ratios(ops, name, batch)]
    nearest = min(found, key=lambda ratio: ratio.off)
    own = after.run.frames
    rows: list[tuple[Any, ...]] = [
        (r.stages, r.reading, r.attention, "" if r.side is None else r.side, own, r.slower, r.fewer, r.slower * r.fewer)
        for r in found
    ]
    counts = {frames: by_count(after.config, frames) for frames in FRAMES}
    rows += [(DECODER, "core", "by count", "", frames, "", fewer, "") for frames, fewer in counts.items()]
    header = ("stages", "reading", "attention", "side in tokens", "frames", "temporal over spatial time",
              "spatial over temporal FLOPs", "temporal over spatial time per FLOP")  # fmt: skip
    made = _figure(found, nearest, counts, where(after))
    return Result(made, header, rows, list(_scores(found, nearest, ways(pair))))


def _figure(found: list[Ratio], nearest: Ratio, counts: dict[int, float], said: str) -> Any:
    """Three ratios in every reading, the published ones and the reading nearest to them marked, and one by frames."""
    made, (slower, fewer, rate, curve) = figure(
        Panel("Temporal over spatial time"), Panel("Spatial over temporal FLOPs"),
        Panel("Temporal over spatial time per FLOP"), Panel("Spatial over temporal FLOPs, by count", "frames"),
        height=3.1, columns=2, above=f"Temporal against spatial attention of Make-A-Video, {said}",
    )  # fmt: skip
    rows = [*dict.fromkeys(ratio.row for stages in STAGES for ratio in found if ratio.stages == stages)]
    values = {slower: lambda r: r.slower, fewer: lambda r: r.fewer, rate: lambda r: r.slower * r.fewer}
    for axes, value in values.items():
        kind = "all" if axes is fewer else None  # FLOPs are the same however they are computed
        dots(axes, {row: {kind or r.attention: value(r) for r in found if r.row == row} for row in rows}, LOOKS)
        log_axes(axes, y=False)
        at = value(nearest), rows.index(nearest.row)
        axes.plot(*([x] for x in at), **RING)
        axes.annotate(f"{at[0]:#.3g}", at, (0, -12), textcoords="offset points", fontsize=8, ha="center", va="center")
    fewer.set_yticklabels([])
    curve.plot(list(counts), list(counts.values()), color=CYCLE[6])
    curve.axhline(FEWER, **PUBLISHED)
    for axes, published in ((slower, TIMES), (fewer, FEWER)):
        axes.axvline(published, **PUBLISHED, ymax=0.94)
        axes.annotate(f"{published:g}", (published, 0.95), xycoords=("data", "axes fraction"), ha="center", fontsize=8)
    log_axes(curve, x=False)
    _legend(made)
    return made


def _legend(made: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", label=name, **LOOKS[kind]) for kind, name in WAYS.items()]
    handles.append(Line2D([], [], label="published", **PUBLISHED))
    handles.append(Line2D([], [], label="the reading nearest to what is published", **RING))
    made.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def _scores(found: list[Ratio], nearest: Ratio, ops_of: dict[str, list[Op]]) -> Iterator[Score]:
    near = 0.75 <= nearest.slower / TIMES <= 1.33
    least, most = (pick(ratio.slower for ratio in found) for pick in (min, max))
    why = f"nearest of {len(found)} readings; the others are from {least:.2f} to {most:.2f}"
    for number in ("int-12", "s6a-01"):
        yield Score(number, f"{nearest.slower:.2f}x", near, str(nearest), nearest.slower - TIMES, why)
    few = 0.75 <= nearest.fewer / FEWER <= 1.33
    spread = f"{min(r.fewer for r in found):.3g} to {max(r.fewer for r in found):.3g} x fewer in the other readings"
    yield Score("s6a-02", f"{nearest.fewer:.3g}x fewer", few, str(nearest), nearest.fewer - FEWER, spread)
    said = f"{nearest.slower:.2f}x the time, {nearest.fewer:.3g}x fewer FLOPs"
    yield Score("f12-01", said, near and few, str(nearest), None, "by count and by every reading fewer, not more")
    more = all(ratio.fewer < 1 for ratio in found)
    yield Score(
        "int-13",
        f"{nearest.fewer:.3g}x fewer",
        more,
        str(nearest),
        None,
        "Sec. VI says 9 x fewer: the study contradicts itself",
    )
    yield Score(
        "int-22",
        said,
        near and not few and more,
        str(nearest),
        None,
        "9 x more FLOPs contradicts Sec. VI; temporal takes longer per FLOP in "
        f"{sum(r.slower * r.fewer > 1 for r in found)} of {len(found)} readings",
    )
    shares = {}
    for (attention, ops), stages, reading in product(ops_of.items(), STAGES, READINGS):
        seconds, _ = sums(taken(ops, stages, reading))
        shares[f"{stages}, {reading}, {attention}"] = seconds["temporal"] / (sum(seconds.values()) or 1)
    best = min(shares, key=lambda name: abs(shares[name] - 2 / 3))
    over = sum(share > 0.6 for share in shares.values())
    yield Score(
        "abs-07", units.percent(shares[best]), shares[best] > 0.6, best, 100 * (shares[best] - 0.6),
        f"nearest to two of three of {len(shares)} readings, from {units.percent(min(shares.values()))} to "
        f"{units.percent(max(shares.values()))}, {over} of them over 60 %; our widths give spatial attention more",
    )  # fmt: skip


def fig11(study: Study) -> Result:
    """The tensors that spatial and temporal attention of the decoder take, as the code calls them."""
    profile = study.profile("MakeAVideo")
    rows = []
    for op in profile.ops:
        facts = op.attention
        if op.stage == DECODER and facts is not None and facts.role in ROLES and op.category == "Attention":
            rows.append((facts.role, facts.batch, facts.heads, facts.query_length, facts.key_length, facts.head_dim))
    rows = sorted(set(rows), key=lambda row: (row[0], -row[3], row[1]))
    return Result(
        _tensors(rows), ("role", "batch", "heads", "queries", "keys", "head_dim"), rows, list(_shapes(rows, profile))
    )


def _tensors(rows: list[tuple[Any, ...]]) -> Any:
    made, (axes,) = figure(
        Panel(
            "Make-A-Video's decoder: frames are the batch of spatial attention and the sequence of temporal",
            "batch (sequences at once)",
            "queries (tokens of a sequence)",
        )
    )
    for role, colour in zip(ROLES, CYCLE, strict=False):
        points = [row for row in rows if row[0] == role]
        axes.plot([p[1] for p in points], [p[3] for p in points], "o", color=colour, label=role)
        for point in points:
            axes.annotate(f"[{point[1]}, {point[2]}, {point[3]}, {point[5]}]", (point[1], point[3]), xytext=(6, 4),
                          textcoords="offset points", fontsize=8)  # fmt: skip
    log_axes(axes)
    axes.margins(x=0.25, y=0.15)
    axes.legend(title="[batch, heads, queries, head_dim]", frameon=False, fontsize=8, title_fontsize=8)
    return made


def _shapes(rows: list[tuple[Any, ...]], profile: Profile) -> Iterator[Score]:
    """Whether frames stand in the batch of spatial attention, and in the sequence of temporal attention."""
    frames = profile.run.frames
    if frames is None:
        return
    of_role = {role: [row for row in rows if row[0] == role] for role in ROLES}
    spatial = bool(of_role["spatial"]) and all(batch % frames == 0 for _, batch, *_ in of_role["spatial"])
    temporal = bool(of_role["temporal"]) and all(row[3] == frames for row in of_role["temporal"])
    first = {role: found[0] for role, found in of_role.items() if found}
    for number, role, holds in (("f11-01", "spatial", spatial), ("f11-02", "temporal", temporal)):
        _, batch, heads, queries, _, dim = first[role]
        yield Score(
            number, f"[{batch}, {heads}, {queries}, {dim}]", holds, "largest resolution, guidance doubles the batch"
        )
