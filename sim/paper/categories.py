"""Where the time of the workloads goes, by category of operator: the table and the picture of Fig. 7.

The table has what the differences from the study come from, too: single stages, and means over parts of the suite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from statistics import mean
from typing import Any

from minimodels.sim import units, views
from minimodels.sim.paper.breakdown import WAYS, Pairs, group_norms, seconds, shares
from minimodels.sim.paper.draw import Panel, figure
from minimodels.sim.paper.study import IMAGES, STAND_IN, where
from minimodels.sim.profile import CATEGORIES, Profile

HEADER = ("workload", "stage", "reading", "attention", "category", "share of its time", "share of the baseline's time",
          "speed-up by FlashAttention")  # fmt: skip
LARGE = 0.1  # of the baseline's time: a stage that has rows of its own
SEEN = 0.5  # % of the baseline's time: a thinner bar is not seen
GROUP_NORM = "Norm: group norm"


def rows(pairs: Pairs) -> list[tuple[Any, ...]]:
    """The rows of the table: every workload, its large stages, and means over parts of the suite."""
    found: list[tuple[Any, ...]] = []
    for (name, pair), reading in product(pairs.items(), views.READINGS):
        for stage in ("", *_large(pair[0])):
            found += _rows(name, stage, reading, pair)
    return found + list(_means(found, pairs))


def _large(profile: Profile) -> list[str]:
    """Stages with a tenth of the time or more, where there are several."""
    names = [stage.name for stage in profile.stages if seconds(profile, stage.name) > LARGE * seconds(profile)]
    return names if len(profile.stages) > 1 else []


def _rows(name: str, stage: str, reading: views.Reading, pair: tuple[Profile, Profile]) -> Iterator[tuple[Any, ...]]:
    stages = (stage,) if stage else ()
    whole = seconds(pair[0], *stages)
    before: dict[str, float] = {}
    for way, profile in zip(WAYS, pair, strict=True):
        found = shares(profile, reading, *stages)
        if reading == "core" and (norms := group_norms(profile, *stages)):
            found[GROUP_NORM] = norms
        for category, share in found.items():
            scaled = share * seconds(profile, *stages) / whole
            if way == WAYS[0]:
                before[category] = scaled
            gained = before[category] / scaled if category in before else ""
            yield name, stage, reading, way, category, share, scaled, gained


def _means(found: list[tuple[Any, ...]], pairs: Pairs) -> Iterator[tuple[Any, ...]]:
    """The mean share of attention over parts of the suite."""
    suite = [name for name in pairs if name != "LLaMA"]
    groups = {
        "mean of all but LLaMA": suite,
        "mean of text-to-image": [name for name in suite if name in IMAGES],
        f"mean without {STAND_IN}": [name for name in suite if name != STAND_IN],
    }
    of = {row[:5]: row[5:7] for row in found}
    for (said, names), reading, way in product(groups.items(), views.READINGS, WAYS):
        own = [of[name, "", reading, way, "Attention"] for name in names]
        yield said, "", reading, way, "Attention", *map(mean, zip(*own, strict=True)), ""


def picture(pairs: Pairs) -> Any:
    """Bars of every workload, as high as its time over that with attention written out, in both readings."""
    left = "left with attention written out, right with FlashAttention"
    panels = (Panel(f"{said.capitalize()} reading: {left}", y="% of the baseline's time") for said in views.READINGS)
    made, grid = figure(*panels, height=3.6, above=f"Time of kernels by category, {where(pairs['LLaMA'][0])}")
    seen = set[str]()
    for axes, reading in zip(grid, views.READINGS, strict=True):
        for place, (before, after) in enumerate(pairs.values()):
            for shift, profile in ((-0.2, before), (0.2, after)):
                seen |= _bar(axes, place + shift, shares(profile, reading), 100 * seconds(profile) / seconds(before))
        axes.set_xticks(range(len(pairs)), list(pairs), fontsize=8)
    handles = [grid[0].bar(0, 0, color=units.COLOURS[name], label=name) for name in CATEGORIES if name in seen]
    made.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return made


def _bar(axes: Any, x: float, parts: Mapping[str, float], whole: float) -> set[str]:
    """A bar of height `whole` in parts; those that are high enough to be seen."""
    bottom, look = 0.0, {"edgecolor": "white", "linewidth": 0.4}
    for category, share in parts.items():
        axes.bar(x, share * whole, 0.36, bottom=bottom, color=units.COLOURS[category], **look)
        bottom += share * whole
    return {category for category, share in parts.items() if share * whole >= SEEN}
