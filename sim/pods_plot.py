"""The bandwidth that staggered requests ask for and get, over a step: all aligned, and with the best offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minimodels.sim import units
from minimodels.sim.figures import legend, name_panel, new_figure, plain, title_of
from minimodels.sim.pods import BINS, Pods, over_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("aligned", "best offsets")


def bandwidth(found: Pods) -> Figure:
    """Bandwidth over a step of all requests: asked for and moved, with the device's peak."""
    peak = found.profile.device.bandwidth
    assert peak is not None, "pods need it"
    figure, panels = new_figure(1.4 + 2.7 * len(SHOWN), len(SHOWN))
    window = max(found.ways[name].seconds for name in SHOWN)
    factor, prefix = units.scale(window, highest=0)
    asked_most = 0.0
    for axes, name in zip(panels, SHOWN, strict=True):
        way = found.ways[name]
        asked, moved = over_time(way.course, window)
        asked_most = max(asked_most, float(asked.max()), peak)
        x = np.linspace(0, window / factor, BINS + 1)
        axes.stairs(moved / 1e12, x, fill=True, color="#56B4E9", label="moved")
        axes.stairs(
            asked / 1e12, x, baseline=None, color="#D55E00", linewidth=1.2, label="asked for, each at its own speed"
        )
        label = f"peak, {plain(found.profile.device.title)}"
        axes.axhline(peak / 1e12, color="black", linestyle="--", linewidth=1, label=label)
        axes.set(ylabel="bandwidth (TB/s)", xlim=(0, window / factor))
        apart = ""
        if way.offsets is not None and any(way.offsets):
            apart = f" ({', '.join(f'{offset:.2f}' for offset in way.offsets)})"
        moved_mean = units.si(way.course.mean_moved(), "B/s")
        name_panel(axes, f"{name}{apart}: {units.seconds(way.seconds)}, {moved_mean} moved")
    for axes in panels:
        axes.set_ylim(0, 1.05 * asked_most / 1e12)
    panels[-1].set_xlabel(f"time in a step ({prefix}s)")
    model = f"{found.requests} requests of {plain(units.printable(found.profile.config['name']))}"
    figure.suptitle(title_of(model, [found.profile]))
    legend(figure, panels[0].get_legend_handles_labels()[0], columns=3)
    return figure
