"""The diffusion transformer beside what it should be: factorised attention, positions, guidance, sizes refused."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from minimodels.blocks import Rotation
from minimodels.diffusion_transformer import DiffusionTransformer, GridPositions, Layer, rotations
from minimodels.dit_config import RotaryAxes
from minimodels.loader import load
from minimodels.pipelines import example_input, generate
from minimodels.run import Run, build
from minimodels.sim.simulate import simulate
from tests.config_files import error_of

DOUBLE = torch.float64


def transformer(name: str, *overrides: str) -> DiffusionTransformer:
    network = build(load(name, overrides), dtype=DOUBLE, seed=3)["transformer"]
    assert isinstance(network, DiffusionTransformer)
    return network


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)


def test_factorised_layers_are_full_ones_of_each_frame_and_then_of_each_place() -> None:
    """Full layers, given the tokens that may see each other alone, at the positions they have in the whole video."""
    full, factorised = transformer("wan-tiny"), transformer("wan-tiny", "transformer.attention=factorised")
    grid, (x, vector, text) = (5, 2, 3), (draw(2, 30, 36), draw(2, 1, 36), draw(2, 7, 36))
    position = full.config.stack.position
    assert isinstance(position, RotaryAxes) and full.shared is not None
    whole = rotations(position, grid, 0, x)
    frames, places = torch.arange(30).view(5, 6), torch.arange(30).view(5, 6).T
    with torch.inference_mode():
        expected, t = x, full.shared(torch.nn.functional.silu(vector))
        for layer, groups in zip(full.layers, (frames, places, frames), strict=True):
            parts = torch.empty_like(expected)
            for own in groups:
                turned = Rotation(whole.cos[own], whole.sin[own])
                parts[:, own] = cast(Layer, layer)(expected[:, own], t, turned, 1, text)
            expected = parts
        found = factorised.mix(x, vector, text, grid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # cosines are rounded to float32
    assert not torch.allclose(found, full.mix(x, vector, text, grid), atol=0.1), "and full attention is something else"


def test_rotations_of_three_axes_are_those_of_one_where_the_others_stand_still() -> None:
    position = RotaryAxes(kind="rotary-axes", theta=100.0, axis_dims=[2, 4, 6])
    like = draw(1)
    whole = rotations(position, (2, 3, 5), 4, like)
    assert whole.cos.shape == whole.sin.shape == (34, 12)
    assert (whole.cos[:4] == 1).all() and (whole.sin[:4] == 0).all(), "text does not turn"
    at = whole.cos[4:].view(2, 3, 5, 12)[1, 2, 4, :6]  # frame 1, row 2, column 4
    angles = torch.tensor([1.0, 2.0, 2 / 10, 4.0, 4 / 100 ** (1 / 3), 4 / 100 ** (2 / 3)], dtype=DOUBLE)
    torch.testing.assert_close(at, angles.cos(), rtol=0, atol=1e-7)  # the table is rounded to float32
    torch.testing.assert_close(whole.cos[:, :6], whole.cos[:, 6:], rtol=0, atol=0)
    torch.testing.assert_close(whole.sin[:, :6], -whole.sin[:, 6:], rtol=0, atol=0)


def test_grid_positions_name_every_place_and_are_no_weights_of_a_file() -> None:
    positions = transformer("dit-tiny").positions
    assert isinstance(positions, GridPositions) and positions.state_dict() == {}
    table = positions.positions.view(3, 3, 24)
    assert len({tuple(row.tolist()) for row in positions.positions}) == 9
    torch.testing.assert_close(table[0, :, :12], table[2, :, :12], rtol=0, atol=0)  # the column comes first
    torch.testing.assert_close(table[:, 0, 12:], table[:, 1, 12:], rtol=0, atol=0)
    torch.testing.assert_close(table[1, 2, 0], torch.tensor(2.0, dtype=DOUBLE).sin(), rtol=0, atol=1e-7)


def test_a_told_guidance_takes_one_pass_and_a_made_one_two() -> None:
    def denoised(*overrides: str) -> float:
        ops = simulate(load("flux-tiny", overrides), Run()).ops
        return sum(op.weight * (op.flops or 0) for op in ops if op.stage == "denoise" and op.category == "Attention")

    assert denoised("run.guidance_scale=2.0") == 2 * denoised() == 2 * denoised("run.told_guidance=7.0")
    config = load("flux-tiny", ["run.guidance_scale=2.0"])
    assert generate(config, build(config), example_input(config, 3, "cpu")).shape == (3, 3, 12, 12)


def test_later_frames_leave_earlier_ones_as_they_are() -> None:
    decoder = build(load("wan-tiny"), dtype=DOUBLE)["decoder"]
    z = draw(2, 6, 4, 3, 5)
    with torch.inference_mode():
        whole, short = decoder(z), decoder(z[:, :, :3])
    assert whole.shape == (2, 3, 7, 12, 20)
    torch.testing.assert_close(whole[:, :, :5], short, rtol=0, atol=1e-12)  # convolutions may sum in another order
    assert not torch.allclose(decoder(z.flip(2))[:, :, :1], short[:, :, :1], atol=1e-2)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dit-tiny", "run.image_size=16", "the image is 4 x 4 tokens, transformer.stack.position.side is 3"),
        ("dit-tiny", "run.image_size=14", "not divisible by the patch 2"),
        ("dit-tiny", "run.image_size=13", "run.image_size 13 is not divisible by the growing of the decoder, 2"),
        ("flux-tiny", "transformer.patch=[1,2,2]", "must have 2 numbers"),
        ("dit-tiny", "transformer.out_channels=7", "neither the 4 of latents nor twice as many"),
        ("dit-tiny", "transformer.in_channels=5", "differ from decoder.latent_channels 4"),
        ("dit-tiny", "transformer.stack.dim=30", "4, for sines and cosines of two axes"),
        ("dit-tiny", "transformer.attention=factorised", "'factorised' is of video"),
        ("dit-tiny", "transformer.pooled_dim=8", "transformer.pooled_dim is 8"),
        ("dit-tiny", "transformer.guidance=true", "transformer.guidance is set"),
        ("flux-tiny", "transformer.guidance=false", "transformer.guidance is not set"),
        ("flux-tiny", "transformer.classes=9", "transformer.classes is set"),
        ("flux-tiny", "transformer.pooled_dim=21", "the text given to the network 20 wide"),
        ("flux-tiny", "transformer.modulation=shared", "'shared' is not for two streams"),
        ("flux-tiny", "transformer.stack.gated=true", "side by side have no gate"),
        ("flux-tiny", "transformer.stack.position.axis_dims=[3,3,6]", "must be even and add up to the head_dim 12"),
        ("flux-tiny", 'transformer.stack.position={kind="sinusoidal-grid",side=3}', "of images alone"),
        ("wan-tiny", "run.frames=4", "nearest are 3 and 5"),
        ("wan-tiny", "run.height=26", "run.height 26 is not divisible by"),
        ("wan-tiny", "run.width=36", "columns of latents, 9 is not divisible by the patch 2"),
        ("wan-tiny", "transformer.text.dim=19", "the text given to the network 20 wide"),
        ("wan-tiny", "decoder.doubles_time=[true]", "doubles_time has 1 items, the side is doubled 2 times"),
        ("wan-tiny", "decoder.channels=[12,11,8]", "channels.1 11 is not divisible by 2, since they are halved"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(name: str, change: str, message: str) -> None:
    assert message in error_of(name, change)
