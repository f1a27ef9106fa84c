"""Fig. 2: the four common pipelines of text to image as block diagrams, to scale.

Areas of the blocks are parameters, in one scale for all four; the bar under a pipeline is the time of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minimodels.config import AutoregressiveImage
from minimodels.diffusion_config import CascadedDiffusion, LatentDiffusion
from minimodels.kinds import Config
from minimodels.run import build, parameters
from minimodels.sim import units, views
from minimodels.sim.paper.draw import WIDTH
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import DIFFUSION, TRANSFORMERS, WORKLOADS, Study, config_of, image_side, where
from minimodels.sim.profile import Profile
from minimodels.token_config import ParallelImage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOUR = {
    "Imagen": "diffusion of pixels", "StableDiffusion": "diffusion of latents",
    "Muse": "transformer, tokens in parallel", "Parti": "transformer, token by token",
}  # fmt: skip
ROLES = {
    "text encoder": "#BBBBBB", "diffusion": "#009E73", "transformer": "#D55E00", "super-resolution": "#56B4E9",
    "decoder to pixels": "#E69F00",
}  # fmt: skip
ROW, LARGEST, FIRST, PITCH = 2.4, 1.25, 1.5, 1.62  # inches: of a row, of a side, of the first block, between blocks
DIMENSIONS = {"text": 1, "image": 2, "video": 3}


@dataclass(frozen=True, slots=True)
class Block:
    """A network of a pipeline: its stage in the profile, where it is in the model, what it is."""

    stage: str
    module: str
    name: str
    role: str


def blocks(config: Config) -> list[Block]:
    """The networks of a text-to-image model in the order they run."""
    text = Block("text_encoder", "text_encoder", "text encoder", "text encoder")
    if isinstance(config, CascadedDiffusion):
        roles = ("diffusion", "super-resolution", "super-resolution")
        found = zip(config.networks, config.sides, roles, strict=True)
        return [text] + [Block(name, name, f"UNet, {side:,} pixels", role) for name, side, role in found]
    if isinstance(config, LatentDiffusion):
        unet = Block("denoise", "unet", f"UNet, {config.latent_size}-wide latents", "diffusion")
        return [text, unet, Block("decode", "decoder", "VAE decoder", "decoder to pixels")]
    if isinstance(config, ParallelImage):
        base, upper = config.transformer, config.super_resolution
        return [
            text,
            Block("transformer", "transformer", f"{base.tokens:,} tokens", "transformer"),
            Block("super_resolution", "super_resolution", f"{upper.tokens:,} tokens", "super-resolution"),
            Block("decode", "decoder", "VQGAN decoder", "decoder to pixels"),
        ]
    assert isinstance(config, AutoregressiveImage), config.kind
    return [
        Block("text_encoder", "transformer.encoder", "text encoder", "text encoder"),
        Block("decode", "transformer.decoder", f"{config.transformer.image_tokens:,} tokens", "transformer"),
        Block("detokenize", "detokenizer", "ViT-VQGAN decoder", "decoder to pixels"),
        Block("super_resolution", "super_resolution", "convolutions", "super-resolution"),
    ]


def sizes(config: Config) -> dict[str, int]:
    """Parameters of each block, by stage."""
    built = build(config, "meta")
    return {block.stage: parameters(built.get_submodule(block.module)) for block in blocks(config)}


def fig2(study: Study) -> Result:
    """Four pipelines from the configs: what runs, how large it is, how often, how long."""
    profiles = {name: study.profile(name) for name in FOUR}
    params = {name: sizes(config_of(name)) for name in FOUR}
    rows = [
        (name, block.name, block.role, params[name][block.stage], _steps(profiles[name])[block.stage] or 1,
         views.elapsed(profiles[name], block.stage))
        for name in FOUR
        for block in blocks(config_of(name))
    ]  # fmt: skip
    header = ("workload", "network", "role", "parameters", "steps", "seconds")
    return Result(_picture(profiles, params), header, rows, list(_scores(study)))


def _steps(profile: Profile) -> dict[str, int | None]:
    return {stage.name: stage.steps for stage in profile.stages}


def _picture(profiles: dict[str, Profile], params: dict[str, dict[str, int]]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    made = Figure(figsize=(WIDTH, ROW * len(FOUR) + 0.7))
    axes = made.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(-0.35, ROW * len(FOUR) + 0.35))
    axes.axis("off")
    largest = max(max(found.values()) for found in params.values())
    for index, name in enumerate(FOUR):
        _row(axes, ROW * (len(FOUR) - 1 - index), name, profiles[name], params[name], largest)
    axes.text(0.15, ROW * len(FOUR) + 0.15, "Area of a block: its parameters, one scale. Bar: the time of an image, "
              f"{where(profiles['Imagen'])}", fontsize=10)  # fmt: skip
    handles = [Patch(color=colour, label=role) for role, colour in ROLES.items()]
    made.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8)
    return made


def _row(axes: Axes, bottom: float, name: str, profile: Profile, params: dict[str, int], largest: int) -> None:
    """A pipeline: its blocks on a line, arrows between them, labels and the bar of time under them."""
    config, line = config_of(name), bottom + 1.52
    whole, left, edge = views.elapsed(profile) or 1.0, FIRST, 0.62
    axes.text(0.15, bottom + 2.28, f"{config.title}: {FOUR[name]}", fontsize=9, fontweight="bold", va="center")
    axes.text(0.15, line, "text", fontsize=8, va="center")
    for place, block in enumerate(blocks(config)):
        centre, size = FIRST + PITCH * place, LARGEST * (params[block.stage] / largest) ** 0.5
        colour, seconds = ROLES[block.role], views.elapsed(profile, block.stage) or 0.0
        _arrow(axes, edge, centre - size / 2 - 0.03, line)
        axes.fill_between([centre - size / 2, centre + size / 2], line - size / 2, line + size / 2, color=colour)
        steps = _steps(profile)[block.stage]
        times = f", {steps:,} times" if steps else ""
        axes.text(centre, bottom + 0.74, f"{block.name}\n{units.params(params[block.stage])}{times}", fontsize=7.5,
                  ha="center", va="center", linespacing=1.3)  # fmt: skip
        edge, width = centre + size / 2 + 0.03, (WIDTH - 0.3) * seconds / whole
        start = left if place else 0.15
        axes.fill_between(
            [start, start + width], bottom + 0.3, bottom + 0.52, color=colour, edgecolor="white", linewidth=0.8
        )
        if seconds > 0.05 * whole:
            axes.text(start + width / 2, bottom + 0.41, units.percent(seconds / whole), fontsize=7.5, ha="center",
                      va="center")  # fmt: skip
        left = start + width
    _arrow(axes, edge, WIDTH - 0.95, line)
    axes.text(WIDTH - 0.9, line, f"{image_side(config):,} pixels", fontsize=8, va="center")
    axes.text(WIDTH - 0.15, bottom + 0.17, units.seconds(whole), fontsize=7.5, ha="right", va="center")


def _arrow(axes: Axes, start: float, end: float, height: float) -> None:
    look = {"arrowstyle": "-|>", "color": "black", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end, height), (start, height), arrowprops=look)


def _scores(study: Study) -> Iterator[Score]:
    kinds = {name: config_of(name).kind for name in WORKLOADS}
    suite = [name for name, kind in kinds.items() if kind != "language-model"]
    with_llm = f"{len(kinds)} with LLaMA, as Table II lists them"
    for number in ("abs-01", "int-07"):
        yield Score(number, f"{len(suite)} text-to-image and text-to-video models", len(suite) == 8, "workloads",
                    len(suite) - 8, with_llm)  # fmt: skip
    yield Score("s3-01", str(len(kinds)), len(kinds) == 8, "workloads, LLaMA among them", len(kinds) - 8)
    classes = {"diffusion": DIFFUSION, "transformer": TRANSFORMERS}
    told = sorted(name for names in classes.values() for name in names) == sorted(suite)
    yield Score("abs-02", " and ".join(classes), told and len(classes) == 2, "classes of the 7 models by their kind")
    drawn = [sum(name in names for name in FOUR) for names in classes.values()]
    yield Score(
        "s2-01", f"{len(FOUR)}: {drawn[0]} diffusion, {drawn[1]} transformer", drawn == [2, 2], "kinds of config"
    )
    dimensions = {name: DIMENSIONS["video" if "video" in kind else "image"] for name, kind in kinds.items()}
    dimensions["LLaMA"] = DIMENSIONS["text"]
    yield Score("int-02", "1D text, 2D images, 3D video: "
                + ", ".join(f"{list(dimensions.values()).count(n)} workloads of {n}D" for n in (1, 2, 3)),
                {*dimensions.values()} == {1, 2, 3}, "axes of what is generated")  # fmt: skip
    videos = [name for name, kind in kinds.items() if "video" in kind]
    yield Score("s3-06", f"{len(videos)}: {', '.join(videos)}", len(videos) == 2, "kinds of config")
    yield from _denoising(study)
    yield from _cascade()


def _denoising(study: Study) -> Iterator[Score]:
    found = {
        name: [steps for steps in _steps(study.profile(name)).values() if steps]
        for name in ("Imagen", "StableDiffusion", "Prod Image")
    }
    said = "; ".join(f"{name} {', '.join(map(str, steps))}" for name, steps in found.items())
    holds = all(10 <= steps < 1000 for counts in found.values() for steps in counts)
    for number in ("int-16", "s2a-01"):
        yield Score(number, said, holds, "steps of each UNet in the configs")


def _cascade() -> Iterator[Score]:
    config = config_of("Imagen")
    assert isinstance(config, CascadedDiffusion)
    first, *later = config.sides
    count = len(config.networks)
    yield Score("s3-03", f"{count}: 1 base, {count - 1} super-resolution", count == 3, "config", count - 3)
    yield Score("s3-04", f"{first} x {first}", first == 64, "config")
    yield Score("s3-05", " and ".join(f"{side:,} x {side:,}" for side in later), later == [768, 1024], "config",
                why="Imagen, section 2.4: 64 to 256 to 1,024 pixels; 768 is Make-A-Video's last side")  # fmt: skip
