"""Sequence length over one inference and beside the use of memory bandwidth: Fig. 8.

The length of a call is that of its queries; where one token after the other is decoded, that of its keys. Attention to
the text is not drawn. A loop whose steps are all alike is cut to its fundamental period, as in the study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np

from minimodels.sim import units, views
from minimodels.sim.paper.draw import CYCLE, Panel, figure
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import Study
from minimodels.sim.profile import Op, Profile

STAGES = {  # what is drawn, and what its horizontal axis spans
    "Imagen": (("unet",), "one denoising step of the base"),
    "Parti": (("decode",), "all decoded tokens"),
    "StableDiffusion": (("denoise",), "one denoising step"),
    "Muse": (("transformer",), "one step of parallel decoding"),
    "LLaMA": (("prefill", "decode"), "prefill, then all decoded tokens"),
}
WINDOWS = ("attention kernels", "attention block", "all operators")  # since the call before
TIMED = ("Imagen", "Parti")
DIFFUSION = ("Imagen", "StableDiffusion")
WAYS = {"baseline": "written out", "flash": "FlashAttention"}
FOLLOWS = 0.7  # a correlation that explains half of the variance


@dataclass(frozen=True, slots=True)
class Point:
    """A call of attention to itself: its number in the period, its length in tokens, the calls it stands for.

    bandwidth: bytes moved a second by the kernels of each window.
    """

    stage: str
    number: int
    length: int
    executions: float
    bandwidth: dict[str, float | None]


Found = dict[tuple[str, str], list[Point]]  # by workload and way
Rates = dict[tuple[str, str, str], float | None]  # by workload, way and window


def points(profile: Profile, *stages: str) -> list[Point]:
    """The calls of attention in one fundamental period of the stages, one stage after the other."""
    found: list[Point] = []
    for stage in stages:
        mine = list(_points(profile, stage, found[-1].number + 1 if found else 0))
        repeated = views.period([point.length for point in mine])
        found += mine[:repeated] if repeated > 1 else mine
    return found


def _points(profile: Profile, stage: str, start: int) -> Iterator[Point]:
    """The listed calls of a stage; a loop that is listed at a few of its steps grows by one key a step."""
    calls = [call for call in views.attention_calls(profile) if call.stage == stage and call.facts.role != "cross"]
    growing = all(call.facts.query_length == 1 for call in calls)
    first = calls[0].facts.key_length
    each = sum(call.facts.key_length == first for call in calls)  # calls in a step
    before = next(place for place, op in enumerate(profile.calls) if profile.ops[op].stage == stage)
    for index, call in enumerate(calls):
        end = call.call
        while end < len(profile.calls) and profile.ops[profile.calls[end]].attention == call.facts:
            end += 1
        since = [profile.ops[op] for op in profile.calls[before:end]]
        block = [op for op in since if op.module == "attention"]
        windows = zip(WINDOWS, (since[call.call - before :], block, since), strict=True)
        yield Point(
            stage,
            start + ((call.facts.key_length - first) * each + index % each if growing else index),
            call.facts.key_length if growing else call.facts.query_length,
            float(call.executions),
            {window: _bandwidth(ops) for window, ops in windows},
        )
        before = end


def _bandwidth(ops: Sequence[Op]) -> float | None:
    """Bytes a second while kernels run, as a profiler of kernels counts them."""
    seconds = sum(op.device_seconds or 0.0 for op in ops)
    return sum(op.bytes_read + op.bytes_written for op in ops) / seconds if seconds else None


def correlation(found: Sequence[Point], window: str) -> float | None:
    """Pearson's coefficient of length and bandwidth over all calls; None where either does not vary."""
    known = [(point.length, used, point.executions) for point in found if (used := point.bandwidth[window]) is not None]
    lengths, used, weights = (np.array(column, dtype=float) for column in zip(*known, strict=True))
    if np.ptp(lengths) == 0 or np.ptp(used) < 1e-9 * used.max():
        return None
    (a, both), (_, b) = np.cov(lengths, used, aweights=weights)
    return float(both / (a * b) ** 0.5)


def _mean(listed: Sequence[Point]) -> float:
    """The mean length over all calls."""
    return float(np.average([point.length for point in listed], weights=[point.executions for point in listed]))


def fig8(study: Study) -> Result:
    """Sequence length over one inference of five models; bandwidth of Imagen and Parti over the same window."""
    profiles = {(name, way): study.profile(name, way) for name in STAGES for way in WAYS}
    found = {(name, way): points(profile, *STAGES[name][0]) for (name, way), profile in profiles.items()}
    rows = [
        (name, WAYS[way], point.stage, point.number, point.length, point.executions, *point.bandwidth.values())
        for (name, way), listed in found.items()
        for point in listed
    ]
    header = ("workload", "attention", "stage", "call", "length (tokens)", "executions",
              *(f"bandwidth of {window} (B/s)" for window in WINDOWS))  # fmt: skip
    rates: Rates = {
        (name, way, window): correlation(found[name, way], window)
        for name in TIMED
        for way in WAYS
        for window in WINDOWS
    }
    listed = {name: found[name, "baseline"] for name in STAGES}
    peak = profiles["Imagen", "baseline"].device.bandwidth
    scores = [*_varies(listed), *_shapes(listed, profiles), *_shorter(listed), *_follows(found, rates, peak)]
    return Result(_figure(found, rates, peak), header, rows, scores)


def _figure(found: Found, rates: Rates, peak: float | None) -> Any:
    """Imagen and Parti with their bandwidth below, the other models, the lengths of all."""
    call, tokens, unit = "attention call", "sequence length (tokens)", "% of the peak" if peak else "B/s"
    lengths = [Panel(f"{name}: {said}", call, tokens) for name, (_, said) in STAGES.items()]
    used = [Panel(f"{name}: memory bandwidth, same calls", call, unit) for name in TIMED]
    whole = Panel("Shortest, mean (orange) and longest", tokens)
    made, axes = figure(*lengths[:2], *used, *lengths[2:], whole, height=2.8, columns=2)
    for axis, name in zip((*axes[:2], *axes[4:7]), STAGES, strict=True):
        _draw_lengths(axis, found[name, "baseline"])
    for axis, name in zip(axes[2:4], TIMED, strict=True):
        _draw_bandwidth(axis, name, found, rates, 100 / peak if peak else 1.0)
    _draw_ranges(axes[7], found)
    return made


def _draw_ranges(axis: Any, found: Found) -> None:
    from matplotlib.ticker import LogLocator

    for place, name in enumerate(reversed(STAGES)):
        listed = found[name, "baseline"]
        ends = [extreme(point.length for point in listed) for extreme in (min, max)]
        axis.plot(ends, [place, place], "|-", color=CYCLE[0], linewidth=2, markersize=9)
        axis.plot([_mean(listed)], [place], "o", color=CYCLE[1])
    axis.set_yticks(range(len(STAGES)), list(reversed(STAGES)))
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _draw_lengths(axis: Any, listed: Sequence[Point]) -> None:
    look: dict[str, Any] = {} if _growing(listed) else {"drawstyle": "steps-mid", "marker": "o", "markersize": 3}
    lengths = [point.length for point in listed]
    axis.plot([point.number for point in listed], lengths, color=CYCLE[0], linewidth=2, **look)
    axis.set_ylim(0, 1.1 * max(lengths))
    _whole(axis)


def _draw_bandwidth(axis: Any, name: str, found: Found, rates: Rates, scale: float) -> None:
    """Bandwidth of some windows, before a grey shape of the sequence length, whose longest is as high as the panel."""
    lines = (
        ("baseline", WINDOWS[0], CYCLE[1], "-"),
        ("baseline", WINDOWS[1], CYCLE[0], "-"),
        ("baseline", WINDOWS[2], CYCLE[2], "--"),
        ("flash", WINDOWS[1], CYCLE[3], ":"),
    )
    for way, window, colour, style in lines:
        numbers, values = _line(found[name, way], window)
        label = f"{window}, {WAYS[way]}: r = {_written(rates[name, way, window])}"
        axis.plot(numbers, [scale * value for value in values], style, color=colour, linewidth=2, label=label)
    listed, top = found[name, "baseline"], axis.get_ylim()[1]
    shape = [top * point.length / max(point.length for point in listed) for point in listed]
    step: dict[str, Any] = {} if _growing(listed) else {"step": "mid"}
    numbers = [point.number for point in listed]
    axis.fill_between(numbers, shape, color=CYCLE[7], alpha=0.4, linewidth=0, label="sequence length, scaled", **step)
    axis.set_ylim(0, top)
    _whole(axis)
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.25), frameon=False, fontsize=8)


def _growing(listed: Sequence[Point]) -> bool:
    """Whether these are calls at a few steps of a loop."""
    return listed[-1].number >= len(listed)


def _line(listed: Sequence[Point], window: str) -> tuple[list[int], list[float]]:
    """Bandwidth over the calls; of a step of a growing loop, the mean of its calls."""
    groups: dict[int, list[tuple[int, float]]] = {}
    for point in listed:
        if (used := point.bandwidth[window]) is not None:
            groups.setdefault(point.length if _growing(listed) else point.number, []).append((point.number, used))
    return [group[0][0] for group in groups.values()], [mean(used for _, used in group) for group in groups.values()]


def _whole(axis: Any) -> None:
    """Axes of whole numbers, thousands set apart."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{value:,g}")


def _written(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.2f}"


def _lengths(listed: Sequence[Point]) -> list[int]:
    return [point.length for point in listed]


def _varies(listed: dict[str, list[Point]]) -> Iterator[Score]:
    """By how much lengths of Stable Diffusion differ: between neighbouring levels, and over one forward pass."""
    values = _lengths(listed["StableDiffusion"])
    step = max(max(pair) / min(pair) for pair in pairwise(values))
    spans = {name: max(_lengths(listed[name])) / min(_lengths(listed[name])) for name in DIFFUSION}
    whole, other = units.times(spans["StableDiffusion"]), units.times(spans["Imagen"])
    for number in ("abs-06", "int-10", "int-19"):
        yield Score(
            number, f"{units.times(step)} from level to level, {whole} over one forward pass", step == 4,
            "between neighbouring levels", step - 4,
            f"over one pass 4 does not hold ({whole}; Imagen {other}): the caption of Fig. 8 "
            "itself says that lengths go up to 4,096",
        )  # fmt: skip
    yield Score("s5a-15", f"{max(values):,}", max(values) == 4096, "attention of pixels", max(values) - 4096)


def _shapes(listed: dict[str, list[Point]], profiles: dict[tuple[str, str], Profile]) -> Iterator[Score]:
    """The course of the lengths: of Parti linear, of Muse constant, of diffusion a U."""
    parti, muse = profiles["Parti", "baseline"], profiles["Muse", "baseline"]
    tokens = next(stage.steps for stage in parti.stages if stage.name == "decode")
    values = _lengths(listed["Parti"])
    linear = values == sorted(values) and values[-1] - values[0] + 1 == tokens
    yield Score("s5a-01", f"{values[0]:,} to {values[-1]:,} keys in {tokens:,} tokens", linear, "keys of a token")
    base, later = (sorted(set(_lengths(found))) for found in (listed["Muse"], points(muse, "super_resolution")))
    yield Score(
        "s5a-02", f"{', '.join(map(str, base))} at every call", len(base) == 1, "the base model",
        why=f"its super-resolution attends to {' and '.join(map(str, later))} tokens, within windows too",
    )  # fmt: skip
    shaped = {name: u_shaped(_lengths(listed[name])) for name in DIFFUSION}
    said = ", ".join(f"{name} {'falls, then rises' if yes else 'does not'}" for name, yes in shaped.items())
    yield Score("s5a-04", said, all(shaped.values()), "one denoising step, which all others repeat")


def _shorter(listed: dict[str, list[Point]]) -> Iterator[Score]:
    """How much shorter the sequences of diffusion models are than LLaMA's."""
    llm = _mean(listed["LLaMA"])
    values = [point.length for name in DIFFUSION for point in listed[name]]
    means = ", ".join(f"{name} {units.times(llm / _mean(listed[name]))}" for name in DIFFUSION)
    yield Score(
        "s5a-03", f"{units.times(llm / min(values))} shorter at the shortest; on average {means}",
        llm / min(values) >= 10, f"at the shortest, against {llm:,.0f} tokens of LLaMA on average",
        why=f"the study does not say how long LLaMA's text is; Stable Diffusion's longest, {max(values):,}, is "
        f"{'longer' if max(values) > llm else 'shorter'}",
    )  # fmt: skip


def u_shaped(values: Sequence[int]) -> bool:
    low = values.index(min(values))
    falls, rises = values[: low + 1], values[low:]
    ordered = falls == sorted(falls, reverse=True) and rises == sorted(rises)
    return ordered and values[0] == values[-1] > values[low]


def _follows(found: Found, rates: Rates, peak: float | None) -> Iterator[Score]:
    """Whether bandwidth follows length where the figure looks, in calls of the attention block; else it is said."""
    readings = {
        f"{window}, {WAYS[way]}": [rates[name, way, window] for name in TIMED] for way in WAYS for window in WINDOWS
    }
    scored = f"{WINDOWS[1]}, {WAYS['baseline']}"
    both = readings.pop(scored)
    others = "; ".join(f"{name} {' and '.join(map(_written, values))}" for name, values in readings.items())
    said = []
    for name, rate in zip(TIMED, both, strict=True):
        used = _line(found[name, "baseline"], WINDOWS[1])[1]
        low, high = (units.percent(x / peak) if peak else units.si(x, "B/s") for x in (min(used), max(used)))
        said.append(f"{name} r = {_written(rate)} ({low} to {high}{' of the peak' if peak else ''})")
    yield Score(
        "s5a-05",
        f"memory bandwidth: {', '.join(said)}",
        None if None in both else all(rate is not None and rate >= FOLLOWS for rate in both),
        f"half of the claim, memory bandwidth against length: {scored}",
        why=f"others: {others}",
    )
    yield Score(
        "s5a-05", "not computed", None, "the other half, the cache miss rate", why="no counters are at hand here"
    )
