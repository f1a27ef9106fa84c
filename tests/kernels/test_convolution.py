"""What surrounds a convolution, and the one over frames: counts, limits, and when an entrance takes our kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.kernels import bias_residual, fused, temporal_conv, upsample
from minimodels.kernels.backend import attention_backend, kernel_backend
from minimodels.kernels.fused import Residual
from minimodels.kernels.layout import put_channels_last
from minimodels.kernels.operator import OPERATORS
from minimodels.unet_blocks import Conv, PointConv
from minimodels.video import FrameConv, TemporalConv


def last(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Pixels (b, c, *pixels), channels last."""
    return torch.randn(shape[0], *shape[2:], shape[1], dtype=dtype, device=device).movedim(-1, 1)


class Names(TorchDispatchMode):
    """Names of the operators that run inside, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.seen.append(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def names(function: Callable[[], object], kernels: str = "torch") -> list[str]:
    """The operators of a function."""
    with torch.no_grad(), kernel_backend(kernels), Names() as found:
        function()
    return found.seen


def filled(conv: Any, *, laid: bool = True) -> Any:
    """A convolution with weights of order one, channels last if `laid`."""
    with torch.no_grad():
        weight = torch.randn(conv.weight.shape) * conv.weight[0].numel() ** -0.5
        conv.weight = nn.Parameter(put_channels_last(weight) if laid else weight, requires_grad=False)
        conv.bias = nn.Parameter(torch.randn(conv.bias.shape), requires_grad=False)
    return conv


def test_work_is_what_is_counted_by_hand() -> None:
    x, weight, bias = last(2, 6, 5, 3, 4, dtype=torch.float16), last(8, 6, 3, 1, 1, dtype=torch.float16), torch.ones(8)
    pixels = 2 * 5 * 3 * 4
    out, _ = temporal_conv.plan(x, weight, bias.half(), None, None)
    work = OPERATORS["minimodels::temporal_conv"].work((x, weight, bias.half(), None, None), {}, (out,))
    assert work.flops == 2 * pixels * 8 * 6 * 3 and work.launches == 1 and work.workspace == 0
    assert work.bytes_read == 2 * (pixels * 6 + 8 * 6 * 3 + 8) and work.bytes_written == 2 * pixels * 8
    x = last(2, 6, 3, 5)
    out, _ = upsample.plan(x)
    work = OPERATORS["minimodels::upsample"].work((x,), {}, (out,))
    assert (work.flops, work.bytes_read, work.bytes_written) == (0, 4 * 180, 4 * 4 * 180)
    given = x, torch.ones(6), last(2, 6, 3, 5), torch.ones(6), 2.0
    work = OPERATORS["minimodels::bias_residual"].work(given, {}, (bias_residual.plan(*given)[0],))
    assert (work.flops, work.bytes_read, work.bytes_written) == (0, 4 * (2 * 180 + 2 * 6), 4 * 180)


@pytest.mark.parametrize(("frames", "is_wide"), [(1000, False), (2048, True), (5000, True)])
def test_offsets_are_of_64_bits_from_2_to_the_31(frames: int, is_wide: bool) -> None:
    x = last(1, 64, frames, 128, 128, dtype=torch.bfloat16, device="meta")
    weight = last(64, 64, 3, 1, 1, dtype=torch.bfloat16, device="meta")
    flat = x.movedim(2, 1).flatten(0, 1)
    launches = [
        *temporal_conv.plan(x, weight, None, None, None)[1],
        *upsample.plan(flat[: frames // 4])[1],
        *bias_residual.plan(flat, weight[:, 0, 0, 0, 0], None, None, None)[1],
    ]
    assert [launch.constants["WIDE"] for launch in launches] == [is_wide] * 3


@pytest.mark.parametrize("positions", (65_535, 65_536, 1_000_000))
def test_any_number_of_positions_is_convolved(positions: int) -> None:
    x = last(2, 320, 16, 1, positions, dtype=torch.bfloat16, device="meta")
    weight = last(320, 320, 3, 1, 1, dtype=torch.bfloat16, device="meta")
    _, (launch,) = temporal_conv.plan(x, weight, None, None, None)
    assert launch.grid[0] * launch.constants["M"] * launch.constants["N"] >= 2 * 16 * positions * 320
    assert launch.grid[1:] == (1, 1)


def test_more_rows_than_32_bits_number_are_left_to_torch() -> None:
    weight = last(1, 1, 3, 1, 1, device="meta")
    assert temporal_conv.fits(last(1, 1, 32, 8192, 8191, device="meta"), weight)
    assert not temporal_conv.fits(last(1, 1, 32, 8192, 8192, device="meta"), weight)


@pytest.mark.parametrize(
    ("target", "channels", "tile"),
    [("sm80", 512, (128, 128)), ("gfx942", 512, (128, 128)), ("sm90", 512, (128, 256)), ("sm100", 1280, (128, 256)),
     ("sm90", 320, (128, 128)), ("sm90", 192, (64, 64)), ("sm90", 500, (64, 64))],
)  # fmt: skip
def test_a_tile_is_the_largest_that_a_target_and_the_channels_fill(
    target: str, channels: int, tile: tuple[int, int]
) -> None:
    x, weight = (last(*shape, dtype=torch.bfloat16, device="meta") for shape in ((2, channels, 16, 64, 64), (channels, channels, 3, 1, 1)))  # fmt: skip
    with attention_backend("sdpa", target):
        _, (launch,) = temporal_conv.plan(x, weight, None, None, None)
        _, (small,) = temporal_conv.plan(x[:, :, :, :4, :4].contiguous(memory_format=torch.channels_last_3d), weight, None, None, None)  # fmt: skip
    assert (launch.constants["M"], launch.constants["N"]) == tile
    assert (small.constants["M"], small.constants["N"]) == (64, 64)


def test_by_default_entrances_run_torchs_operators_in_the_models_order() -> None:
    conv, frames, x, video = filled(nn.Conv2d(6, 6, 3, padding=1)), filled(FrameConv(6, 3)), last(2, 6, 4, 4), last(1, 6, 3, 4, 4)  # fmt: skip
    point = filled(PointConv(6, 6))
    pairs: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: fused.convolve(x, conv, Residual(x), 2.0), lambda: (x + nn.Conv2d.forward(conv, x)) / 2.0),
        (lambda: point(x, fused.shortcut(x, conv)), lambda: conv(x) + nn.Conv2d.forward(point, x)),
        (lambda: fused.upsample(x), lambda: nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")),
        (lambda: frames(video, Residual(video)), lambda: video + nn.Conv3d.forward(frames, video)),
    ]
    for ours, theirs in pairs:
        assert names(ours) == names(theirs)


def test_under_our_kernels_a_channels_last_block_is_ours_and_says_the_same() -> None:
    x, conv, point = last(2, 6, 5, 4), filled(Conv(6, 6)), filled(PointConv(6, 6))
    calls: list[tuple[Callable[[], Tensor], list[str]]] = [
        (lambda: conv(x), ["aten::convolution", "minimodels::bias_residual"]),
        (lambda: conv(x, residual=Residual(x), divisor=2.0), ["aten::convolution", "minimodels::bias_residual"]),
        (
            lambda: conv(x, residual=fused.shortcut(x, point)),
            ["aten::convolution", "aten::convolution", "minimodels::bias_residual"],
        ),
        (lambda: fused.upsample(x), ["minimodels::upsample"]),
    ]
    for call, expected in calls:
        assert names(call, "triton") == expected
        with torch.no_grad():
            theirs = call()
            with kernel_backend("triton"):
                torch.testing.assert_close(call(), theirs)


@pytest.mark.parametrize("biased", (False, True))
def test_a_convolution_over_frames_takes_pixels_as_they_lie(biased: bool) -> None:
    x, conv = last(6, 8, 5, 4), filled(TemporalConv(8, 3))
    added = Residual(last(6, 8, 5, 4), torch.randn(8) if biased else None)
    assert names(lambda: conv(x, 3, added), "triton") == ["minimodels::temporal_conv"], "no copy on either side"
    with torch.no_grad():
        with kernel_backend("triton"):
            found = conv(x, 3, added)
        whole = added.x + (0 if added.bias is None else added.bias[:, None, None])
        torch.testing.assert_close(found, conv(x, 3, Residual(whole)))


def test_what_our_kernels_do_not_take_runs_as_torchs() -> None:
    x = last(2, 8, 4, 4)
    for given in (x.contiguous(), x.double(), x[:, 2:6]):
        assert names(lambda given=given: fused.upsample(given), "triton") == ["aten::upsample_nearest2d"]
    conv, point = filled(TemporalConv(8, 3), laid=False), filled(PointConv(8, 8), laid=False)
    assert "minimodels::temporal_conv" not in names(lambda: conv(x, 2), "triton")
    assert names(lambda: point(x, Residual(x)), "triton") == ["aten::convolution", "aten::add"]
