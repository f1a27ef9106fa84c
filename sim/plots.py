"""Plots of one or more Profiles: one function per kind, each returning a matplotlib Figure.

Every number drawn is derived from the profiles (`minimodels.sim.views`). A category has one colour in all
plots; simulated bars are hatched, measured ones plain. What has an unknown time is not drawn, and the plot
says so. matplotlib is imported when a plot is made, not before.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from minimodels.sim import units, views
from minimodels.sim.figures import WIDE, legend, letters, name_panel, new_figure, patch, plain, title_of
from minimodels.sim.flops import executed_flops
from minimodels.sim.profile import CATEGORIES, DeviceRecord, Profile
from minimodels.sim.views import AttentionCall, Totals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCH = {"simulated": "//", "measured": ""}
ROLES = {"self": "#0072B2", "cross": "#D55E00", "spatial": "#009E73", "temporal": "#CC79A7", "joint": "#E69F00"}
STAGE_HATCHES = ("", "//", "..", "\\\\", "xx", "--")
STAGE_EDGE = "#404040"
FAR_APART = 20  # ratio of the longest to the shortest time from which on bars are shares
MARKERS = "os^Dvp*Xh<>"
RAMP = 256  # points of a line on a logarithmic axis
FINE = 400  # parts of an axis that a picture tells apart


def _stage_looks(profile: Profile) -> dict[str, tuple[str, str]]:
    """A grey and a hatch for each stage, light to dark: colours are for categories and roles."""
    steps = max(1, len(profile.stages) - 1)
    hatches = itertools.cycle(STAGE_HATCHES)
    return {stage.name: (f"{0.92 - 0.47 * i / steps:.3f}", next(hatches)) for i, stage in enumerate(profile.stages)}


def _untimed(profile: Profile) -> str:
    """A note on the operators that cannot be drawn, empty if there are none."""
    missing = views.totals(profile.ops).untimed
    return f" ({missing} of {len(profile.ops)} operators have no time and are not drawn)" if missing else ""


def _stack(axes: Axes, y: float, parts: dict[str, Totals], source: str, factor: float, least: float) -> None:
    """One bar of seconds / `factor` stacked by category; segments longer than `least` carry their share."""
    whole, left = math.fsum(part.known_seconds for part in parts.values()), 0.0
    look: dict[str, Any] = {"height": 0.8, "hatch": HATCH[source], "edgecolor": "white", "linewidth": 0.5}
    for name, part in parts.items():
        width = part.known_seconds
        axes.barh(y, width / factor, left=left / factor, color=units.COLOURS[name], **look)
        if whole and width > least:
            place = ((left + width / 2) / factor, y)
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            axes.annotate(units.percent(width / whole), place, ha="center", va="center", fontsize=8, bbox=box)
        left += width
    text = ("≥ " if any(part.untimed for part in parts.values()) else "") + units.seconds(whole)
    axes.annotate(text, (left / factor, y), (4, 0), textcoords="offset points", va="center", fontsize=9)


def _bars(
    what: str, profiles: Sequence[Profile], groups: Sequence[dict[str, dict[str, Totals]]], width: float
) -> Figure:
    """Under the name of each profile, a stacked bar for each part of its group.

    Bars are seconds, or shares of the profile's time where the times of the profiles are far apart.
    """
    lengths = [[math.fsum(part.known_seconds for part in parts.values()) for parts in bars.values()] for bars in groups]
    wholes = [views.totals(profile.ops).known_seconds for profile in profiles]
    shares = max(wholes, default=0.0) > FAR_APART * min((whole for whole in wholes if whole), default=0.0)
    second, prefix = units.scale(max(map(max, lengths), default=0.0), highest=0)
    factors = [(whole or 1.0) / 100 if shares else second for whole in wholes]
    longest = max((max(row) / factor for row, factor in zip(lengths, factors, strict=True)), default=0.0) or 1.0
    names = [
        textwrap.wrap(name + _untimed(p), letters(width))
        for p, name in zip(profiles, map(plain, units.labels(profiles)), strict=True)
    ]
    more = [0.6 * (len(lines) - 1) for lines in names]  # room for each further line of a name, in bars
    figure, (axes,) = new_figure(1.3 + 0.4 * (sum(map(len, lengths)) + len(profiles) + sum(more)), width=width)
    ticks: dict[float, str] = {}
    y = more[0]
    for profile, lines, bars, factor, gap in zip(profiles, names, groups, factors, [*more[1:], 0.0], strict=True):
        text = axes.text(0, y - 0.5, "\n".join(lines), va="bottom", fontsize=10, fontweight="bold")
        text.set_in_layout(False)
        for bar, parts in bars.items():
            _stack(axes, y, parts, profile.source, factor, longest * factor / 1.5 / width)
            ticks[y] = plain(bar.replace("_", " "))
            y += 1
        y += 0.9 + gap
    axes.set_yticks(list(ticks), list(ticks.values()))
    label = "share of the time of each profile (%)" if shares else f"time ({prefix}s)"
    axes.set(ylim=(y - 1.3, -1.1), xlim=(0, (1 + 1.2 / width) * longest), xlabel=label)
    axes.set_title(title_of(what, profiles, width), fontsize=11)
    used = {name for bars in groups for parts in bars.values() for name in parts}
    patches = [patch(name, units.COLOURS[name]) for name in CATEGORIES if name in used]
    sources = sorted({profile.source for profile in profiles})
    legend(figure, patches + [patch(source, "white", HATCH[source], "black") for source in sources])
    return figure


def breakdown(profiles: Sequence[Profile], width: float = WIDE) -> Figure:
    """Time by category in both readings: a pair of stacked bars per profile."""
    groups = [{reading: views.by_category(p, reading) for reading in views.READINGS} for p in profiles]
    return _bars("Time by category", profiles, groups, width)


def stages(profiles: Sequence[Profile], width: float = WIDE) -> Figure:
    """Time of each stage, stacked by category (core): a bar per stage and profile."""
    groups = [{stage.name: views.by_category(p, "core", stage.name) for stage in p.stages} for p in profiles]
    return _bars("Time by stage and category (core)", profiles, groups, width)


Point = tuple[str, float, float]  # category, FLOPs per byte, FLOP/s


def _points(profile: Profile) -> dict[Point, float]:
    """Where the operators lie in the roofline, with their seconds; equal to 2 % means one point."""
    found: dict[Point, float] = {}
    for op in profile.ops:
        moved, flops = op.bytes_read + op.bytes_written, float(executed_flops(op))
        if flops and moved and op.device_seconds:
            place = (round(math.log10(flops / moved), 2), round(math.log10(flops / op.device_seconds), 2))
            key = (op.category, 10 ** place[0], 10 ** place[1])
            found[key] = found.get(key, 0.0) + op.weight * op.device_seconds
    return found


def _roof(axes: Axes, device: DeviceRecord, left: float, right: float, style: str) -> None:
    """The bandwidth slope and the peak of `device`, from `left` to `right` FLOPs per byte."""
    peak, slope = device.peak_flops, device.bandwidth
    assert peak and slope, "roofline() has checked both"
    ridge = peak / slope
    rates = f"{units.si(peak, 'FLOP/s')}, {units.si(slope, 'B/s')}"
    text = f"{plain(device.title)}: {rates}, ridge at {units.digits(ridge)} FLOP/B"
    xs = [left, min(max(ridge, left), right), right]
    axes.plot(xs, [min(peak, slope * x) for x in xs], style, color="black", lw=1.2, label=text, zorder=1)


def roofline(profiles: Sequence[Profile], width: float = WIDE) -> Figure:
    """Operators under the roof of their device; area is time, colour category, shape profile.

    Raises:
        ValueError: the peak or the bandwidth of a device is unknown.
    """
    from matplotlib.lines import Line2D

    roofs = {profile.device.title: profile.device for profile in profiles}
    for title, device in roofs.items():
        if not device.peak_flops or not device.bandwidth:
            raise ValueError(f"no roofline: peak FLOP/s or bandwidth of {title} is unknown to the profile")
    found = [_points(profile) for profile in profiles]
    ridges = [
        device.peak_flops / device.bandwidth for device in roofs.values() if device.peak_flops and device.bandwidth
    ]
    xs = [point[1] for points in found for point in points] + ridges
    figure, (axes,) = new_figure(6 if width == WIDE else 4, width=width)
    for device, style in zip(roofs.values(), ["-", "--", ":", "-."] * len(roofs), strict=False):
        _roof(axes, device, min(xs) / 2, max(xs) * 3, style)
    names, shapes = list(map(plain, units.labels(profiles))), MARKERS * len(profiles)
    handles = list(axes.get_lines())
    for profile, points, shape, name in zip(profiles, found, shapes, names, strict=False):
        whole = math.fsum(points.values())
        sizes = [12 + 500 * seconds / whole for seconds in points.values()]
        colours = [units.COLOURS[point[0]] for point in points]
        x, y = [point[1] for point in points], [point[2] for point in points]
        axes.scatter(x, y, sizes, colours, marker=shape, alpha=0.75, edgecolors="black", linewidths=0.4, zorder=2)
        text = name + _untimed(profile)
        handles.append(Line2D([], [], ls="", marker=shape, mfc="white", mec="black", label=text))
    axes.set(xscale="log", yscale="log", xlabel="arithmetic intensity (FLOP/B)", ylabel="achieved (FLOP/s)")
    axes.set_title(title_of("Roofline (area: share of device time)", profiles, width))
    used = {point[0] for points in found for point in points}
    handles += [patch(name, units.COLOURS[name]) for name in CATEGORIES if name in used]
    legend(figure, handles, columns=2)
    return figure


def thinned(points: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Of each stretch of `length` calls the first point, the lowest, the highest and the last: what a picture shows."""
    kept: set[int] = {len(points) - 1}
    for _, group in itertools.groupby(range(len(points)), key=lambda index: points[index][0] // length):
        part = list(group)
        sizes = [points[index][1] for index in part]
        kept |= {part[0], part[-1], part[sizes.index(min(sizes))], part[sizes.index(max(sizes))]}
    return [points[index] for index in sorted(kept)]


def memory(profiles: Sequence[Profile], width: float = WIDE) -> Figure:
    """Bytes in use over the calls, coloured by stage, with the weights and the capacity of the device."""
    figure, panels = new_figure(0.6 + 3.4 * len(profiles), len(profiles), width)
    for axes, profile, name in zip(panels, profiles, map(plain, units.labels(profiles)), strict=True):
        facts, capacity = profile.memory, profile.device.memory_bytes or 0
        shown = max(facts.peak, capacity if capacity < 20 * facts.peak else 0)
        factor, prefix = units.scale(shown)
        looks = _stage_looks(profile)
        for stage, points in views.timelines(profile):
            shade, hatch = looks[stage]
            look: dict[str, Any] = {"facecolor": shade, "hatch": hatch, "edgecolor": STAGE_EDGE, "linewidth": 0}
            shown_points = thinned(points, max(1, len(profile.calls) // FINE))
            axes.fill_between([x for x, _ in shown_points], [y / factor for _, y in shown_points], step="post", **look)
        axes.axhline(facts.weights / factor, color="black", ls=":", label=f"weights, {units.size(facts.weights)}")
        if capacity:
            off = "" if shown >= capacity else " (off the axis)"
            text = f"{plain(profile.device.title)}, {units.size(capacity)}{off}"
            axes.axhline(math.nan if off else capacity / factor, color="black", ls="--", label=text)
        axes.set(xlabel="operator, in call order", ylabel=f"memory in use ({prefix}B)", ylim=(0, 1.06 * shown / factor))
        name_panel(axes, f"{name}: peak {units.size(facts.peak)}")
        axes.margins(x=0)
        handles = [patch(plain(s.replace("_", " ")), *look, STAGE_EDGE) for s, look in looks.items()]
        handles += axes.get_lines()
        if width == WIDE:
            axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
        else:
            legend(figure, handles, columns=2)
    figure.suptitle(title_of("Memory over the run", profiles, width))
    return figure


def _lengths(calls: Sequence[AttentionCall], role: str) -> tuple[list[float], list[float], list[float]]:
    """Call numbers, query and key lengths of one role, with a gap (nan) after each stage.

    A loop that was profiled at a few of its steps lists a few of its key lengths; the others lie on the line
    between them, since only loops whose work is affine in the step are profiled so.
    """
    rows: list[tuple[float, float, float]] = []
    mine = [(x, call) for x, call in enumerate(calls) if call.facts.role == role]
    for _, group in itertools.groupby(mine, key=lambda item: item[1].stage):
        xs, stage = zip(*group, strict=True)
        queries, keys = [call.facts.query_length for call in stage], [call.facts.key_length for call in stage]
        start, end = xs[0], xs[-1] + 1
        sampled = any(call.executions > 1 for call in stage)
        if sampled and set(queries) == {1} and keys == sorted(keys) and keys[0] < keys[-1]:
            part = [i / RAMP for i in range(RAMP + 1)]
            rows += [(start + t * (end - start), 1, keys[0] + t * (keys[-1] - keys[0])) for t in part]
        else:
            rows += [(x, q, k) for i, (x, q, k) in enumerate(zip(xs, queries, keys, strict=True)) if _changes(i, stage)]
        rows += [(end, queries[-1], keys[-1]), (end, math.nan, math.nan)]
    numbers, queries, keys = (list(column) for column in zip(*rows, strict=True))
    return numbers, queries, keys


def _changes(index: int, calls: Sequence[AttentionCall]) -> bool:
    """Whether a call's lengths are not those of the call before it; a line holds until they change."""
    before, now = (calls[i].facts for i in (index - 1, index))
    return not index or (before.query_length, before.key_length) != (now.query_length, now.key_length)


def seqlen(profiles: Sequence[Profile], width: float = WIDE) -> Figure:
    """Query and key length of every attention call in order: colour is the role; a broad line keys, a thin one queries.

    Raises:
        ValueError: a profile has no attention.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure, panels = new_figure(0.8 + 3.0 * len(profiles), len(profiles), width)
    roles: set[str] = set()
    for axes, profile, name in zip(panels, profiles, map(plain, units.labels(profiles)), strict=True):
        calls = views.attention_calls(profile)
        if not calls:
            raise ValueError(f"no sequence lengths: {name} calls no attention")
        present = [role for role in ROLES if any(call.facts.role == role for call in calls)]
        for i, role in enumerate(present):
            xs, queries, keys = _lengths(calls, role)
            look: dict[str, Any] = {"color": ROLES[role], "drawstyle": "steps-post"}
            dashes = (4.0 * i, (4.0, 4.0 * (len(present) - 1)))  # roles of one length take turns on the line
            axes.plot(xs, keys, lw=5, alpha=0.4, solid_capstyle="butt", **look)
            axes.plot(xs, queries, lw=1.5, ls=dashes if len(present) > 1 else "-", **look)
        roles.update(present)
        lengths = [length for call in calls for length in (call.facts.query_length, call.facts.key_length)]
        axes.set_yscale("log", base=2)
        axes.set_ylim(min(lengths) / 1.5, max(lengths) * 1.5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        run = units.count(sum(call.executions for call in calls))
        said = f"attention call, in order ({len(calls):,} listed, {run} in the whole run)"
        axes.set(xlabel=textwrap.fill(said, letters(width)), ylabel="tokens")
        name_panel(axes, name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title_of("Sequence lengths of attention", profiles, width))
    handles: list[Any] = [patch(f"{role} attention", colour) for role, colour in ROLES.items() if role in roles]
    handles += [Line2D([], [], lw=5, alpha=0.4, color="black", label="key length")]
    handles += [Line2D([], [], lw=1.5, color="black", label="query length")]
    legend(figure, handles, columns=4)
    return figure


KINDS: dict[str, Callable[..., Figure]] = {
    plot.__name__: plot for plot in (breakdown, roofline, memory, seqlen, stages)
}
