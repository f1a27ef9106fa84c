"""Formulas of what multiplies no matrices: elementwise operators, reductions, copies, gathers, resampling.

All count 0 FLOPs, as torch's FlopCounterMode does. A sort is counted as one pass: the further passes of a radix
sort over rows longer than a thread block holds are left out.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor

from minimodels.kernels.layout import format_of
from minimodels.kernels.work import Work, size_bytes, stored_bytes
from minimodels.sim.traffic import copying, one_dimension, tensors_in, traffic, turned, uncontiguous

INDEX = 8  # bytes of an index that torch makes


def pointwise(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = traffic(args, kwargs, out)
    inputs = tensors_in((*args, *kwargs.values()))
    across = sum(turned(x, out[0]) for x in inputs if x.shape == out[0].shape)
    return Work("elementwise", 0, read, written, strided=_strided(inputs, out[0]), turned=across)


def _strided(inputs: list[Tensor], out: Tensor) -> bool:
    """Whether a kernel goes element by element: an input is broadcast, or does not lie as the result does."""
    return any(x.numel() > 1 and (x.shape != out.shape or x.stride() != out.stride()) for x in inputs)


def norm(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = traffic(args, kwargs, out)
    x = args[0]
    # A kernel that returns channels-last takes it, too
    copied = 0 if x.is_contiguous(memory_format=format_of(out[0])) else size_bytes(x)
    blocks = x.shape[0] * args[1] if isinstance(args[1], int) else None  # one per group of a group norm
    return copying(
        Work("norm", 0, read, written, workspace=_statistics(args), blocks=blocks),
        copied,
        turned=turned(x) if copied else 0,
    )


def _statistics(args: tuple[Any, ...]) -> int:
    """Bytes of what a norm remembers of each row: mean and 1/deviation, in float32 at least."""
    x, groups = args[:2]
    rows = x.shape[0] * groups if isinstance(groups, int) else x.numel() // prod(groups)
    return 2 * rows * max(4, x.element_size())


def softmax(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    x, work = args[0], Work("softmax", 0, *traffic(args, kwargs, out))
    return work if x.is_contiguous() else copying(work, size_bytes(x), turned=turned(x))


def reduce(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = traffic(args, kwargs, out)
    return Work("norm" if args[0].numel() > out[0].numel() else "elementwise", 0, read, written)


def scan(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("norm", 0, *traffic(args, kwargs, out))


def embedding(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    index = args[1]
    copied = 0 if one_dimension(index.shape, index.stride()) else size_bytes(index)
    return copying(gather(args, kwargs, out), copied)


def masked_fill(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """A copy, then a pass over it with the mask."""
    read, written = traffic(args, kwargs, out)
    return Work("elementwise", 0, read + written, 2 * written, 2)


def gather(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    written = sum(map(stored_bytes, out))
    index = sum(map(size_bytes, tensors_in(args[1:])))
    return Work("gather", 0, written + index, written)


def copy(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = traffic(args, kwargs, out)
    inputs = tensors_in(args)
    across = sum(turned(x, out[0]) for x in inputs)
    return Work("copy", 0, read, written, strided=not all(x.is_contiguous() for x in inputs), turned=across)


def resample(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return copying(resample_any(args, kwargs, out), uncontiguous(args[0]))


def resample_any(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """By a kernel that takes any strides."""
    return Work("gather", 0, *traffic(args, kwargs, out))


def pad(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """A constant is written everywhere, then the input copied into the middle; other borders take one kernel."""
    x, size = args[0], args[1]
    mode = args[2] if len(args) > 2 and isinstance(args[2], str) else kwargs.get("mode", "constant")
    if mode != "constant":
        return resample_any(args, kwargs, out)
    cut = [min(0, left) + min(0, right) for left, right in zip(size[::2], size[1::2], strict=True)]
    kept = [n + by for n, by in zip(reversed(x.shape), cut, strict=False)]  # pairs begin at the last dimension
    copied = prod(kept) * prod(x.shape[: x.dim() - len(kept)]) * x.element_size()
    if max(size) <= 0:
        return Work("copy", 0, copied, copied)
    return Work("copy", 0, copied, size_bytes(out[0]) + copied, 2)


def sort(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """A copy of the values, numbers from 0 on beside them, and a sort of both in place."""
    values = size_bytes(args[0])
    pairs = values + args[0].numel() * INDEX
    return Work("gather", 0, values + pairs, 2 * pairs, 3)


def argsort(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """A sort whose values nobody takes."""
    return replace(sort(args, kwargs, out), workspace=size_bytes(args[0]))


def topk(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("gather", 0, *traffic(args, kwargs, out))


def quantile(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """A sort, a search for NaN in two passes, and nine small kernels that interpolate."""
    x, work = args[0], sort(args, kwargs, out)
    flags = x.numel()
    read, written = work.bytes_read + size_bytes(x) + flags, work.bytes_written + flags + size_bytes(out[0])
    return Work("gather", 0, read, written, work.launches + 11, workspace=size_bytes(x) + x.numel() * INDEX)


def scatter(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """scatter(x, dim, index, values): the values go to as many places of x, or of its copy, as there are indices."""
    index, values = args[2], args[3]
    placed = index.numel() * args[0].element_size()
    read = size_bytes(index) + (placed if isinstance(values, Tensor) else 0)
    return _into(args[0], out[0], Work("gather", 0, read, placed))


def index_fill(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """index_fill(x, dim, index, value): whole slices of x, or of its copy, are filled."""
    x, dim, index = args[:3]
    return _into(x, out[0], Work("gather", 0, size_bytes(index), size_bytes(x) // x.shape[dim] * index.numel()))


def _into(x: Tensor, out: Tensor, work: Work) -> Work:
    """The work in place, after a copy of x if the result is not x."""
    if out is x:
        return work
    size = size_bytes(x)
    return Work(work.kernel, work.flops, work.bytes_read + size, work.bytes_written + size, work.launches + 1)


def one_hot(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Zeros, then a one in each row."""
    index = args[0]
    return Work("gather", 0, size_bytes(index), size_bytes(out[0]) + index.numel() * INDEX, 2)


def copy_into(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work(
        "copy",
        0,
        stored_bytes(args[1]),
        stored_bytes(args[0]),
        strided=_strided([args[1]], args[0]),
        turned=turned(args[1], args[0]),
    )


def fill(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("elementwise", 0, 0, sum(map(stored_bytes, out)))


def nothing(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("none", 0, 0, 0, 0)
