"""GroupNorm, scale and shift, SiLU in few passes: x (b, c, *pixels), channels first or last, 4-D or 5-D -> the same.

    silu((x - mean) / deviation * weight + bias) * (1 + scale) + shift, the SiLU last where both are asked for

with mean and deviation over the channels of a group and all pixels. The result keeps x's memory format.

Why: torch reduces on one thread block per sample and group, 64 of them where a GPU has over a hundred units, returns
channels first whatever it is given, and leaves SiLU and scale-shift to kernels of their own. Here the reduction is
split so that every unit has work, and all that follows it is one pass:

1. statistics: mean and squared deviation of every chunk, by blocks held in registers and joined by Chan's formula,
   so that a mean far from zero cancels nothing; channels-last keeps them per channel, whose rows are contiguous;
2. apply: chunks joined, weight, bias, scale and shift folded into a factor and a summand per channel, SiLU. Channels
   first every program joins for itself; channels-last, where a group's channels meet other groups', a launch does it.

What is applied has been read before. Channels first, x goes by slabs of whole groups, at most half of the L2 cache: a
launch takes the statistics of one slab and applies those of the slab before, in the same order, so that between the two
reads of an element lies one slab. Results and second reads are marked as used once. So memory is read and written once.
Channels-last has no such slabs, as every pixel has channels of every group: it is applied from its end, read last.

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
from minimodels.kernels.backend import cache_bytes, compute_units
from minimodels.kernels.launch import Launch, cdiv, power_of_2, wide
from minimodels.kernels.operands import both, require, vector
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, size_bytes, stored_bytes

ONE_LAUNCH = 16384  # elements of a group, padded to powers of two, that one thread block holds
BLOCK = 4096  # elements a thread block holds at a time
RESIDENT = 8  # thread blocks of 256 threads that a unit holds
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
    """The result, and the launches that fill it."""
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
    args = weight, bias, scale, shift
    return out, (_last if last else _first)(x, out, groups, args, told, eps, silu)


def _strides(x: Tensor | None) -> tuple[int, int]:
    """Strides of a (b, c, 1, ...) tensor of scales over samples and channels."""
    return (0, 0) if x is None else (x.stride(0) if x.shape[0] > 1 else 0, x.stride(1))


def _split(x: Tensor, length: int, block: int, others: int, most: int) -> tuple[int, int]:
    """Chunks of a length, a whole number of blocks each, to fill the GPU with `others` beside it; and their length."""
    chunks = min(cdiv(RESIDENT * compute_units(x), others), cdiv(length, block), most)
    per_chunk = cdiv(cdiv(length, chunks), block) * block
    return cdiv(length, per_chunk), per_chunk


def _slabs(x: Tensor, groups: int) -> int:
    """How many slabs of whole groups channels-first x goes by, all samples' groups in turn; 1: all at once."""
    slabs, fitting = x.shape[0] * groups, cache_bytes(x) // 2 // max(1, size_bytes(x) // (x.shape[0] * groups))
    return cdiv(slabs, fitting) if fitting else 1


def _split_first(x: Tensor, groups: int) -> tuple[int, int, int]:
    """Groups of a slab of channels-first x, chunks of a group, elements of a chunk."""
    slabs, length = x.shape[0] * groups, prod(x.shape[1:]) // groups
    each = cdiv(slabs, _slabs(x, groups))
    columns, _ = _tile(x, each < slabs)
    return each, *_split(x, length, BLOCK, each, min(MOST_CHUNKS, columns))


def _tile(x: Tensor, by_slabs: bool) -> tuple[int, int]:
    """Pixels and channels of a program that applies: twice a block where there is plenty, since it joins chunks too."""
    size = 2 * BLOCK if by_slabs else BLOCK
    columns = min(power_of_2(prod(x.shape[2:])), size)
    return columns, size // columns


def _split_last(x: Tensor, groups: int) -> tuple[int, int, int]:
    """Channels of a block of channels-last x, chunks of its pixels, pixels of a chunk."""
    channels = x.shape[1]
    columns = min(power_of_2(channels, 8), 64)  # 128 bytes of half precision: a whole line of the cache
    most = max(1, ONE_LAUNCH // power_of_2(channels // groups))  # the fold holds the chunks of a group's channels
    others = x.shape[0] * cdiv(channels, columns)
    return columns, *_split(x, prod(x.shape[2:]), BLOCK // columns, others, min(MOST_CHUNKS, most))


Parameters = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def _first(
    x: Tensor, out: Tensor, groups: int, parameters: Parameters, told: tuple[int, ...], eps: float, silu: bool
) -> list[Launch]:
    """Each launch counts a slab and applies the one before."""
    channels, pixels, width = x.shape[1], prod(x.shape[2:]), x.shape[1] // groups
    slabs = x.shape[0] * groups
    each, chunks, per_chunk = _split_first(x, groups)
    partial = x.new_empty((slabs, chunks, 2), dtype=torch.float32)
    columns, rows = _tile(x, each < slabs)
    blocks = cdiv(pixels, columns)
    args = (x, out, partial, *parameters, channels, pixels, width * pixels, per_chunk, blocks, *told, eps)
    constants = {
        "CHUNKS": chunks, "SPLITS": power_of_2(chunks), "WIDTH": width, "BLOCK": BLOCK, "ROWS": rows,
        "COLUMNS": columns, "SILU": silu, "STREAM": each < slabs, "WIDE": wide(x),
    }  # fmt: skip
    made = []
    for counted in range(0, slabs + each, each):
        applied, end = max(0, counted - each), min(counted, slabs)
        counting = max(0, min(each, slabs - counted)) * chunks
        applying = cdiv((end - applied) * width, rows) * blocks
        every = (counting + applying) // max(1, counting)
        turn = {**constants, "COUNT": counting > 0, "APPLY": applying > 0}
        given = (*args, counted, counting, applied, end, every)
        made.append(Launch(launches.turn_first, (counting + applying, 1, 1), given, turn, 8))
    return made


def _last(
    x: Tensor, out: Tensor, groups: int, parameters: Parameters, told: tuple[int, ...], eps: float, silu: bool
) -> list[Launch]:
    """Statistics, fold and apply."""
    batch, channels, pixels, width = x.shape[0], x.shape[1], prod(x.shape[2:]), x.shape[1] // groups
    columns, chunks, per_chunk = _split_last(x, groups)
    rows, blocks = BLOCK // columns, cdiv(channels, columns)
    partial = x.new_empty((batch, chunks, channels, 2), dtype=torch.float32)
    folded = x.new_empty((batch, 2, channels), dtype=torch.float32)
    constants = {"CHUNKS": chunks, "ROWS": rows, "COLUMNS": columns, "WIDE": wide(x)}
    args = (x, partial, channels, pixels, per_chunk, blocks)
    statistics = Launch(launches.statistics_last, (batch * chunks * blocks, 1, 1), args, constants, 8)
    constants = {
        "GROUPS": groups, "WIDTH": width, "C": power_of_2(width), "CHUNKS": chunks, "SPLITS": power_of_2(chunks),
    }  # fmt: skip
    args = (partial, folded, *parameters, channels, pixels, per_chunk, *told, eps)
    fold = Launch(launches.fold_last, (batch * groups, 1, 1), args, constants)
    row_blocks = cdiv(pixels, rows)
    constants = {"ROWS": rows, "COLUMNS": columns, "SILU": silu, "WIDE": wide(x)}
    args = (x, out, folded, channels, pixels, row_blocks, blocks)
    return [statistics, fold, Launch(launches.apply_last, (batch * row_blocks * blocks, 1, 1), args, constants, 8)]


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
    """x read once, twice where its parts do not stay in the cache; the result written; what is per channel."""
    x, groups, weight, bias, _, scale, shift, _ = args
    batch, channels, pixels = x.shape[0], x.shape[1], prod(x.shape[2:])
    told = sum(stored_bytes(y) for y in (weight, bias, scale, shift) if y is not None)
    if not is_channels_last(x) and power_of_2(channels // groups) * power_of_2(pixels) <= ONE_LAUNCH:
        return Work("norm", 0, size_bytes(x) + told, size_bytes(out[0]))
    if is_channels_last(x):
        launches, kept = 3, size_bytes(x)
        workspace = 8 * batch * channels * (_split_last(x, groups)[1] + 1)
    else:
        each, chunks, _ = _split_first(x, groups)
        launches, kept = 1 + cdiv(batch * groups, each), each * size_bytes(x) // (batch * groups)
        workspace = 8 * batch * groups * chunks
    reads = 1 if kept <= cache_bytes(x) // 2 else 2
    read, written = reads * size_bytes(x) + told + workspace, size_bytes(out[0]) + workspace
    return Work("norm", 0, read, written, launches, workspace=workspace)


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
