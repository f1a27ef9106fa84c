"""The drawing of an architecture: every block at the size its config says, on the way down and on the way up."""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import minimodels
from minimodels import loader
from minimodels.run import Run
from minimodels.sim.profile import Profile
from minimodels.sim.report import drawing
from minimodels.sim.report.blocks import Block, Group, Size, blocks, folded
from minimodels.sim.simulate import simulate
from minimodels.unet_config import UNet


@cache
def of(name: str, **options: Any) -> Profile:
    return simulate(loader.load(name), Run.model_validate({"device": "a100-80gb", "attention": "flash"} | options))


def res_blocks(network: Any, side: int) -> list[tuple[int, int]]:
    """Side and channels of every residual block of a network that denoises, in the order they run."""
    found: list[tuple[int, int]] = []
    levels = list(enumerate(network.levels))
    if not isinstance(network, UNet):  # Imagen's: half the side before each level, as many blocks down as up
        down = [(side >> index + 1, level.channels) for index, level in levels for _ in range(level.res_blocks)]
        return down + down[::-1]
    own = network.resample == "res_block"
    for index, level in levels:
        found += [(side >> index, level.channels)] * level.res_blocks
        found += [(side >> index + 1, level.channels)] * (own and index + 1 < len(levels))
    found += [found[-1]] * 2
    for index, level in reversed(levels):
        found += [(side >> index, level.channels)] * (level.res_blocks + 1)
        found += [(2 * side >> index, level.channels)] * (own and index > 0)
    return found


def networks(config: Any) -> list[tuple[str, Any, int]]:
    """The stages that denoise with a UNet: name, network, side."""
    if config.kind == "latent-diffusion":
        return [("denoise", config.unet, config.latent_size)]
    if config.kind == "cascaded-diffusion":
        return [(name, getattr(config, name), side) for name, side in zip(config.networks, config.sides, strict=True)]
    small, middle, large = config.sides
    sides = {"decoder": small, "interpolation": small, "super_resolution_1": middle, "super_resolution_2": large}
    return [(name, getattr(config, name), side) for name, side in sides.items()]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stable-diffusion-1.5", {}),
        ("stable-diffusion-1.5", {"kernels": "triton", "attention": "triton", "layout": "channels-last"}),
        ("stable-diffusion-1.5", {"mode": "compiled", "batch": 3}),
        ("sdxl", {}),
        ("imagen", {}),
        ("make-a-video", {}),
    ],
)
def test_every_residual_block_is_drawn_at_its_side_and_channels(name: str, options: dict[str, Any]) -> None:
    profile = of(name, **options)
    for stage, network, side in networks(loader.load(name)):
        found = [block for block in blocks(profile, stage) if block.label == "res_block"]
        assert [(block.size.grid, block.width) for block in found] == [
            ((one, one), channels) for one, channels in res_blocks(network, side)
        ], stage


def test_transformers_of_a_unet_are_drawn_with_their_layers() -> None:
    config: Any = loader.load("sdxl")
    found = [block for block in blocks(of("sdxl"), "denoise") if block.label == "transformer"]
    down = [(i, level) for i, level in enumerate(config.unet.levels) for _ in range(level.res_blocks)]
    up = [(i, level) for i, level in reversed(list(enumerate(config.unet.levels))) for _ in range(level.res_blocks + 1)]
    middle = (len(config.unet.levels) - 1, config.unet.levels[-1])
    expected = [(i, level.channels, level.attention.depth) for i, level in [*down, middle, *up] if level.attention]
    sides = [(config.latent_size >> i, channels, depth) for i, channels, depth in expected]
    assert [(block.size.side, block.width, block.layers) for block in found] == sides
    assert {block.inside for block in found} == {("attention.self", "attention.cross", "feed_forward")}


def shown(profile: Profile, stage: str) -> list[tuple[int, list[tuple[str, str]]]]:
    """The groups of a stage: how often, and of each block its label and what is said of it."""
    groups = folded(blocks(profile, stage))
    return [(group.times, [(block.label, drawing.described(block)) for block in group.flat]) for group in groups]


def test_flux_is_drawn_with_text_and_image_as_one_row_of_tokens() -> None:
    config: Any = loader.load("flux.1-dev")
    transformer, (_, height, width) = config.transformer, config.latent_shape
    image = height * width // (transformer.patch[0] * transformer.patch[1])
    text, dim = config.text_encoder.text_len, transformer.stack.dim
    joint = ("attention.joint", f"{image + text:,} tokens, {dim:,} wide")
    ff = [("feed_forward", f"{tokens:,} tokens, {dim:,} wide") for tokens in (text, image, image + text)]
    assert [group for group in shown(of("flux.1-dev"), "denoise") if group[0] > 1] == [
        (transformer.text.depth, [joint, ff[0], ff[1]]),
        (transformer.stack.depth, [joint, ff[2]]),
    ]


def test_wan_is_drawn_with_its_video_as_queries_and_its_decoder_as_high_as_wide_as_it_is() -> None:
    config: Any = loader.load("wan2.1-1.3b")
    _, frames, height, width = config.latent_shape
    rows, columns = height // config.transformer.patch[1], width // config.transformer.patch[2]
    tokens, text = frames * rows * columns, config.text_encoder.text_len
    layers = next(group for group in shown(of("wan2.1-1.3b"), "denoise") if len(group[1]) == 3)
    dim = f"{config.transformer.stack.dim:,} wide"
    assert layers == (
        config.transformer.stack.depth,
        [
            ("attention.joint", f"{tokens:,} tokens, {dim}"),
            ("attention.cross", f"{tokens:,} tokens to {text}, {dim}"),
            ("feed_forward", f"{tokens:,} tokens, {dim}"),
        ],
    )
    decoded = blocks(of("wan2.1-1.3b"), "decode")
    assert (decoded[0].size.grid, decoded[-1].size.grid) == ((height, width), (config.run.height, config.run.width))


def test_an_autoregressive_model_is_drawn_with_what_its_tokens_look_at() -> None:
    config: Any = loader.load("parti-20b")
    decoder, text = config.transformer.decoder, config.transformer.text_len
    wide = f"{decoder.dim:,} wide"
    assert shown(of("parti-20b"), "decode")[0] == (
        decoder.depth,
        [
            ("attention.self", f"1 token to 1–{config.transformer.image_tokens:,}, {wide}"),
            ("attention.cross", f"1 token to {text}, {wide}"),
            ("feed_forward", f"1 token, {wide}"),
        ],
    )


def test_tokens_are_no_square_because_their_number_is_one() -> None:
    config = loader.load("llama-tiny", ("run.prompt_len=25", "run.gen_len=3"))
    profile = simulate(config, Run(device="a100-80gb"))
    assert {str(block.size) for block in blocks(profile, "prefill")} == {"25 tokens"}
    prior = blocks(of("make-a-video"), "prior")
    assert {str(block.size) for block in prior if block.label == "attention.self"} == {"81 tokens"}


def test_multi_axis_attention_says_how_many_tokens_look_at_each_other() -> None:
    config: Any = loader.load("muse-3b")
    split = config.super_resolution.stack.multi_axis
    wide = f"{config.super_resolution.stack.dim:,} wide"
    first = shown(of("muse-3b"), "super_resolution")[0][1][0]
    assert first == ("attention.self", f"{split.side**2:,} tokens, {split.block**2} at a time, {wide}")


def block(label: str, width: int = 3) -> Block:
    return Block(label, Size(35), width)


def test_what_repeats_is_one_group_also_inside_a_group() -> None:
    a, b, c = block("a"), block("b"), block("c", 5)
    inner = Group(3, (a,))
    assert folded([a, a, a, b, a, a, a, b, c]) == [Group(2, (inner, b)), Group(1, (c,))]
    assert folded([a, b, a, b, c, b, a]) == [Group(2, (a, b)), Group(1, (c,)), Group(1, (b,)), Group(1, (a,))]
    assert folded([]) == []


@pytest.mark.parametrize("name", ["stable-diffusion-1.5", "make-a-video", "parti-20b"])
def test_bars_are_to_scale_and_texts_have_room(name: str) -> None:
    profile = of(name)
    for stage, (_, _, picture) in zip(profile.stages, drawing.pictures(profile), strict=True):
        found = [one for group in folded(blocks(profile, stage.name)) for one in group.flat]
        root = ElementTree.fromstring(picture)
        bars = [list(bar.iter("rect")) for bar in root.iter("g")]
        side, width = max(one.size.side for one in found), max(one.width for one in found)
        for one, parts in zip(found, bars, strict=True):
            wide, high = sum(float(part.attrib["width"]) for part in parts), float(parts[0].attrib["height"])
            assert wide == pytest.approx(max(drawing.LEAST, drawing.SHAPE * one.size.side / side), abs=0.05)
            assert high == pytest.approx(max(drawing.LEAST, drawing.HIGH * one.width / width), abs=0.05)
        texts = ["".join(text.itertext()) for text in root.iter("text")]
        assert not [text for text in texts if len(text) > 2 * drawing.FITS], "no line is longer than the picture"
        assert all(any(drawing.described(one) in text for text in texts) for one in found)


def test_a_module_without_labels_is_drawn_by_its_operators() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(12, 5, 1), nn.Flatten())
    profile = minimodels.simulate(network, torch.randn(2, 3, 9, 7), device="h100-sxm")
    found = [(one.label, one.size.grid, one.width) for one in blocks(profile, profile.stages[0].name)]
    assert found == [("convolution", (9, 7), 12), ("convolution", (5, 4), 5)]


def test_colours_and_names_of_the_legend_are_those_of_the_bars() -> None:
    profile = of("stable-diffusion-1.5")
    used = {colour for _, _, picture in drawing.pictures(profile) for colour in re.findall(r'fill="(#\w+)"', picture)}
    assert used == {colour for _, colour in drawing.legend(profile)}
    assert {"self-attention", "cross-attention", "feed forward", "res block"} <= {n for n, _ in drawing.legend(profile)}
