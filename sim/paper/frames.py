"""FLOPs of attention over frames and over pixels by the number of frames: Fig. 14, for Make-A-Video's first network.

By the formula and in the walk, of one denoising step, at half, the whole and twice the size of the video. Only its two
matrix products are counted, as in the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from math import prod
from typing import Any

from minimodels.sim import units, views
from minimodels.sim.paper import formulas
from minimodels.sim.paper.draw import CYCLE, Panel, figure
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.sizes import counted, exponent
from minimodels.sim.paper.study import Study, kernel_seconds
from minimodels.sim.plots import ROLES as COLOURS
from minimodels.sim.profile import Profile

FRAMES = (1, 16, 256, 4096)
SCALES = (0.5, 1.0, 2.0)  # of the video's own size
ROLES = ("spatial", "temporal")
STAGE = "decoder"

Work = dict[tuple[float, int, str], tuple[int, int, float]]  # by scale, frames and role: walk, formula, seconds


def fig14(study: Study) -> Result:
    """FLOPs of attention over frames and over pixels in a denoising step of Make-A-Video, by frames and size."""
    walked = counted(study)
    own = walked.profile("MakeAVideo")
    size = own.config["run"]["image_size"]
    work: Work = {}
    sides: dict[float, int] = {}
    for scale, frames in product(SCALES, FRAMES):
        profile = walked.profile("MakeAVideo", image_size=round(scale * size), frames=frames)
        sides[scale] = round(scale * size) // prod(profile.config["scales"])
        for role in ROLES:
            work[scale, frames, role] = attended(profile, role, frames, sides[scale])
    rows = [(sides[key[0]], *key[1:], *found) for key, found in work.items()]
    header = ("side (pixels)", "frames", "attention", "FLOPs of the walk", "FLOPs of the formula", "seconds of kernels")
    scores = [*_growth(work), *_crossing(work, sides, own), *_products(own), *_trends(work, own)]
    return Result(_figure(work, sides, own), header, rows, scores)


def crossing(work: Work, scale: float) -> float:
    """The frames from which attention over frames takes more FLOPs, in the walk."""
    pixels, frames = (work[scale, FRAMES[-1], role][0] for role in ROLES)
    return FRAMES[-1] * pixels / frames


def attended(profile: Profile, role: str, frames: int, side: int) -> tuple[int, int, float]:
    """FLOPs of one denoising step of the first network, by the walk and by the formula, and its kernels' seconds."""
    steps = next(stage.steps for stage in profile.stages if stage.name == STAGE) or 1
    ops = [op for op in profile.ops if op.stage == STAGE and op.attention and op.attention.role == role]
    batch = 2 if profile.config["run"][STAGE]["guidance_scale"] != 1 else 1
    walk = round(views.totals(ops).known_flops / steps)
    return walk, batch * by_formula(profile.config, role, frames, side), kernel_seconds(ops) / steps


def by_formula(config: dict[str, Any], role: str, frames: int, side: int) -> int:
    """FLOPs of the attention of a role in one pass of the first network, of one video of so many frames and pixels."""
    network, flops = config[STAGE], 0
    text_len = network["image_tokens"]["tokens"]
    for level, (channels, calls) in enumerate(_levels(network)):
        here = side // 2**level
        if role == "spatial":
            flops += calls * formulas.spatial_flops(frames, here, here, channels, text_len=text_len)
        else:
            flops += calls * formulas.temporal_flops(frames, here, here, channels)
    return flops


def by_count(config: dict[str, Any], frames: int) -> float:
    """Spatial over temporal FLOPs of cores in the first network by count, at so many frames and the video's own size.

    Every level weighs as its channels and blocks have it; the keys of the text are counted.
    """
    side = config["run"]["image_size"] // prod(config["scales"])
    spatial, temporal = (by_formula(config, role, frames, side) for role in ROLES)
    return spatial / temporal


def _levels(network: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Channels and calls of attention of each level, the middle among those of the last."""
    for level in network["levels"]:
        attends = bool(level["attention"])
        last = level is network["levels"][-1] and bool(network["middle"])
        yield level["channels"], attends * (2 * level["res_blocks"] + 1) + last


def _figure(work: Work, sides: dict[float, int], own: Profile) -> Any:
    made, (flops, moved) = figure(
        Panel("FLOPs of attention in a denoising step (lines: formula, points: walk)", "frames", "FLOPs"),
        Panel("Where attention over frames takes over", "side of the features denoised (pixels)", "frames"),
        height=4.2,
    )
    styles = dict(zip(SCALES, ("--", "-", ":"), strict=True))
    for (scale, style), role in product(styles.items(), ROLES):
        look: dict[str, Any] = {"color": COLOURS[role], "label": f"{role}, {sides[scale]} pixels"}
        flops.plot(FRAMES, [work[scale, frames, role][1] for frames in FRAMES], style, linewidth=2, **look)
        flops.plot(FRAMES, [work[scale, frames, role][0] for frames in FRAMES], "o", markersize=4, color=COLOURS[role])
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    for scale in SCALES:
        at = crossing(work, scale)
        height = work[scale, FRAMES[0], "spatial"][0] * at / FRAMES[0]
        flops.plot([at], [height], "D", color="black", markersize=7, zorder=3)
        flops.annotate(
            f"{at:,.0f}", (at, height), (-8, 4), textcoords="offset points", ha="right", fontsize=9, bbox=box
        )
    for frames in _frames(own):
        flops.axvline(frames, color=CYCLE[7], linewidth=1.5, zorder=0, ymax=0.85)
        flops.annotate(f" {frames} frames", (frames, 0.02), xycoords=("data", "axes fraction"), fontsize=8)
    flops.legend(ncols=3, loc="upper left", frameon=False, fontsize=8)
    across = [sides[scale] for scale in SCALES]
    attended = [side // 2 for side in across]
    moved.plot(across, [crossing(work, scale) for scale in SCALES], "D", color="black", label="Make-A-Video, walk")
    one = [formulas.crossover(side, side) for side in attended]
    moved.plot(across, one, "-", color=CYCLE[0], label="a layer at half that side: as many frames as pixels")
    moved.legend(frameon=False, fontsize=8)
    for axis in (flops, moved):
        axis.set(xscale="log", yscale="log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    flops.set_ylim(flops.get_ylim()[0], 20 * flops.get_ylim()[1])
    moved.set_yscale("log", base=4)
    moved.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    moved.set_xticks(across, list(map(str, across)))
    moved.minorticks_off()
    return made


def _frames(profile: Profile) -> tuple[int, int]:
    """The frames Make-A-Video denoises, and those it has after interpolation."""
    run = profile.config["run"]
    return run["frames"], (run["frames"] - 1) * run["frame_skip"] + 1


def _growth(work: Work) -> Iterator[Score]:
    """By which power of the number of frames either grows."""
    said: dict[str, tuple[str, float]] = {}
    for role in ROLES:
        powers = [
            exponent(work[scale, a, role][0], work[scale, b, role][0], b / a)
            for scale in SCALES
            for a, b in pairwise(FRAMES)
        ]
        said[role] = f"exponent {min(powers):.2f} to {max(powers):.2f}", max(powers, key=lambda p: abs(p - round(p)))
    equal = all(walk == formula for walk, formula, _ in work.values())
    same = "the walk, and the formula to the last digit" if equal else "the walk; the formula differs"
    yield Score("f14-01", said["spatial"][0], abs(said["spatial"][1] - 1) < 0.01, same)
    yield Score("f14-02", said["temporal"][0], abs(said["temporal"][1] - 2) < 0.01, same)
    times = [work[1.0, frames, "temporal"][2] for frames in FRAMES]
    few, many = (exponent(times[i], times[i + 1], FRAMES[i + 1] / FRAMES[i]) for i in (0, len(times) - 2))
    yield Score(
        "int-14", said["temporal"][0], abs(said["temporal"][1] - 2) < 0.01, "FLOPs",
        why=f"the time of its kernels grows by {few:.2f} at few frames, by {many:.2f} from {FRAMES[-2]:,} on",
    )  # fmt: skip


def _crossing(work: Work, sides: dict[float, int], own: Profile) -> Iterator[Score]:
    """Where attention over frames takes over, and how size moves that."""
    places = {sides[scale]: crossing(work, scale) for scale in SCALES}
    shares = ", ".join(f"{units.times(crossing(work, 1.0) / frames)} at {frames}" for frames in _frames(own))
    few, many = (
        work[1.0, frames, "temporal"][0] / work[1.0, frames, "spatial"][0] for frames in (FRAMES[0], FRAMES[-1])
    )
    yield Score(
        "f14-04",
        f"temporal over spatial {units.times(few)} at {FRAMES[0]} frame, {units.times(many)} at {FRAMES[-1]:,}",
        few < 1 < many, f"FLOPs; they are equal at {crossing(work, 1.0):,.0f} frames",
        why=f"at the frames of Make-A-Video spatial is larger, {shares}",
    )  # fmt: skip
    said = ", ".join(f"{frames:,.0f} frames at {side} pixels" for side, frames in places.items())
    yield Score(
        "f14-05", said, list(places.values()) == sorted(set(places.values())), "the walk, by side of the features"
    )


def _products(profile: Profile) -> Iterator[Score]:
    """How many matrix products the FLOPs of attention are."""
    counts = set[float]()
    for op in profile.ops:
        facts = op.attention
        if facts is not None and facts.role in ROLES and op.flops:
            pairs = facts.batch * facts.heads * facts.query_length * facts.key_length
            counts.add(op.flops / (2 * pairs * facts.head_dim))
    yield Score("f14-03", ", ".join(f"{count:g}" for count in sorted(counts)), counts == {2.0}, "FLOPs of a fused call")


def _trends(work: Work, own: Profile) -> Iterator[Score]:
    """How long a clip is, and what more frames and higher resolution cost."""
    core, whole = _frames(own)
    yield Score(
        "s6b-01", f"{core} frames, {whole} after interpolation", None, "frames",
        why=f"the study names no frame rate: {whole} frames last 2 to 3 s at {whole / 3:.0f} to {whole / 2:.0f} /s",
    )  # fmt: skip

    def both(scale: float, frames: int) -> int:
        return sum(work[scale, frames, role][0] for role in ROLES)

    base, most = both(1.0, 16), both(2.0, 16) / both(1.0, 16)
    longer = both(1.0, 256) / base
    yield Score(
        "s6b-02", f"16 times the frames: {units.times(longer)}; twice the side: {units.times(most)}",
        longer > 16 and most > 4, "FLOPs of attention at 16 frames; holds if they grow faster than the pixels",
    )  # fmt: skip
