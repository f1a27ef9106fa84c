"""Time in attention and in convolution as the image grows: Fig. 10, for Stable Diffusion.

The study plots the time of kernels; here the time that the device waits for the host is told apart, too. Sizes beyond
the study's show where attention takes longer again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from minimodels.sim import units, views
from minimodels.sim.paper.draw import CYCLE, Panel, figure
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.sizes import SIZES
from minimodels.sim.paper.study import Study, kernel_seconds, where

BEYOND = (768, 1024)  # pixels, where the study does not go
WAYS = {"baseline": "Attention written out", "flash": "FlashAttention"}
CLOCKS = ("kernels", "elapsed")  # without and with the time the device waits for the host

Times = dict[tuple[str, int, str, str, str], float]  # by way, image size, category, reading and clock: seconds


def fig10(study: Study) -> Result:
    """Time in attention and in convolution by image size, before and after FlashAttention."""
    times: Times = {}
    for way, size in product(WAYS, (*SIZES, *BEYOND)):
        profile = study.profile("StableDiffusion", way, image_size=size)
        for reading, category in product(views.READINGS, ("Attention", "Convolution")):
            ops = [op for op in profile.ops if views.category(op, reading) == category]
            for clock, seconds in zip(CLOCKS, (kernel_seconds(ops), views.totals(ops).known_seconds), strict=True):
                times[way, size, category, reading, clock] = seconds
    rows = [(*key, seconds) for key, seconds in times.items()]
    header = ("attention", "image size (pixels)", "category", "reading", "clock", "seconds")
    made = _fig10_figure(times, where(study.profile("StableDiffusion")))
    return Result(made, header, rows, list(_fig10_scores(times)))


def _fig10_figure(times: Times, said: str) -> Any:
    made, axes = figure(
        *(Panel(f"{way}: time of kernels", "image size (pixels)", "seconds") for way in WAYS.values()),
        *(Panel(f"{way}: growth from 64 pixels on", "image size (pixels)", "times as long") for way in WAYS.values()),
        height=3.6, columns=2, above=f"Stable Diffusion 1.5, {said}",
    )  # fmt: skip
    lines = (
        ("Convolution", "core", units.COLOURS["Convolution"], "-o", "convolution"),
        ("Attention", "core", units.COLOURS["Attention"], "-s", "attention, its kernels alone (core)"),
        ("Attention", "module", units.COLOURS["Elementwise"], "--^", "attention, all of its block (module)"),
    )
    most = max(seconds / times[key[0], SIZES[0], *key[2:]] for key, seconds in times.items())
    for column, way in enumerate(WAYS):
        for category, reading, colour, style, label in lines:
            look: dict[str, Any] = {"color": colour, "label": label, "markersize": 4, "linewidth": 2}
            own = {size: times[way, size, category, reading, "kernels"] for size in (*SIZES, *BEYOND)}
            axes[column].plot(SIZES, [own[size] for size in SIZES], style, **look)
            axes[2 + column].plot(list(own), [seconds / own[SIZES[0]] for seconds in own.values()], style, **look)
        axes[column].set_xticks((64, 128, 256, 384, 512))
        _beyond(axes[2 + column])
    for axis in axes[:2]:
        axis.set_ylim(0, 1.05 * max(times[way, SIZES[-1], "Attention", "module", "kernels"] for way in WAYS))
    for axis in axes[2:]:
        axis.set_ylim(0.7, 1.3 * most)
    made.legend(handles=axes[0].get_lines(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return made


def _beyond(axis: Any) -> None:
    """Logarithmic axes with a grey ground where the study does not go."""
    axis.axvspan(SIZES[-1], BEYOND[-1], color=CYCLE[7], alpha=0.3, linewidth=0)
    axis.annotate("beyond\nthe study", (540, 0.8), fontsize=8)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks((64, 128, 256, 512, 1024), ("64", "128", "256", "512", "1,024"))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.xaxis.minorticks_off()


def _fig10_scores(times: Times) -> Iterator[Score]:
    """Which of the two grows more, as a ratio in the core reading, and in the others."""
    yield Score("f10-01", f"{SIZES[0]} to {SIZES[-1]}, every {SIZES.step}", True, "what the UNet can halve")
    grows = _ratio(times, "baseline", "Attention") > _ratio(times, "baseline", "Convolution")
    yield Score(
        "f10-02", _growth(times, "baseline"), grows, "512 over 64 pixels, core reading, kernels",
        why=_others(times, "baseline", grows),
    )  # fmt: skip
    ahead = [size for size in SIZES if _convolution_leads(times, size)]
    yield Score(
        "f10-03", f"longer than attention at {len(ahead)} of {len(SIZES)} sizes", len(ahead) == len(SIZES),
        "the limiting factor: core reading, kernels",
    )  # fmt: skip
    overtaken = next((size for size in (*SIZES, *BEYOND) if not _convolution_leads(times, size)), None)
    later = (
        f"attention takes longer again at {overtaken:,} pixels" if overtaken else "convolution leads to 1,024 pixels"
    )
    attention, convolution = (_added(times, "flash", category) for category in ("Attention", "Convolution"))
    grows = _ratio(times, "flash", "Attention") > _ratio(times, "flash", "Convolution")
    why = (
        f"{_others(times, 'flash', grows)}; in seconds attention +{units.seconds(attention)}, convolution "
        f"+{units.seconds(convolution)}; {later}"
    )
    for number in ("f10-03", "int-21"):  # one claim, one measure
        yield Score(
            number, _growth(times, "flash"), not grows, "larger scaling: 512 over 64 pixels, core reading, kernels",
            why=why,
        )  # fmt: skip


def _ratio(times: Times, way: str, category: str, reading: str = "core", clock: str = "kernels") -> float:
    """How many times as long something takes at the largest size of the study as at the smallest."""
    small, large = (times[way, size, category, reading, clock] for size in (SIZES[0], SIZES[-1]))
    return large / small


def _added(times: Times, way: str, category: str) -> float:
    """Seconds of kernels that the largest size adds to the smallest, in the core reading."""
    small, large = (times[way, size, category, "core", "kernels"] for size in (SIZES[0], SIZES[-1]))
    return large - small


def _growth(times: Times, way: str) -> str:
    attention, convolution = (units.times(_ratio(times, way, category)) for category in ("Attention", "Convolution"))
    return f"attention {attention}, convolution {convolution}"


def _others(times: Times, way: str, attention_ahead: bool) -> str:
    """Readings and clocks in which the other of the two grows more."""
    against = [
        f"{reading}, {clock}"
        for reading, clock in product(views.READINGS, CLOCKS)
        if (_ratio(times, way, "Attention", reading, clock) > _ratio(times, way, "Convolution", reading, clock))
        is not attention_ahead
    ]
    ahead = "attention" if attention_ahead else "convolution"
    return f"{ahead} grows more, but not in {'; '.join(against)}" if against else (
        f"{ahead} grows more in both readings, with and without the host's time"
    )  # fmt: skip


def _convolution_leads(times: Times, size: int) -> bool:
    attention, convolution = (
        times["flash", size, category, "core", "kernels"] for category in ("Attention", "Convolution")
    )
    return convolution > attention
