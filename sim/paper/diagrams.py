"""Fig. 3: what the UNet and the transformer are made of, drawn from the configs, to scale.

UNet: a block's height is the side of its feature map, its width the channels. Transformers: a slab is a layer, its
height the width of the model, split by the parameters of its sub-layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minimodels.config import AutoregressiveImage, LanguageModel
from minimodels.diffusion_config import CascadedDiffusion, LatentDiffusion
from minimodels.run import build, parameters
from minimodels.sim import units
from minimodels.sim.paper.draw import Panel, figure
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import Study, config_of
from minimodels.token_config import ParallelImage
from minimodels.unet_config import LevelAttention, UNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = {
    "res block": "#D55E00", "self-attention": "#0072B2", "self-attention, text appended": "#56B4E9",
    "cross-attention": "#009E73", "feed-forward": "#E69F00",
}  # fmt: skip
GPT3 = (96, 12288, 175_000_000_000)  # layers, width, parameters: Brown et al. 2020, arXiv 2005.14165, Table 2.1
SUBLAYERS = {"self_attention": "self-attention", "cross_attention": "cross-attention", "feed_forward": "feed-forward"}


@dataclass(frozen=True, slots=True)
class Unit:
    """A block of a UNet: its kind, the side of its feature map, its channels, and its share of the block's width."""

    kind: str
    side: int
    channels: int
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Layers:
    """A stack of equal layers: how many, how wide, parameters of the sub-layers of each."""

    name: str
    depth: int
    dim: int
    sublayers: dict[str, int]


def unet_units(unet: UNet, side: int) -> list[Unit]:
    """The blocks of a UNet in the order they run; side: of what it denoises."""
    sides = [side // 2**index for index in range(len(unet.levels))]
    down, up = [], []
    for level, at in zip(unet.levels, sides, strict=True):
        one = [Unit("res block", at, level.channels), *_attention(level.attention, at, level.channels)]
        down.append(one * level.res_blocks)
        up.append(one * (level.res_blocks + 1))
    last = unet.levels[-1].channels
    block = Unit("res block", sides[-1], last)
    middle = [block, *_attention(unet.middle, sides[-1], last), block]
    return [unit for group in (*down, middle, *reversed(up)) for unit in group]


def _attention(attention: LevelAttention | None, side: int, channels: int) -> list[Unit]:
    if attention is None:
        return []
    if attention.kind == "appended":
        return [Unit("self-attention, text appended", side, channels)]
    share = 1 / 3 / attention.depth
    return [Unit(kind, side, channels, share) for kind in SUBLAYERS.values()] * attention.depth


def stacks() -> list[Layers]:
    """The transformers of the suite's token models, LLaMA's, and GPT-3's by its published sizes."""
    parti, muse, llama = (config_of(name) for name in ("Parti", "Muse", "LLaMA"))
    assert isinstance(parti, AutoregressiveImage) and isinstance(muse, ParallelImage)
    assert isinstance(llama, LanguageModel)
    places = (
        ("Parti encoder", parti, "transformer.encoder.stack"), ("Parti decoder", parti, "transformer.decoder.stack"),
        ("Muse", muse, "transformer.stack"), (llama.title, llama, "language_model.stack"),
    )  # fmt: skip
    found = []
    for name, config, path in places:
        stack = build(config, "meta").get_submodule(path)
        layer, depth = stack.get_submodule("layers.0"), len(list(stack.get_submodule("layers").children()))
        inside = {key: parameters(child) for key, child in layer.named_children() if key in SUBLAYERS}
        found.append(Layers(name, depth, stack.config.dim, inside))  # type: ignore[union-attr]
    depth, dim, _ = GPT3
    return [*found, Layers("GPT-3 (published)", depth, dim, {"self_attention": 4 * dim**2, "feed_forward": 8 * dim**2})]


def fig3(study: Study) -> Result:
    """The UNets of Stable Diffusion and Imagen and the transformers' layers, from the configs."""
    latent, pixel = config_of("StableDiffusion"), config_of("Imagen")
    assert isinstance(latent, LatentDiffusion) and isinstance(pixel, CascadedDiffusion)
    assert isinstance(pixel.unet, UNet)
    unets = {
        f"{latent.title}, {latent.latent_size}-wide latents": unet_units(latent.unet, latent.latent_size),
        f"{pixel.title}, base network, {pixel.sides[0]} pixels": unet_units(pixel.unet, pixel.sides[0]),
    }
    layers = stacks()
    rows: list[tuple[Any, ...]] = [
        (name, index, unit.kind, unit.side, unit.channels, "")
        for name, units_ in unets.items()
        for index, unit in enumerate(units_)
    ]
    rows += [
        (stack.name, f"1 to {stack.depth}", SUBLAYERS[key], "", stack.dim, params)
        for stack in layers
        for key, params in stack.sublayers.items()
    ]
    header = ("network", "block or layers", "kind", "side", "channels or width", "parameters of one")
    return Result(_picture(unets, layers), header, rows, list(_scores(layers)))


def _picture(unets: dict[str, list[Unit]], layers: list[Layers]) -> Any:
    from matplotlib.patches import Patch

    titles = [f"UNet of {name}: height is the side, width the channels; lines are skips" for name in unets]
    made, (*tops, bottom) = figure(
        *(Panel(title) for title in titles),
        Panel("Transformers: a slab is a layer, its height the width of the model", "layers", "width of the model"),
        height=2.5,
    )
    for axes, units_ in zip(tops, unets.values(), strict=True):
        _draw_unet(axes, units_)
    _draw_stacks(bottom, layers)
    handles = [Patch(color=colour, label=kind) for kind, colour in KINDS.items()]
    made.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return made


def _draw_unet(axes: Axes, found: list[Unit]) -> None:
    gap = 0.004 * sum(unit.channels * unit.share for unit in found)
    left, spans = 0.0, list[tuple[int, float, float]]()
    for index, unit in enumerate(found):
        width = unit.channels * unit.share
        axes.bar(left, unit.side, width, -unit.side / 2, align="edge", color=KINDS[unit.kind], linewidth=0)
        if spans and spans[-1][0] == unit.side:
            spans[-1] = unit.side, spans[-1][1], left + width
        else:
            spans.append((unit.side, left, left + width))
        after = found[index + 1].kind if index + 1 < len(found) else ""
        left += width + (gap if "res block" in (unit.kind, after) or unit.share == 1.0 else 0.0)
    highest = found[0].side
    for index, (side, start, end) in enumerate(spans[: len(spans) // 2]):
        _, other, last = spans[-1 - index]
        height = highest * (0.56 + 0.1 * (len(spans) // 2 - index))
        ends = (start + end) / 2, (other + last) / 2
        axes.plot([ends[0], ends[0], ends[1], ends[1]], [side / 2, height, height, side / 2], color="#555555", lw=0.8)
        axes.annotate(
            f"{side}", (ends[0], -side / 2), (0, -3), textcoords="offset points", ha="center", va="top", fontsize=8
        )
    axes.annotate(f"{spans[len(spans) // 2][0]}", (sum(spans[len(spans) // 2][1:]) / 2, -spans[len(spans) // 2][0] / 2),
                  (0, -3), textcoords="offset points", ha="center", va="top", fontsize=8)  # fmt: skip
    axes.set(xlim=(0, left), ylim=(-0.68 * highest, None))
    axes.axis("off")


def _draw_stacks(axes: Axes, layers: list[Layers]) -> None:
    left = 0
    for stack in layers:
        whole, height = sum(stack.sublayers.values()), 0.0
        places = [left + index for index in range(stack.depth)]
        for key, params in stack.sublayers.items():
            part = stack.dim * params / whole
            axes.bar(places, part, 0.8, height, color=KINDS[SUBLAYERS[key]], linewidth=0, snap=False)
            height += part
        said = f"{stack.name}\n{stack.depth} x {stack.dim:,}"
        axes.annotate(
            said, (left + stack.depth / 2, height), (0, 3), textcoords="offset points", ha="center", fontsize=8
        )
        left += stack.depth + 12
    axes.margins(y=0.2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xticks([])


def _scores(layers: list[Layers]) -> Iterator[Score]:
    by_name = {stack.name: stack for stack in layers}
    encoder, decoder, muse = by_name["Parti encoder"], by_name["Parti decoder"], by_name["Muse"]
    attentions = {
        stack.name: (sum("attention" in key for key in stack.sublayers), "feed_forward" in stack.sublayers)
        for stack in layers
    }
    alone = ", ".join(name for name, (count, _) in attentions.items() if count == 1)
    yield Score(
        "s2a-02", "; ".join(f"{name}: {count} + {forward:d}" for name, (count, forward) in attentions.items()),
        attentions["Parti decoder"] == attentions["Muse"] == (2, True), "Parti's decoder and Muse",
        why=f"one attention where there is no second input to attend to: {alone}",
    )  # fmt: skip
    depth, dim, published = GPT3
    body = 12 * depth * dim**2
    said = (
        f"{depth} layers of {dim:,} make {units.params(body)} without embeddings, {units.params(published)} published"
    )
    for number in ("s2a-03", "s2a-04"):
        yield Score(number, said, abs(body / published - 1) < 0.02, "12 layers width^2, published sizes")
    yield Score("s2a-05", f"{encoder.depth} + {decoder.depth}", encoder.depth + decoder.depth == 80, "config")
    yield Score("s2a-06", str(decoder.dim), decoder.dim == encoder.dim == 4096, "config", decoder.dim - 4096)
    yield Score("s2a-07", str(muse.depth), muse.depth == 48, "config", muse.depth - 48)
    yield Score("s2a-08", str(muse.dim), muse.dim == 2048, "config", muse.dim - 2048)
