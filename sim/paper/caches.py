"""What spatial and temporal attention of Make-A-Video find in the caches: Fig. 13.

Kernels of attention written out, of the shapes and strides that the walk of the decoder has, on a model of an A100's
caches (`sim.cache`). Instructions are modelled too. The reading scored is the one that Nsight Compute shows by
default, caches empty before every kernel; the others stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim import units
from minimodels.sim.cache import chain as chains
from minimodels.sim.cache.gpu import LATENCIES, Counts, modelled
from minimodels.sim.cache.layouts import Chain, walked
from minimodels.sim.device import Device
from minimodels.sim.paper.draw import CYCLE, Panel, figure
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import Study, config_of, kernel_seconds, of_device
from minimodels.sim.paper.temporal import DECODER, ROLES, role_of, side_of, videos
from minimodels.sim.profile import Op, Profile

PAPERS = "a100-80gb"
WORKLOAD = "MakeAVideo"
FAMILIES = {  # of kernels, and the families of `chain` that are in them
    "gemm": ("gemm",),
    "softmax": ("softmax",),
    "elementwise": ("elementwise",),
    "copies": ("copy",),
    "elementwise and copies": ("elementwise", "copy"),
}
LAYOUTS = ("as walked", "strided")
STATES: tuple[chains.State, ...] = ("cold", "warm")
MPKI = {"f13-01": ("gemm", 1.96), "f13-02": ("elementwise", 1.22)}
ACCESS = {"f13-04": ("gemm", 28.0), "f13-05": ("elementwise", 4.0), "f13-06": ("softmax", 18.0)}
NEAR = (0.75, 1.33)  # ours over published, where a ratio is said to hold


@dataclass(frozen=True, slots=True)
class Row:
    """Counters of a family of kernels in one reading; side: of the resolution in tokens, None: all of the decoder."""

    layout: str
    state: chains.State
    role: str
    side: int | None
    family: str
    counts: Counts
    seconds: float | None  # None: nothing tells how long products on strided operands take

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second from and to memory."""
        return self.counts.memory_bytes / self.seconds if self.seconds else None


def fig13(study: Study) -> Result:
    """Cache misses, access time and memory bandwidth of temporal beside spatial attention."""
    device = _device(study)
    own = study if study.device == device.name else of_device(device.name, study.progress)
    rows = list(counters(own.profile(WORKLOAD, "baseline"), device))
    header = ("layout", "caches", "attention", "side in tokens", "kernels", "instructions", "L1 MPKI", "L2 MPKI",
              *(f"access time by {l.source} (clocks)" for l in LATENCIES), "memory traffic (B)",
              "memory bandwidth (B/s)")  # fmt: skip
    table = [
        (
            row.layout, row.state, row.role, "" if row.side is None else row.side, row.family, row.counts.instructions,
            row.counts.l1_mpki, row.counts.l2_mpki, *(row.counts.access_time(l) for l in LATENCIES),
            row.counts.memory_bytes, "" if row.bandwidth is None else row.bandwidth,
        )
        for row in rows
    ]  # fmt: skip
    return Result(_figure(rows, device), header, table, list(_scores(rows, device)), device.name)


def _device(study: Study) -> Device:
    """The GPU of the study where it is simulated and its caches are modelled, else the published one's."""
    named = None if study.device == "cuda" else devices.load(study.device)
    return named if named is not None and modelled(named) else devices.load(PAPERS)


def counters(profile: Profile, device: Device) -> Iterator[Row]:
    """The rows of every reading, all resolutions together first."""
    walk = walked(config_of(WORKLOAD), Run(device=device.name, attention="baseline"))
    found = [chain for chain in walk.chains.values() if chain.stage == DECODER and chain.role in ROLES]
    batch = videos(profile)
    for layout in LAYOUTS:
        given = found if layout == LAYOUTS[0] else [chains.strided(chain) for chain in found]
        there = {chains.FAMILIES.get(launch.name) for chain in given for launch in chain.launches}
        families = [family for family, members in FAMILIES.items() if there.issuperset(members)]
        for state in STATES:
            sums: dict[tuple[str, int | None, str], tuple[Counts, list[float]]] = {}
            for chain in given:
                ops = [op for op in profile.ops if _same(op, chain)]
                side = side_of(ops[0], batch)
                for family, counts, seconds in _of_chain(chain, ops, device, state, families):
                    for where in (None, side):
                        total, times = sums.setdefault((chain.role, where, family), (Counts(), []))
                        total.add(counts)
                        times.append(seconds)
            for (role, side, family), (counts, times) in sorted(sums.items(), key=lambda item: _order(item[0])):
                yield Row(layout, state, role, side, family, counts, sum(times) if layout == LAYOUTS[0] else None)


def _order(key: tuple[str, int | None, str]) -> tuple[int, int, int]:
    role, side, family = key
    return side or 0, list(FAMILIES).index(family), ROLES.index(role)


def _of_chain(
    chain: Chain, ops: Sequence[Op], device: Device, state: chains.State, families: Sequence[str]
) -> Iterator[tuple[str, Counts, float]]:
    """Counts of all executions of a chain, and the seconds of its operators, by family of kernels."""
    weight = sum(op.weight for op in ops if op.name == "softmax")
    launches = list(chains.run(chain, device, state))
    for family in families:
        counts, members = Counts(), FAMILIES[family]
        for launch in launches:
            if launch.family in members:
                counts.add(launch.counts, weight)
        if counts.instructions:
            own = [op for op in ops if chains.FAMILIES.get(op.name) in members]
            yield family, counts, kernel_seconds(own)


def _same(op: Op, chain: Chain) -> bool:
    facts, sizes = op.attention, chain.facts
    if facts is None or (op.stage, role_of(op)) != (chain.stage, chain.role):
        return False
    return (facts.batch, facts.heads, facts.query_length, facts.key_length) == (
        sizes.batch, sizes.heads, sizes.query_length, sizes.key_length,
    )  # fmt: skip


def _at(rows: Sequence[Row], layout: str, state: str) -> dict[tuple[str, str], Row]:
    """The rows of one reading over all of the decoder, by role and family."""
    return {(r.role, r.family): r for r in rows if (r.layout, r.state, r.side) == (layout, state, None)}


def _scores(rows: Sequence[Row], device: Device) -> Iterator[Score]:
    reading = f"{LAYOUTS[0]}, caches cold, in a model of an A100's"
    higher: dict[str, float] = {}
    for number, (family, published) in MPKI.items():
        ratios = dict(_readings(rows, family, _ratio))
        ours = higher[family] = ratios.pop(f"{LAYOUTS[0]}, {STATES[0]}")
        others = [f"{name} {value:.2f}x" for name, value in ratios.items()]
        if family == "elementwise":
            others += [f"{name}, copies counted in, {value:.2f}x"
                       for name, value in _readings(rows, "elementwise and copies", _ratio)]  # fmt: skip
        yield Score(number, f"{ours:.2f}x", _higher(ours, published), reading, ours - published, _why(family, others))
    low, high = sorted(higher.values())
    yield Score("f13-03", f"{low:.2f} to {high:.2f}x", _higher(low, 1.2) and _higher(high, 1.96), reading,
                why="its ends are the two numbers of the text")  # fmt: skip
    for number, (family, published) in ACCESS.items():
        more = [dict(_readings(rows, family, lambda a, b, t=times: a.access_time(t) - b.access_time(t)))
                for times in LATENCIES]  # fmt: skip
        ours = more[0].pop(f"{LAYOUTS[0]}, {STATES[0]}")
        others = [f"{name} {value:+.1f}" for name, value in more[0].items()]
        others.append(f"latencies of {LATENCIES[1].source} {more[1][f'{LAYOUTS[0]}, {STATES[0]}']:+.1f}")
        holds = ours > 0 and _near(ours, published)
        yield Score(number, f"{ours:+.1f}", holds, f"{reading}, latencies of {LATENCIES[0].source}", ours - published,
                    _why(family, others))  # fmt: skip
    yield Score("f13-07", "4", True, "all four, of a model of caches", 0.0, "minibench counters imports counted ones")


def _ratio(temporal: Counts, spatial: Counts) -> float | None:
    return temporal.l2_mpki / spatial.l2_mpki if spatial.l2_mpki else None


def _readings(
    rows: Sequence[Row], family: str, of: Callable[[Counts, Counts], float | None]
) -> Iterator[tuple[str, float]]:
    """Temporal against spatial in every reading where both have such kernels."""
    for layout in LAYOUTS:
        for state in STATES:
            at = _at(rows, layout, state)
            both = [at.get((role, family)) for role in ("temporal", "spatial")]
            if both[0] is not None and both[1] is not None:
                value = of(both[0].counts, both[1].counts)
                if value is not None:
                    yield f"{layout}, {state}", value


def _why(family: str, others: Sequence[str]) -> str:
    reasons = {
        "gemm": "tiles of 16 frames use no operand twice, spatial ones read theirs again from the L2 cache",
        "elementwise": "every element is read once by either, with the same instructions: they differ by what the "
        "kernel before left in the L2 cache",
        "softmax": "rows of over 1,024 keys are read three times, twice from the L1 cache; those of 16 once",
    }
    return f"{reasons[family]}; others: {', '.join(others)}"


def _near(ours: float, published: float) -> bool:
    return NEAR[0] <= ours / published <= NEAR[1]


def _higher(ours: float, published: float) -> bool:
    """Whether temporal attention has more, as published, and about as much more."""
    return round(ours, 2) > 1 and _near(ours, published)


def _figure(rows: Sequence[Row], device: Device) -> Any:
    """Four counters, temporal beside spatial for each family; bars: caches cold, marks: as the kernels before left."""
    shown = [family for family in FAMILIES if " and " not in family]
    clocks = f"clocks ({LATENCIES[0].source})"
    panels = (
        Panel("L1 misses per 1,000 instructions", y="sectors of 32 B"),
        Panel("L2 misses per 1,000 instructions", y="sectors of 32 B"),
        Panel("Average memory access time", y=clocks),
        Panel("Memory bandwidth", y="GB/s"),
    )
    said = f"Caches and instructions modelled for an {units.printable(device.title)}, times simulated"
    made, axes = figure(*panels, height=2.9, columns=2, above=said)
    values = (
        lambda row: row.counts.l1_mpki,
        lambda row: row.counts.l2_mpki,
        lambda row: row.counts.access_time(LATENCIES[0]),
        lambda row: (row.bandwidth or 0.0) / 1e9,
    )
    for axis, value in zip(axes, values, strict=True):
        for place, role in enumerate(ROLES):
            at = [index + 0.4 * place - 0.2 for index in range(len(shown))]
            cold, warm = (
                [value(found[role, family]) for family in shown if (role, family) in found]
                for found in (_at(rows, LAYOUTS[0], state) for state in STATES)
            )
            axis.bar(at[: len(cold)], cold, 0.36, color=CYCLE[place], label=f"{role}, caches cold")
            axis.plot(at[: len(warm)], warm, "D", color="white", markeredgecolor="black", markersize=6,
                      label=f"{role}, L2 as left" if not place else None)  # fmt: skip
        axis.set_xticks(range(len(shown)), shown, fontsize=9)
        axis.margins(y=0.12)
        axis.set_ylim(bottom=0)
    peak = device.datasheet.bandwidth / 1e9
    axes[3].set_ylim(0, 1.15 * peak)
    axes[3].axhline(peak, color="#555555", linewidth=1, linestyle="--")
    axes[3].annotate(f"peak: {units.si(device.datasheet.bandwidth, 'B/s')}", (len(shown) - 0.5, peak), ha="right",
                     va="bottom", fontsize=8)  # fmt: skip
    handles = axes[0].get_legend_handles_labels()[0]
    labels = [f"{role}, caches cold" for role in ROLES]
    bars = [h for h in handles if not hasattr(h, "get_markersize")]
    marks = [h for h in handles if hasattr(h, "get_markersize")]
    made.legend([*bars, *marks[:1]], [*labels, "L2 as the kernels before left it"], loc="outside lower center", ncol=3,
                frameon=False, fontsize=9)  # fmt: skip
    return made
