"""GroupNorm, scale and shift, SiLU in few passes: x (b, c, *pixels), channels first or last, 4-D or 5-D -> the same.

    silu((x - mean) / deviation * weight + bias) * (1 + scale) + shift, the SiLU last where both are asked for

with mean and deviation over the channels of a group and all pixels. The result keeps x's memory format.

Why: torch reduces on one thread block per sample and group, 64 of them where a GPU has over a hundred units, returns
channels first whatever it is given, and leaves SiLU and scale-shift to kernels of their own. Here the reduction is
split so that every unit has work, and all that follows it is one pass:

1. statistics: mean and squared deviation of every chunk, by blocks held in registers and joined by Chan's formula,
   so that a mean far from zero cancels nothing; channels-last keeps them per channel, whose rows are contiguous;
2. fold: chunks joined, weight, bias, scale and shift folded into a factor and a summand per sample and channel;
3. apply.

A group that fits the registers of one thread block takes one launch. There are no atomics: runs are equal to the bit.
Source: Wu and He 2018, arXiv 1803.08494; Chan et al. 1983 for the joining of variances.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels import group_norm_launches as launches
from minimodels.kernels.launch import Launch, cdiv, power_of_2, wide
from minimodels.kernels.operands import both, require, vector
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, size_bytes, stored_bytes

ONE_LAUNCH = 16384  # elements of a group, padded to powers of two, that one thread block holds
BLOCK = 4096  # elements a thread block holds at a time
PROGRAMS = 1024  # thread blocks that fill a large GPU several times over
MOST_CHUNKS = 256


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of x (b, c, *pixels) lie next to one another, pixel by pixel."""
    kind = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return not x.is_contiguous() and kind is not None and x.is_contiguous(memory_format=kind)


def _check(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, scale: Tensor | None, shift: Tensor | None,
    silu: bool,
) -> None:  # fmt: skip
    require(x.dim() >= 3, f"x is (b, c, *pixels), not of shape {tuple(x.shape)}")
    require(is_channels_last(x) or x.is_contiguous(), f"x lies channels first or last, not in strides {x.stride()}")
    channels = x.shape[1]
    require(groups > 0 and channels % groups == 0, f"groups divide the {channels} channels, which {groups} do not")
    vector("weight", weight, channels)
    vector("bias", bias, channels)
    both("scale", scale, "shift", shift)
    for name, told in (("scale", scale), ("shift", shift)):
        allowed = [(samples, channels, *(1,) * (x.dim() - 2)) for samples in (x.shape[0], 1)]
        require(told is None or tuple(told.shape) in allowed, f"{name} is {allowed[0]}, not {_shape(told)}")


def _shape(x: Tensor | None) -> tuple[int, ...] | None:
    return None if x is None else tuple(x.shape)


def _empty(x: Tensor) -> Tensor:
    kind = torch.contiguous_format
    if is_channels_last(x):
        kind = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return torch.empty_like(x, memory_format=kind)


def plan(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, scale: Tensor | None, shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, list[Launch]]:  # fmt: skip
    """The result, and the launches that fill it: one, or statistics, fold and apply."""
    last = is_channels_last(x)
    out = _empty(x)
    batch, channels, pixels, width = x.shape[0], x.shape[1], prod(x.shape[2:]), x.shape[1] // groups
    told = (*_strides(scale), *_strides(shift))
    padded = power_of_2(width) * power_of_2(pixels)
    if not last and padded <= ONE_LAUNCH:
        args = (x, out, weight, bias, scale, shift, channels, pixels, *told, eps)
        constants = {
            "GROUPS": groups, "WIDTH": width, "C": power_of_2(width), "S": power_of_2(pixels), "SILU": silu,
            "WIDE": wide(x),
        }  # fmt: skip
        return out, [Launch(launches.whole, (batch * groups, 1, 1), args, constants, 8 if padded > 4096 else 4)]
    plans = _last if last else _first
    statistics, apply, partial, folded, chunks, per_chunk = plans(x, out, groups, silu)
    length = pixels if last else pixels * width
    args = (partial, folded, weight, bias, scale, shift, channels, length, per_chunk, *told, eps)
    constants = {
        "GROUPS": groups, "WIDTH": width, "C": power_of_2(width), "CHUNKS": chunks, "SPLITS": power_of_2(chunks),
        "LAST": last,
    }  # fmt: skip
    return out, [statistics, Launch(launches.fold, (batch * groups, 1, 1), args, constants), apply]


def _strides(x: Tensor | None) -> tuple[int, int]:
    """Strides of a (b, c, 1, ...) tensor of scales over samples and channels."""
    return (0, 0) if x is None else (x.stride(0) if x.shape[0] > 1 else 0, x.stride(1))


Planned = tuple[Launch, Launch, Tensor, Tensor, int, int]


def _split(length: int, block: int, others: int, most: int) -> tuple[int, int]:
    """Chunks of a length, a whole number of blocks each, so that there are about PROGRAMS with `others` beside it."""
    chunks = min(cdiv(PROGRAMS, others), cdiv(length, block), most)
    per_chunk = cdiv(cdiv(length, chunks), block) * block
    return cdiv(length, per_chunk), per_chunk


def _first(x: Tensor, out: Tensor, groups: int, silu: bool) -> Planned:
    batch, channels, pixels = x.shape[0], x.shape[1], prod(x.shape[2:])
    slabs, length = batch * groups, pixels * channels // groups
    chunks, per_chunk = _split(length, BLOCK, slabs, MOST_CHUNKS)
    partial = x.new_empty((slabs, chunks, 2), dtype=torch.float32)
    folded = x.new_empty((batch, 2, channels), dtype=torch.float32)
    constants = {"CHUNKS": chunks, "BLOCK": BLOCK, "WIDE": wide(x)}
    statistics = Launch(
        launches.statistics_first, (slabs * chunks, 1, 1), (x, partial, length, per_chunk), constants, 8
    )
    columns = min(power_of_2(pixels), BLOCK)
    rows = BLOCK // columns
    blocks = cdiv(pixels, columns)
    args = (x, out, folded, channels, pixels, blocks, batch * channels)
    constants = {"ROWS": rows, "COLUMNS": columns, "SILU": silu, "WIDE": wide(x)}
    apply = Launch(launches.apply_first, (cdiv(batch * channels, rows) * blocks, 1, 1), args, constants, 8)
    return statistics, apply, partial, folded, chunks, per_chunk


def _last(x: Tensor, out: Tensor, groups: int, silu: bool) -> Planned:
    batch, channels, pixels = x.shape[0], x.shape[1], prod(x.shape[2:])
    columns = min(power_of_2(channels, 8), 64)  # 128 bytes of half precision: a whole line of the cache
    rows, blocks = BLOCK // columns, cdiv(channels, columns)
    # The fold holds the chunks of a group's channels at once
    most = max(1, ONE_LAUNCH // power_of_2(channels // groups))
    chunks, per_chunk = _split(pixels, rows, batch * blocks, min(MOST_CHUNKS, most))
    partial = x.new_empty((batch, chunks, channels, 2), dtype=torch.float32)
    folded = x.new_empty((batch, 2, channels), dtype=torch.float32)
    constants = {"CHUNKS": chunks, "ROWS": rows, "COLUMNS": columns, "WIDE": wide(x)}
    args = (x, partial, channels, pixels, per_chunk, blocks)
    statistics = Launch(launches.statistics_last, (batch * chunks * blocks, 1, 1), args, constants, 8)
    row_blocks = cdiv(pixels, rows)
    constants = {"ROWS": rows, "COLUMNS": columns, "SILU": silu, "WIDE": wide(x)}
    args = (x, out, folded, channels, pixels, row_blocks, blocks)
    apply = Launch(launches.apply_last, (batch * row_blocks * blocks, 1, 1), args, constants, 8)
    return statistics, apply, partial, folded, chunks, per_chunk


def _normalised(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """x less its mean over its deviation, (b, groups, -1), and 1 / deviation, in float32 at least."""
    wide_x = x.to(torch.promote_types(x.dtype, torch.float32))
    grouped = wide_x.reshape(x.shape[0], groups, prod(x.shape[1:]) // groups)
    variance, mean = torch.var_mean(grouped, dim=-1, keepdim=True, correction=0)
    inverse = torch.rsqrt(variance + eps)
    return (grouped - mean) * inverse, inverse


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """A value per channel, laid out to be broadcast to x."""
    return values.view(1, -1, *(1,) * (x.dim() - 2))


def reference(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, scale: Tensor | None, shift: Tensor | None,
    silu: bool,
) -> Tensor:  # fmt: skip
    """The same in plain torch, in float32 at least."""
    result = _normalised(x, groups, eps)[0].view(x.shape) * _channels(weight, x) + _channels(bias, x)
    if scale is not None and shift is not None:
        result = result * (1 + scale) + shift
    return _empty(x).copy_(F.silu(result) if silu else result)


def eager(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, scale: Tensor | None, shift: Tensor | None,
    silu: bool,
) -> Tensor:  # fmt: skip
    """As the models run it: a norm, a product and a sum, an activation."""
    result = F.group_norm(x, groups, weight, bias, eps)
    if scale is not None and shift is not None:
        result = result * (1 + scale) + shift
    return F.silu(result) if silu else result


def _fake(x: Tensor, *_: Any) -> Tensor:
    return _empty(x)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """x read twice and the result written once, what is per channel beside them; one launch reads x once."""
    x, groups, weight, bias, _, scale, shift, _ = args
    batch, channels, pixels = x.shape[0], x.shape[1], prod(x.shape[2:])
    told = sum(stored_bytes(y) for y in (weight, bias, scale, shift) if y is not None)
    if not is_channels_last(x) and power_of_2(channels // groups) * power_of_2(pixels) <= ONE_LAUNCH:
        return Work("norm", 0, size_bytes(x) + told, size_bytes(out[0]))
    if is_channels_last(x):
        columns = min(power_of_2(channels, 8), 64)
        most = max(1, ONE_LAUNCH // power_of_2(channels // groups))
        chunks, _ = _split(pixels, BLOCK // columns, batch * cdiv(channels, columns), min(MOST_CHUNKS, most))
        partial = 8 * batch * chunks * channels
    else:
        chunks, _ = _split(pixels * channels // groups, BLOCK, batch * groups, MOST_CHUNKS)
        partial = 8 * batch * groups * chunks
    folded = 8 * batch * channels
    read, written = 2 * size_bytes(x) + told + partial + folded, size_bytes(out[0]) + partial + folded
    return Work("norm", 0, read, written, 3, workspace=partial + folded)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.groups, weight, bias, ctx.eps, scale, shift, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias, scale, shift)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight, bias, scale and shift, the normalised x computed anew, in plain torch."""
    x, weight, bias, scale, shift = ctx.saved_tensors
    normalised, inverse = _normalised(x, ctx.groups, ctx.eps)
    shaped = normalised.view(x.shape)
    affine = shaped * _channels(weight, x) + _channels(bias, x)
    grad = grad.to(normalised.dtype)
    more = None if scale is None else 1 + scale.to(normalised.dtype)
    if ctx.silu:
        inner = affine if more is None else affine * more + shift
        gate = torch.sigmoid(inner)
        grad = grad * gate * (1 + inner * (1 - gate))
    of_scale = of_shift = None
    if scale is not None and more is not None:
        of_scale = (grad * affine).sum_to_size(scale.shape).to(scale.dtype)
        of_shift = grad.sum_to_size(shift.shape).to(shift.dtype)
        grad = grad * more
    rest = [0, *range(2, x.dim())]
    of_weight, of_bias = (grad * shaped).sum(rest), grad.sum(rest)
    inner = (grad * _channels(weight, x)).reshape(normalised.shape)
    spread = inner.mean(-1, keepdim=True) + normalised * (inner * normalised).mean(-1, keepdim=True)
    of_x = ((inner - spread) * inverse).view(x.shape).to(x.dtype)
    return of_x, None, of_weight.to(weight.dtype), of_bias.to(bias.dtype), None, of_scale, of_shift, None


group_norm = define(
    "group_norm(Tensor x, int groups, Tensor weight, Tensor bias, float eps, Tensor? scale, Tensor? shift, bool silu)"
    " -> Tensor",
    plan=plan,
    reference=reference,
    eager=eager,
    fake=_fake,
    work=_work,
    check=_check,
    backward=_backward,
    save=_save,
)
"""group_norm(x, groups, weight, bias, eps, scale, shift, silu) -> Tensor: see the module.

scale, shift: (b, c, 1, ...), both or neither.
"""
