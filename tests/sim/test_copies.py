"""Copies that read across the lines in which they write: found in any operator, slow unless compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels.backend import attention_backend
from minimodels.kernels.work import Work
from minimodels.sim import device as devices
from minimodels.sim.call import Call
from minimodels.sim.cost import predict
from minimodels.sim.fusion import fuse
from minimodels.sim.trace import Walk
from tests.sim.cost_cases import A100, call

LAST = torch.channels_last
SHAPE = (2, 64, 32, 32)
IMAGE = torch.empty(SHAPE, device="meta", dtype=torch.float16)
PIXELS = IMAGE.to(memory_format=LAST)
TOKENS = torch.empty(2, 1024, 64, device="meta", dtype=torch.float16)
WEIGHT = torch.empty(64, 64, 3, 3, device="meta", dtype=torch.float16).to(memory_format=LAST)
CHANNELS = torch.empty(1, 64, 1, 1, device="meta").expand(4, 64, 32, 32)
COLOURS = torch.empty(1, 3, 64, 64, device="meta", dtype=torch.float16).to(memory_format=LAST)
HEADS = TOKENS.view(2, 1024, 4, 16).transpose(1, 2)
SIZE = IMAGE.numel()


def walked(function: Callable[[], Tensor]) -> list[Call]:
    """What runs on an A100."""
    with attention_backend("sdpa", "sm80"), torch.inference_mode(), Walk() as walk:
        function()
    return [one for one in walk.calls if one.work.kernel != "none"]


CASES: dict[str, tuple[Callable[[], Tensor], int]] = {
    "pixels to planes": (lambda: PIXELS.contiguous(), SIZE),
    "planes to pixels": (lambda: IMAGE.contiguous(memory_format=LAST), SIZE),
    "heads, whose features stay beside each other": (
        lambda: HEADS.contiguous(),
        0,
    ),
    "a norm that takes planes only": (lambda: F.group_norm(PIXELS, 32), SIZE),
    "a norm of planes": (lambda: F.group_norm(IMAGE, 32), 0),
    "a sum of pixels and planes": (lambda: PIXELS + IMAGE, SIZE),
    "a sum of pixels": (lambda: PIXELS + PIXELS, 0),
    "a convolution that wants pixels": (lambda: F.conv2d(IMAGE, WEIGHT), SIZE),
    "a convolution of pixels": (lambda: F.conv2d(PIXELS, WEIGHT), 0),
    "a value for each channel, everywhere": (lambda: CHANNELS.contiguous(), 0),
    "pixels of three colours, whose lines are shorter than a sector": (lambda: COLOURS.contiguous(), 0),
    "a sequence of one": (lambda: TOKENS[:, :1].transpose(1, 2).contiguous(), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_elements_that_are_read_across_the_lines_of_their_copy_are_counted(name: str) -> None:
    function, across = CASES[name]
    assert walked(function)[-1].work.turned == across


def test_a_transposed_copy_takes_what_was_measured_on_an_h100() -> None:
    n = 32768 * 8192
    across = call(Work("copy", 0, n, n, strided=True, turned=n))
    (timing,) = predict([across], devices.load("h100-sxm"), "graph")
    assert timing.device_seconds == pytest.approx(1.98e-3, rel=0.02)


def test_a_compiler_writes_what_a_convolution_wants_and_copies_in_tiles() -> None:
    calls = walked(lambda: F.conv2d(F.silu(F.group_norm(PIXELS, 32)), WEIGHT))
    eager, compiled = (predict(calls, A100, mode) for mode in ("eager", "compiled"))
    works = fuse(calls).works
    assert [one.work.turned for one in calls] == [SIZE, 0, SIZE] and all(work.turned == 0 for work in works)
    assert works[-1].launches == 1 and works[-1].workspace == 0
    assert sum(t.device_seconds for t in compiled) < 0.6 * sum(t.device_seconds for t in eager)


def test_a_compiler_leaves_the_copy_of_a_weight() -> None:
    weight = torch.empty(64, 64, 3, 3, device="meta", dtype=torch.float16)
    conv = walked(lambda: F.conv2d(F.silu(PIXELS), weight))[-1]
    fused = fuse(walked(lambda: F.conv2d(F.silu(PIXELS), weight))).works[-1]
    assert conv.work.launches == fused.launches == 2 and fused.workspace == conv.work.workspace == 2 * weight.numel()


def test_a_compiler_does_not_rearrange_what_was_given() -> None:
    (conv,) = walked(lambda: F.conv2d(IMAGE, WEIGHT))
    assert fuse([conv]).works[0].launches == conv.work.launches == 2
