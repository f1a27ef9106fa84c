"""The picture of Fig. 8: sequence lengths, and of two models the bandwidth and the L2 misses of the same calls."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np

from minimodels.sim.paper.draw import CYCLE, Panel, figure
from minimodels.sim.paper.points import WINDOWS, Point, correlation

STAGES = {  # what is drawn, and what its horizontal axis spans
    "Imagen": (("unet",), "one denoising step of the base"),
    "Parti": (("decode",), "all decoded tokens"),
    "StableDiffusion": (("denoise",), "one denoising step"),
    "Muse": (("transformer",), "one step of parallel decoding"),
    "LLaMA": (("prefill", "decode"), "prefill, then all decoded tokens"),
}
TIMED = ("Imagen", "Parti")
WAYS = {"baseline": "written out", "flash": "FlashAttention"}

Found = dict[tuple[str, str], list[Point]]  # by workload and way
Rates = dict[tuple[str, str, str], float | None]  # by workload, way and window
Missed = dict[tuple[str, str, str], list[float | None]]  # the same: the L2 miss rate of every call


def mean_length(listed: Sequence[Point]) -> float:
    """The mean length over all calls."""
    return float(np.average([point.length for point in listed], weights=[point.executions for point in listed]))


def picture(found: Found, rates: Rates, peak: float | None, missed: Missed, said: str) -> Any:
    """Imagen and Parti with their bandwidth and misses below, the other models, the lengths of all."""
    call, tokens, unit = "attention call", "sequence length (tokens)", "% of the peak" if peak else "B/s"
    lengths = [Panel(f"{name}: {span}", call, tokens) for name, (_, span) in STAGES.items()]
    spans = {name: "some of the tokens" if _growing(found[name, "baseline"]) else "same calls" for name in TIMED}
    used = [Panel(f"{name}: bandwidth, {span}", call, unit) for name, span in spans.items()]
    misses = [Panel(f"{name}: L2 misses, {span}", call, "% of bytes asked for") for name, span in spans.items()]
    whole = Panel("Shortest, mean (orange) and longest", tokens)
    made, axes = figure(*lengths[:2], *used, *misses, *lengths[2:], whole, height=2.8, columns=2,
                        above=said)  # fmt: skip
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
        axis.plot([mean_length(listed)], [place], "o", color=CYCLE[1])
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
        ("baseline", WINDOWS[0], CYCLE[1], "-o"),
        ("baseline", WINDOWS[1], CYCLE[0], "-s"),
        ("baseline", WINDOWS[2], CYCLE[2], "--^"),
        ("flash", WINDOWS[1], CYCLE[3], ":D"),
    )
    for way, window, colour, style in lines:
        numbers, values = line(found[name, way], window)
        label = f"{window}, {WAYS[way]}: r = {written(rates[name, way, window])}"
        look = _look(found[name, way], colour)
        axis.plot(numbers, [scale * value for value in values], style, **look, label=label)
    _behind(axis, found[name, "baseline"])


def _draw_misses(axis: Any, name: str, found: Found, missed: Missed) -> None:
    lines = (
        ("baseline", WINDOWS[0], CYCLE[1], "-o"),
        ("baseline", WINDOWS[1], CYCLE[0], "-s"),
        ("flash", WINDOWS[1], CYCLE[3], ":D"),
    )
    for way, window, colour, style in lines:
        listed, values = found[name, way], missed[name, way, window]
        numbers, shares = by_step(listed, values)
        label = f"{window}, {WAYS[way]}: r = {written(correlation(listed, values))}"
        axis.plot(numbers, [100 * share for share in shares], style, **_look(listed, colour), label=label)
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


def _look(listed: Sequence[Point], colour: str) -> dict[str, Any]:
    """Marks joined by lines; between a few steps of a growing loop nothing is known, so that they stand alone."""
    return {"color": colour, "markersize": 5 if _growing(listed) else 4, "linewidth": 0 if _growing(listed) else 1.5}


def line(listed: Sequence[Point], window: str) -> tuple[list[int], list[float]]:
    """Bandwidth over the calls."""
    return by_step(listed, [point.bandwidth[window] for point in listed])


def by_step(listed: Sequence[Point], values: Sequence[float | None]) -> tuple[list[int], list[float]]:
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


def written(rate: float | None) -> str:
    """A correlation as it is said."""
    return "none" if rate is None else f"{rate:.2f}"
