"""Upsampling folded into the convolution behind it: the same numbers from 4/9 of the products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minimodels import loader
from minimodels.kernels.upsample_conv import fold, upsample_conv
from minimodels.run import Run, build, prepare
from minimodels.sim.simulate import simulate
from minimodels.unet_blocks import FoldedConv, ResBlock, ResSettings, Upsample, fold_upsampling


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (3, 4, 1, 6), (1, 5, 8, 8)])
def test_the_folded_convolution_is_the_same_to_rounding(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    weight, bias = torch.randn(6, shape[1], 3, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    torch.testing.assert_close(upsample_conv(x, fold(weight), bias), expected, rtol=0, atol=1e-13)


def test_it_multiplies_four_ninths() -> None:
    x, weight = torch.randn(2, 3, 5, 7), torch.randn(6, 3, 3, 3)
    with FlopCounterMode(display=False) as folded:
        upsample_conv(x, fold(weight), None)
    with FlopCounterMode(display=False) as plain:
        F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    assert 9 * folded.get_total_flops() == 4 * plain.get_total_flops() == 9 * 2 * (2 * 35) * 16 * 3 * 6


def test_sums_of_half_precision_weights_are_rounded_once() -> None:
    weight = torch.randn(6, 3, 3, 3).bfloat16()
    assert torch.equal(fold(weight), fold(weight.double()).bfloat16())


@torch.no_grad()
def test_both_kinds_of_upsampling_are_folded_and_say_the_same() -> None:
    settings = ResSettings(2, 1e-5, "silu")
    network = nn.Sequential(Upsample(4, 6), ResBlock(settings, 6, 8, "up"), ResBlock(settings, 8, 8)).double()
    for parameter in network.parameters():
        parameter.normal_()
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    expected = network(x)
    fold_upsampling(network)
    assert sum(isinstance(module, FoldedConv) for module in network.modules()) == 2
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("run", "count"),
    [(Run(), 0), (Run(layout="channels-last"), 0), (Run(kernels="triton"), 0),
     (Run(layout="channels-last", kernels="triton", dtype="float64"), 0),
     (Run(layout="channels-last", kernels="triton"), 4)],
)  # fmt: skip
def test_a_run_folds_where_our_kernels_run_channels_last(run: Run, count: int) -> None:
    parts = prepare(build(loader.load("imagen-tiny"), "meta"), run)
    assert sum(isinstance(module, FoldedConv) for module in parts.modules()) == count


def test_a_walk_multiplies_less_by_what_is_folded() -> None:
    runs = (Run(layout="channels-last", kernels=kernels) for kernels in ("torch", "triton"))
    theirs, ours = (simulate(loader.load("stable-diffusion-tiny"), run) for run in runs)
    folded = [op for op in ours.ops if op.name == "conv_transpose2d"]
    saved = sum(op.weight * (op.flops or 0) * 5 / 4 for op in folded)
    total = [sum(op.weight * (op.flops or 0) for op in profile.ops) for profile in (theirs, ours)]
    assert folded and total[0] - total[1] == pytest.approx(saved, rel=1e-12)
