"""How far the workloads use a GPU: Fig. 5, the roofline in both readings of arithmetic intensity, and Fig. 1.

The study divides FLOPs by the model capacity that is required (the bytes of the weights), so that every denoising step
adds to the intensity. A roofline means FLOPs over bytes moved. Both are drawn; the ridge is the device's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import nan, prod
from statistics import mean, median
from typing import Any

import numpy as np

from minimodels.sim import units, views
from minimodels.sim.paper.draw import Panel, figure, name_points
from minimodels.sim.paper.result import Result, Score, numbers
from minimodels.sim.paper.study import (
    DIFFUSION,
    IMAGES,
    TRANSFORMERS,
    WORKLOADS,
    Study,
    config_of,
    generators,
    image_side,
    where,
)
from minimodels.sim.profile import Profile

LLMS = ("llama2-7b", "llama2-13b", "llama2-70b")
KINDS = {**dict.fromkeys(DIFFUSION, "#009E73"), **dict.fromkeys(TRANSFORMERS, "#D55E00"), "LLaMA": "#0072B2"}
READINGS = {"capacity": "FLOPs over bytes of the weights, as the study defines it", "moved": "FLOPs over bytes moved"}
GPU = "a100-80gb"  # the study's
NEAR = 1.5  # factor within which "up to 100x" holds


def intensity(profile: Profile, reading: str, *stages: str) -> float:
    """FLOPs per byte of one inference, or of some of its stages; reading: a key of `READINGS`."""
    whole = views.totals(op for op in profile.ops if not stages or op.stage in stages)
    return float(whole.known_flops) / (profile.memory.weights if reading == "capacity" else float(whole.bytes))


def attained(profile: Profile, *stages: str) -> float:
    """FLOP/s over one inference, or over some of its stages."""
    seconds = views.elapsed(profile, *stages)
    assert seconds, "every operator is timed"
    return float(views.totals(op for op in profile.ops if not stages or op.stage in stages).known_flops) / seconds


def fig5(study: Study) -> Result:
    """The workloads on the device's roofline, in both readings of intensity; the language model also by phase."""
    profiles = {name: study.profile(name) for name in WORKLOADS}
    points = {name: (profile, ()) for name, profile in profiles.items()}
    points |= {f"LLaMA {stage.name}": (profiles["LLaMA"], (stage.name,)) for stage in profiles["LLaMA"].stages}
    ridge = _ridge(profiles["LLaMA"])
    rows = [
        (name, reading, intensity(profile, reading, *stages), attained(profile, *stages),
         "" if ridge is None else "compute" if intensity(profile, reading, *stages) > ridge else "memory")
        for name, (profile, stages) in points.items()
        for reading in READINGS
    ]  # fmt: skip
    header = ("workload", "reading", "FLOP per byte", "FLOP/s", "bound by")
    return Result(_fig5_figure(points), header, rows, list(_fig5_scores(profiles, ridge)))


def _ridge(profile: Profile) -> float | None:
    """FLOPs per byte from which on compute bounds; None where the device's rates are not known."""
    peak, bandwidth = profile.device.peak_flops, profile.device.bandwidth
    return peak / bandwidth if peak and bandwidth else None


def _fig5_figure(points: dict[str, tuple[Profile, tuple[str, ...]]]) -> Any:
    made, panels = figure(*(Panel("", f"{said} (FLOP/B)", "attained, TFLOP/s") for said in READINGS.values()))
    first, _ = next(iter(points.values()))
    for axes, reading in zip(panels, READINGS, strict=True):
        found = {n: (intensity(p, reading, *stages), attained(p, *stages) / 1e12) for n, (p, stages) in points.items()}
        ridge, peak = _ridge(first), (first.device.peak_flops or nan) / 1e12
        axes.set(xscale="log", yscale="log")
        roof: list[tuple[float, float]] = []
        for name, (x, y) in found.items():
            face = KINDS.get(name, "white")
            axes.plot([x], [y], "s" if name in TRANSFORMERS else "o" if name in DIFFUSION else "^", markersize=8,
                      color=KINDS[name.split()[0] if name not in KINDS else name], markerfacecolor=face)  # fmt: skip
        if ridge is not None:
            xs = [min(0.5, *(x for x, _ in found.values())), ridge, max(5 * x for x, _ in found.values())]
            axes.plot(xs, [peak * xs[0] / ridge, peak, peak], color="black", linewidth=1.2)
            roof = [(x, min(peak, peak * x / ridge)) for x in np.geomspace(xs[0], xs[-1], 100)]
            axes.axvspan(ridge, xs[-1], color="#EEEEEE", zorder=0)
            axes.set_xlim(xs[0], xs[-1])
            right = sum(x > ridge for name, (x, _) in found.items() if name in KINDS)
            axes.set_title(f"{right} of {len(KINDS)} right of the ridge, {units.digits(ridge)} FLOP/B: compute-bound "
                           f"(grey); {where(first)}", fontsize=10)  # fmt: skip
        heights = [y for _, y in found.values()] + ([] if ridge is None else [peak])
        axes.set_ylim(0.4 * min(heights), 2 * max(heights))
        name_points(axes, found, roof)
    shapes = (("diffusion", "o", DIFFUSION[0]), ("transformer", "s", TRANSFORMERS[0]), ("language model", "^", "LLaMA"))
    handles = [
        panels[0].plot([], [], shape, color=KINDS[name], markersize=8, label=label)[0] for label, shape, name in shapes
    ]
    made.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return made


def _fig5_scores(profiles: dict[str, Profile], ridge: float | None) -> Iterator[Score]:
    capacity = {name: intensity(profile, "capacity") for name, profile in profiles.items()}
    low, high = (pick(capacity, key=lambda name: capacity[name]) for pick in (min, max))
    yield Score(
        "s2c-05", f"{units.digits(capacity[low])} ({low}) to {units.count(capacity[high])} ({high}) FLOP/B", True,
        "FLOPs of one inference over bytes of all weights", why="grows with the steps; not bytes moved",
    )  # fmt: skip
    yield _over_llm(profiles)
    yield _side("f5-01", DIFFUSION, profiles, ridge, above=True)
    yield _side("f5-02", TRANSFORMERS, profiles, ridge, above=False)
    yield _latency(profiles)


def _side(number: str, names: tuple[str, ...], profiles: dict[str, Profile], ridge: float | None, above: bool) -> Score:
    """Whether workloads lie right of the ridge, or left of it, by the bytes they move."""
    moved, capacity = (
        {name: intensity(profiles[name], reading) for name in names} for reading in ("moved", "capacity")
    )
    said = ", ".join(f"{name} {units.digits(value)}" for name, value in moved.items()) + " FLOP/B"
    reading = "FLOPs over bytes moved, batch 1"
    if ridge is None:
        return Score(number, said, None, reading, why="the device's rates are not known")
    there, others = ([name for name in names if (found[name] > ridge) == above] for found in (moved, capacity))
    side = "right" if above else "left"
    why = "" if len(there) == len(names) else f"{side} of the ridge: {', '.join(there) or 'none'}"
    reading += f", ridge {units.digits(ridge)}; by capacity {len(others)} of {len(names)} {side} of it"
    return Score(number, said, len(there) == len(names), reading, why=why)


def _over_llm(profiles: dict[str, Profile]) -> Score:
    """The largest ratio of a diffusion model's intensity to the language model's, whole and by phase."""
    llama = profiles["LLaMA"]
    images = [name for name in DIFFUSION if name in IMAGES]

    def most(reading: str, *stages: str) -> tuple[float, str]:
        return max((intensity(profiles[n], reading) / intensity(llama, reading, *stages), n) for n in images)

    value, name = most("capacity")
    phases = [f"{stage.name} alone {units.times(most('capacity', stage.name)[0])}" for stage in llama.stages]
    lengths = f"{llama.run.prompt_len:,} + {llama.run.gen_len:,} tokens"
    return Score(
        "int-15", f"{units.times(value)} ({name})", 100 / NEAR <= value <= 100 * NEAR,
        f"FLOPs over bytes of the weights, LLaMA with {lengths}, within a factor of {NEAR}", value - 100,
        f"the lengths are ours: {', '.join(phases)}; by bytes moved {units.times(most('moved')[0])}",
    )  # fmt: skip


def _latency(profiles: dict[str, Profile]) -> Score:
    """Seconds of transformers over those of diffusion models, for images of the same side."""
    sides = {name: image_side(config_of(name)) for name in IMAGES}
    seconds = {name: views.elapsed(profiles[name]) or nan for name in IMAGES}
    ratios = {
        f"{a} over {b} at {sides[a]:,} pixels": seconds[a] / seconds[b]
        for a, b in product(TRANSFORMERS, DIFFUSION)
        if a in sides and b in sides and sides[a] == sides[b]
    }
    said = ", ".join(f"{name} {units.times(value)}" for name, value in ratios.items())
    average = prod(ratios.values()) ** (1 / len(ratios)) if ratios else nan
    return Score(
        "f5-03", said or "no pair of one size", average < 1 if ratios else None, "time per image, flash, batch 1",
        why=f"on the geometric average {units.times(average)}" if average >= 1 else "",
    )  # fmt: skip


def fig1(study: Study) -> Result:
    """What one inference uses of a GPU. The study's ratios are of a company's fleet and cannot be computed."""
    profiles = {name: study.profile(name) for name in WORKLOADS}
    rows = [
        (name, views.mfu(p), _bandwidth_share(p), p.memory.weights, p.memory.peak - p.memory.weights,
         p.memory.peak / (p.device.memory_bytes or nan))
        for name, p in profiles.items()
    ]  # fmt: skip
    header = ("workload", "share of peak FLOP/s", "share of bandwidth", "bytes of weights", "other bytes at the peak",
              "peak as a share of memory")  # fmt: skip
    return Result(_fig1_figure(profiles), header, rows, list(_fig1_scores(study, profiles)))


def _bandwidth_share(profile: Profile) -> float | None:
    rate, most = views.bandwidth(profile), profile.device.bandwidth
    return rate / most if rate and most else None


def _fig1_figure(profiles: dict[str, Profile]) -> Any:
    names, first = list(profiles), next(iter(profiles.values()))
    made, (use, memory) = figure(
        Panel("The fleet's ratios are not public. What one inference uses of one GPU's rates", y="% of the peak"),
        Panel(f"Memory at the peak of one inference, {where(first)}", y="GB"),
        height=3.2,
    )
    for shift, label, colour, share in (
        (-0.2, "FLOP/s", "#0072B2", views.mfu),
        (0.2, "memory bandwidth", "#E69F00", _bandwidth_share),
    ):
        shares = [100 * (share(profile) or nan) for profile in profiles.values()]
        bars = use.bar([place + shift for place in range(len(names))], shares, 0.38, color=colour, label=label)
        use.bar_label(bars, fmt="%.0f", fontsize=8)
    weights = [profile.memory.weights / 1e9 for profile in profiles.values()]
    rest = [(profile.memory.peak - profile.memory.weights) / 1e9 for profile in profiles.values()]
    memory.bar(names, weights, 0.6, color="#555555", label="weights")
    bars = memory.bar(names, rest, 0.6, weights, color="#56B4E9", label="activations and cache")
    memory.bar_label(bars, [f"{a + b:.0f}" for a, b in zip(weights, rest, strict=True)], fontsize=8)
    if first.device.memory_bytes:
        memory.axhline(
            first.device.memory_bytes / 1e9, color="black", linewidth=1, linestyle="--", label="the device's"
        )
    use.set_xticks(range(len(names)), names)
    use.margins(y=0.3)
    memory.margins(y=0.3)
    for axes in (use, memory):
        axes.tick_params(axis="x", labelsize=8)
        axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
    return made


def _fig1_scores(study: Study, profiles: dict[str, Profile]) -> Iterator[Score]:
    for number in ("f1-01", "int-04", "int-05"):
        yield Score(number, "not reproduced", None, why=f"needs Meta's fleet data: {numbers()[number].how}")
    yield Score("int-01", "not reproduced", None, why=numbers()["int-01"].how)
    peaks = {name: profile.memory.peak for name, profile in profiles.items()}
    ratio = mean(value for name, value in peaks.items() if name != "LLaMA") / peaks["LLaMA"]
    for number in ("f1-02", "int-06"):
        said = f"{units.times(ratio)} the peak memory of one inference"
        yield Score(number, said, None, f"mean of {len(peaks) - 1} over LLaMA",
                    why=f"another quantity; needs Meta's fleet data: {numbers()['f1-02'].how}")  # fmt: skip
    yield _sizes()
    title, memory = units.printable(profiles["LLaMA"].device.title), units.size(profiles["LLaMA"].device.memory_bytes)
    yield Score("s3-07", f"{title}, {memory}", True if study.device == GPU else None,
                why="" if study.device == GPU else "another device was asked for")  # fmt: skip
    yield Score("s3-08", "1", True, "every inference runs on one device")
    name = max(peaks, key=lambda name: peaks[name])
    fits = [profile.memory.fits for profile in profiles.values()]
    yield Score("s3-09", f"largest peak {units.size(peaks[name])} ({name})",
                None if None in fits else all(fits), "weights, activations and cache, batch 1, flash")  # fmt: skip


def _sizes() -> Score:
    """Parameters of the study's image and video models beside those of LLaMA-2 in its three sizes."""

    names = [name for name in WORKLOADS if name != "LLaMA"]
    ours, theirs = (median(generators(config_of(name)) for name in group) for group in (names, LLMS))
    return Score(
        "int-03",
        f"median {units.params(round(ours))} against {units.params(round(theirs))}: {units.times(theirs / ours)}",
        None,
        f"networks that make tokens, latents or pixels, of {len(names)} models; {', '.join(LLMS)}",
        why="the fleet's models are not public",
    )  # fmt: skip
