"""Sequence length over one inference, beside the use of memory bandwidth and the misses of the L2 cache: Fig. 8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np

from minimodels.sim import units
from minimodels.sim.paper.draw import CYCLE, Panel, figure
from minimodels.sim.paper.points import WINDOWS, Point, correlation, miss_rates, points, sampled
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import Study
from minimodels.sim.profile import Profile

STAGES = {  # what is drawn, and what its horizontal axis spans
    "Imagen": (("unet",), "one denoising step of the base"),
    "Parti": (("decode",), "all decoded tokens"),
    "StableDiffusion": (("denoise",), "one denoising step"),
    "Muse": (("transformer",), "one step of parallel decoding"),
    "LLaMA": (("prefill", "decode"), "prefill, then all decoded tokens"),
}
TIMED = ("Imagen", "Parti")
DIFFUSION = ("Imagen", "StableDiffusion")
WAYS = {"baseline": "written out", "flash": "FlashAttention"}
FOLLOWS = 0.7  # a correlation that explains half of the variance


Found = dict[tuple[str, str], list[Point]]  # by workload and way
Rates = dict[tuple[str, str, str], float | None]  # by workload, way and window
Missed = dict[tuple[str, str, str], list[float | None]]  # the same: the L2 miss rate of every call


def _mean(listed: Sequence[Point]) -> float:
    """The mean length over all calls."""
    return float(np.average([point.length for point in listed], weights=[point.executions for point in listed]))


def fig8(study: Study) -> Result:
    """Sequence length over one inference of five models; bandwidth of Imagen and Parti over the same window."""
    timed = {(name, way): sampled(study, name, way) for name in TIMED for way in WAYS}
    profiles = {
        (name, way): timed[name, way][0] if name in TIMED else study.profile(name, way)
        for name in STAGES
        for way in WAYS
    }
    found = {(name, way): points(profile, *STAGES[name][0]) for (name, way), profile in profiles.items()}
    missed: Missed = {
        (name, way, window): rates
        for (name, way), (_, loaded) in timed.items()
        for window, rates in miss_rates(found[name, way], loaded).items()
    }
    rows = [
        (name, WAYS[way], point.stage, point.number, point.length, point.executions, *point.bandwidth.values(),
         "" if rate is None else rate)
        for (name, way), listed in found.items()
        for point, rate in zip(listed, missed.get((name, way, WINDOWS[1]), [None] * len(listed)), strict=True)
    ]  # fmt: skip
    header = ("workload", "attention", "stage", "call", "length (tokens)", "executions",
              *(f"bandwidth of {window} (B/s)" for window in WINDOWS), f"L2 miss rate of {WINDOWS[1]}")  # fmt: skip
    rates: Rates = {
        (name, way, window): correlation(found[name, way], [point.bandwidth[window] for point in found[name, way]])
        for name in TIMED
        for way in WAYS
        for window in WINDOWS
    }
    listed = {name: found[name, "baseline"] for name in STAGES}
    peak = profiles["Imagen", "baseline"].device.bandwidth
    scores = [*_varies(listed), *_shapes(listed, profiles), *_shorter(listed),
              *_follows(found, rates, peak, _sampling(profiles)), _misses_follow(found, missed)]  # fmt: skip
    return Result(_figure(found, rates, peak, missed), header, rows, scores)


def _figure(found: Found, rates: Rates, peak: float | None, missed: Missed) -> Any:
    """Imagen and Parti with their bandwidth and misses below, the other models, the lengths of all."""
    call, tokens, unit = "attention call", "sequence length (tokens)", "% of the peak" if peak else "B/s"
    lengths = [Panel(f"{name}: {said}", call, tokens) for name, (_, said) in STAGES.items()]
    used = [Panel(f"{name}: memory bandwidth, same calls", call, unit) for name in TIMED]
    misses = [Panel(f"{name}: L2 misses, same calls", call, "% of bytes asked for") for name in TIMED]
    whole = Panel("Shortest, mean (orange) and longest", tokens)
    made, axes = figure(*lengths[:2], *used, *misses, *lengths[2:], whole, height=2.8, columns=2)
    for axis, name in zip((*axes[:2], *axes[6:9]), STAGES, strict=True):
        _draw_lengths(axis, found[name, "baseline"])
    for axis, name in zip(axes[4:6], TIMED, strict=True):
        _draw_misses(axis, name, found, missed)
    for axis, name in zip(axes[2:4], TIMED, strict=True):
        _draw_bandwidth(axis, name, found, rates, 100 / peak if peak else 1.0)
    _draw_ranges(axes[9], found)
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
    _behind(axis, found[name, "baseline"])


def _draw_misses(axis: Any, name: str, found: Found, missed: Missed) -> None:
    lines = (
        ("baseline", WINDOWS[0], CYCLE[1], "-"),
        ("baseline", WINDOWS[1], CYCLE[0], "-"),
        ("flash", WINDOWS[1], CYCLE[3], ":"),
    )
    for way, window, colour, look in lines:
        listed, values = found[name, way], missed[name, way, window]
        numbers, shares = _by_step(listed, values)
        label = f"{window}, {WAYS[way]}: r = {_written(correlation(listed, values))}"
        axis.plot(numbers, [100 * share for share in shares], look, color=colour, linewidth=2, label=label)
    axis.set_ylim(0, 105)
    _behind(axis, found[name, "baseline"])


def _behind(axis: Any, listed: Sequence[Point]) -> None:
    """The sequence length behind the lines of a panel, as high as it, and the legend below."""
    top = axis.get_ylim()[1]
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
    """Bandwidth over the calls."""
    return _by_step(listed, [point.bandwidth[window] for point in listed])


def _by_step(listed: Sequence[Point], values: Sequence[float | None]) -> tuple[list[int], list[float]]:
    """A value over the calls; of a step of a growing loop, the mean of its calls."""
    groups: dict[int, list[tuple[int, float]]] = {}
    for point, value in zip(listed, values, strict=True):
        if value is not None:
            groups.setdefault(point.length if _growing(listed) else point.number, []).append((point.number, value))
    return [group[0][0] for group in groups.values()], [mean(value for _, value in group) for group in groups.values()]


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


def _sampling(profiles: dict[tuple[str, str], Profile]) -> str:
    """At how many of its tokens Parti is looked at."""
    profile = profiles["Parti", "baseline"]
    tokens = next(stage.steps for stage in profile.stages if stage.name == "decode")
    lengths = {point.length for point in points(profile, "decode")}
    return f"Parti at {len(lengths)} of its {tokens:,} tokens"


def _follows(found: Found, rates: Rates, peak: float | None, sampling: str) -> Iterator[Score]:
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
        why=f"{sampling}; others: {others}",
    )


def _misses_follow(found: Found, missed: Missed) -> Score:
    """Whether misses of the L2 cache follow length where the bandwidth is looked at; else it is said."""
    rates = {
        f"{window}, {WAYS[way]}": [correlation(found[name, way], missed[name, way, window]) for name in TIMED]
        for way in WAYS
        for window in WINDOWS
    }
    scored = f"{WINDOWS[1]}, {WAYS['baseline']}"
    both = rates.pop(scored)
    said = []
    for name, rate in zip(TIMED, both, strict=True):
        values = _by_step(found[name, "baseline"], missed[name, "baseline", WINDOWS[1]])[1]
        span = f" ({units.percent(min(values))} to {units.percent(max(values))} of bytes asked for)" if values else ""
        said.append(f"{name} r = {_written(rate)}{span}")
    others = "; ".join(f"{name} {' and '.join(map(_written, values))}" for name, values in rates.items())
    return Score(
        "s5a-05",
        "not computed" if None in both else f"L2 miss rate: {', '.join(said)}",
        None if None in both else all(rate is not None and rate >= FOLLOWS for rate in both),
        f"the other half, the cache miss rate: {scored}; whole tensors in a model of the L2 cache",
        why="no counters are at hand" if None in both else f"others: {others}",
    )
