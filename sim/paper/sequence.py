"""Sequence length over one inference, beside the use of memory bandwidth and the misses of the L2 cache: Fig. 8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from minimodels.sim import units
from minimodels.sim.paper.points import WINDOWS, Point, correlation, miss_rates, points, sampled
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.sequence_picture import (
    STAGES,
    TIMED,
    WAYS,
    Found,
    Missed,
    Rates,
    by_step,
    line,
    mean_length,
    picture,
    written,
)  # fmt: skip
from minimodels.sim.paper.study import Study, where
from minimodels.sim.profile import Profile

DIFFUSION = ("Imagen", "StableDiffusion")
FOLLOWS = 0.7  # a correlation that explains half of the variance


def fig8(study: Study) -> Result:
    """Sequence length over one inference of five models; memory bandwidth and L2 misses of Imagen and Parti over the
    same calls."""
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
    said = f"Lengths as called; times {where(profiles['Imagen', 'baseline'])}, L2 misses in a model of its cache"
    return Result(picture(found, rates, peak, missed, said), header, rows, scores)


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
    llm = mean_length(listed["LLaMA"])
    values = [point.length for name in DIFFUSION for point in listed[name]]
    means = ", ".join(f"{name} {units.times(llm / mean_length(listed[name]))}" for name in DIFFUSION)
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
    others = "; ".join(f"{name} {' and '.join(map(written, values))}" for name, values in readings.items())
    said = []
    for name, rate in zip(TIMED, both, strict=True):
        used = line(found[name, "baseline"], WINDOWS[1])[1]
        low, high = (units.percent(x / peak) if peak else units.si(x, "B/s") for x in (min(used), max(used)))
        said.append(f"{name} r = {written(rate)} ({low} to {high}{' of the peak' if peak else ''})")
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
        values = by_step(found[name, "baseline"], missed[name, "baseline", WINDOWS[1]])[1]
        span = f" ({units.percent(min(values))} to {units.percent(max(values))} of bytes asked for)" if values else ""
        said.append(f"{name} r = {written(rate)}{span}")
    others = "; ".join(f"{name} {' and '.join(map(written, values))}" for name, values in rates.items())
    return Score(
        "s5a-05",
        "not computed" if None in both else f"L2 miss rate: {', '.join(said)}",
        None if None in both else all(rate is not None and rate >= FOLLOWS for rate in both),
        f"the other half, the cache miss rate: {scored}; whole tensors in a model of the L2 cache",
        why="no counters are at hand" if None in both else f"others: {others}",
    )
