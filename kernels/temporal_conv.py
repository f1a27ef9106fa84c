"""Convolution over the frames of each pixel, read as it lies: x (b, c, f, h, w) channels last -> (b, n, f, h, w) so.

weight (n, c, k, 1, 1) with k odd, channels last: in memory (n, k, c). Frames before the first and after the last are
zero. Optionally a bias, and a residual laid out as the result, with a bias of its own if it lacks one, are added.

float32 is multiplied as TF32, as torch's convolutions are unless told otherwise.

Why: pixels channels last are (b f p, c) rows, and the neighbour of a row in time is the row p = h w further on. So
the convolution is one matrix product of rows with K = k c features, tap t of a row being the row (t - k // 2) p
further on, or nothing: no rearrangement to a convolution of one dimension and back, which together move four times
what the convolution itself does. Programs beside each other in the grid share rows, whose taps a level-2 cache holds.
Products bound it from 128 channels on: 1.5 c FLOPs a byte of memory in half precision. Computed, not measured: a step
of a 128 x 256 tile multiplies 2 M pairs, 1,024 cycles of an H100's multiprocessor at its peak, from 48 KB, so that 65 %
of an H200's product rate asks its level-2 cache for 6 TB/s; a 128 x 128 tile for 8, one of 64 x 64 for 16.
Source: Singer et al. 2022 (Make-A-Video), arXiv 2209.14792, section 3.2, for the operator.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels.backend import INTERPRETED, target_of
from minimodels.kernels.launch import Launch, cdiv, jit, power_of_2, tl, wide
from minimodels.kernels.layout import pixel_rows
from minimodels.kernels.operands import alike, require, vector
from minimodels.kernels.operator import define
from minimodels.kernels.work import Conv, Work, size_bytes, stored_bytes

FILLED = 128  # programs from which on a GPU is taken as filled, so that larger tiles are worth it
TILES = ((128, 128, 8), (64, 128, 4), (64, 64, 4))  # rows, channels, warps
LARGEST = ((128, 256, 8), *TILES)  # on Hopper and later; sums of products in sm80's way would spill
UNALIGNED = (64, 64, 8)
MOST_ROWS = (1 << 31) - 1 - 128  # a tile more is numbered
ALIGNED = 16  # what Triton asks of a row's length to take it as aligned
STEP = 128  # bytes of a row that a step reads


@jit
def _convolve(
    x, weight, bias, residual, residual_bias, out, rows, pixels, frames, features, channels, column_blocks,
    TAPS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """A tile (M, N) of the result (rows, channels); WHOLE: features are a multiple of K."""
    program = tl.program_id(0)
    row = (program // column_blocks) * M + tl.arange(0, M)
    channel = (program % column_blocks) * N + tl.arange(0, N)
    frame = (row // pixels) % frames
    inside, known = row < rows, channel < channels
    place = row.to(tl.int64) if WIDE else row
    feature = tl.arange(0, K)
    x_at = x + place[:, None] * features + feature[None, :]
    weight_at = weight + channel[None, :] * (TAPS * features) + feature[:, None]
    total = tl.zeros((M, N), tl.float32)
    blocks = tl.cdiv(features, K)
    for step in range(TAPS * blocks):
        tap, first = step // blocks, (step % blocks) * K
        shift = tap - TAPS // 2
        there = inside & (frame + shift >= 0) & (frame + shift < frames)
        away = (shift.to(tl.int64) if WIDE else shift) * pixels * features + first
        of_weight = tap * features + first
        if WHOLE:
            a = tl.load(x_at + away, mask=there[:, None], other=0.0)
            b = tl.load(weight_at + of_weight, mask=known[None, :], other=0.0)
        else:
            left = features - first
            a = tl.load(x_at + away, mask=there[:, None] & (feature < left)[None, :], other=0.0)
            b = tl.load(weight_at + of_weight, mask=known[None, :] & (feature < left)[:, None], other=0.0)
        if UPCAST:  # the interpreter cannot multiply bfloat16
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="tf32")
    first = (program % column_blocks) * N
    if N == 256:  # by halves: beside a whole tile its residual has no room in registers
        low, high = tl.split(tl.permute(tl.reshape(total, (M, 2, N // 2)), (0, 2, 1)))
        _write(low, bias, residual, residual_bias, out, row, first, rows, channels, N // 2, WIDE)
        _write(high, bias, residual, residual_bias, out, row, first + N // 2, rows, channels, N // 2, WIDE)
    else:
        _write(total, bias, residual, residual_bias, out, row, first, rows, channels, N, WIDE)


@jit
def _write(
    total, bias, residual, residual_bias, out, row, first, rows, channels, N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """What follows the product: a tile of sums, N channels from `first` on."""
    channel = first + tl.arange(0, N)
    known = channel < channels
    place = row.to(tl.int64) if WIDE else row
    at = place[:, None] * channels + channel[None, :]
    written = (row < rows)[:, None] & known[None, :]
    if bias is not None:
        total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        total += tl.load(residual + at, mask=written, other=0.0).to(tl.float32)
    if residual_bias is not None:
        total += tl.load(residual_bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=written)


def _empty(x: Tensor, weight: Tensor) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty_permuted(shape, (0, 2, 3, 4, 1), dtype=x.dtype, device=x.device)


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether they lie as the kernel reads them, the window is one of an odd number of frames, and rows are countable.

    Rows (b f p), and elements of the weight, are numbered in 32 bits; offsets into x and the result are not.
    """
    window = weight.shape[2] % 2 == 1 and weight.shape[3:] == (1, 1) and weight.shape[1] == x.shape[1]
    counted = x.numel() // x.shape[1] <= MOST_ROWS and not wide(weight)
    return window and counted and pixel_rows(x) and pixel_rows(weight)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, residual_bias: Tensor | None
) -> None:
    given = f"{tuple(x.shape)} in strides {x.stride()} and {tuple(weight.shape)} in strides {weight.stride()}"
    fit = x.dim() == weight.dim() == 5 and x.shape[1] > 0 and fits(x, weight)
    require(fit, f"x (b, c, f, h, w) and weight (n, c, k, 1, 1), k odd, lie channels last; not {given}")
    alike(x=x, weight=weight)
    if residual is not None:
        shape = (x.shape[0], weight.shape[0], *x.shape[2:])
        require(tuple(residual.shape) == shape, f"the residual is {shape} as the result, not {tuple(residual.shape)}")
        require(pixel_rows(residual), f"the residual lies channels last, not in strides {residual.stride()}")
    require(residual_bias is None or residual is not None, "residual_bias is that of a residual, which is missing")
    vector("bias", bias, weight.shape[0])
    vector("residual_bias", residual_bias, weight.shape[0])


def _tile(rows: int, features: int, channels: int, target: str) -> tuple[int, int, int]:
    """Rows and channels of a tile, and its warps: the largest that fills a GPU with at most a sixth of it unused.

    A tile of half the width would ask caches for more than the sixth saves in products. Elements of rows that are not
    aligned are read one by one: their addresses fill the registers that a larger tile needs.
    """
    if features % ALIGNED or channels % ALIGNED:
        return UNALIGNED
    for height, width, warps in LARGEST if target in ("sm90", "sm100", "sm103") else TILES:
        columns = cdiv(channels, width)
        if 5 * columns * width <= 6 * channels and cdiv(rows, height) * columns >= FILLED:
            return height, width, warps
    return TILES[-1]


def plan(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, residual_bias: Tensor | None
) -> tuple[Tensor, list[Launch]]:
    """The result, and the launch that fills it."""
    out = _empty(x, weight)
    batch, features, frames, *size = x.shape
    pixels, channels, taps = prod(size), weight.shape[0], weight.shape[2]
    rows = batch * frames * pixels
    height, width, num_warps = _tile(rows, features, channels, target_of(x))
    step = min(power_of_2(features, 16), STEP // x.element_size())
    column_blocks = cdiv(channels, width)
    args = (x, weight, bias, residual, residual_bias, out, rows, pixels, frames, features, channels, column_blocks)
    constants = {
        "TAPS": taps, "M": height, "N": width, "K": step, "WHOLE": features % step == 0,
        "WIDE": wide(x, out), "UPCAST": INTERPRETED and x.dtype == torch.bfloat16,
    }  # fmt: skip
    return out, [Launch(_convolve, (cdiv(rows, height) * column_blocks, 1, 1), args, constants, num_warps, 3)]


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, residual_bias: Tensor | None
) -> Tensor:
    """The same in plain torch, in float32 at least."""
    kind = torch.promote_types(x.dtype, torch.float32)
    taps, frames = weight.shape[2], x.shape[2]
    padded = F.pad(x.to(kind), (0, 0, 0, 0, taps // 2, taps // 2))
    result = torch.zeros((x.shape[0], weight.shape[0], *x.shape[2:]), dtype=kind, device=x.device)
    for tap in range(taps):
        result += torch.einsum("bcfhw,nc->bnfhw", padded[:, :, tap : tap + frames], weight[:, :, tap, 0, 0].to(kind))
    for more in (bias, residual_bias):
        result = result if more is None else result + more.view(-1, 1, 1, 1)
    return _empty(x, weight).copy_(result if residual is None else result + residual)


def eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, residual_bias: Tensor | None
) -> Tensor:
    """As the models run it: a convolution of three dimensions, and a sum."""
    result = F.conv3d(x, weight, bias, padding=(weight.shape[2] // 2, 0, 0))
    if residual is None:
        return result
    return (residual if residual_bias is None else residual + residual_bias.view(-1, 1, 1, 1)) + result


def _fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return _empty(x, weight)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """2 k c FLOPs an element of the result, as torch counts a convolution; every tensor read and written once."""
    x, weight = args[:2]
    pixels, channels, taps = out[0].numel() // weight.shape[0], weight.shape[0], prod(weight.shape[1:])
    read = sum(stored_bytes(y) for y in args[:5] if y is not None)
    conv = Conv(weight.shape[1], size_bytes(x), size_bytes(weight), size_bytes(out[0]), True, False, direct=True)
    flops = 2 * pixels * channels * taps
    return Work("conv", flops, read, stored_bytes(out[0]), gemm=(1, pixels, channels, taps), conv=conv)


temporal_conv = define(
    "temporal_conv(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor? residual_bias) -> Tensor",
    plan=plan, reference=reference, eager=eager, fake=_fake, work=_work, check=_check,
)  # fmt: skip
"""temporal_conv(x, weight, bias, residual, residual_bias) -> Tensor: see the module; biases are (n,)."""
