"""Bytes that an operator moves, from the tensors it takes and returns: what every formula builds on.

Each argument is read once and each result written once; a tensor expanded over a dimension is read as often as it
is stored. Copies that torch makes of an argument whose strides a kernel cannot take are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.backend import choice
from minimodels.kernels.layout import LAST, channels_last, format_of
from minimodels.kernels.work import Work, size_bytes, stored_bytes

SECTOR = 32  # bytes that a GPU reads at least


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors among arguments, lists included, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(item for item in value if isinstance(item, Tensor))
    return found


def traffic(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> tuple[int, int]:
    """Bytes read of the arguments, and written to the results."""
    read = sum(map(stored_bytes, tensors_in((*args, *kwargs.values()))))
    return read, sum(map(stored_bytes, out))


def one_dimension(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether dimensions of these sizes and strides view as one."""
    long = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    return all(a[1] == b[0] * b[1] for a, b in pairwise(long))


def uncontiguous(x: Tensor) -> int:
    """Bytes of the copy that resampling makes of x, 0 if it lies in one of the orders the kernels know."""
    return 0 if x.is_contiguous() or x.is_contiguous(memory_format=format_of(x)) else size_bytes(x)


def convolved_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """The memory format in which x is convolved: channels last where it or the weight is, if there is such a kernel.

    There is none of cuDNN's in float64. A CPU has one for two dimensions, and for three in oneDNN, which torch takes
    with several threads.
    Source: torch/native/ConvUtils.h, cudnn_conv_suggest_memory_format; Convolution.cpp, use_mkldnn.
    """
    exists = x.dtype != torch.float64
    if choice().target == "cpu":
        several = torch.get_num_threads() > 1 and torch._C._get_mkldnn_enabled()
        exists = x.dim() == 4 or exists and several
    last = exists and (channels_last(x) or channels_last(weight))
    return LAST[x.dim()] if last else torch.contiguous_format


def reordered(work: Work, x: Tensor, weight: Tensor) -> Work:
    """The work, after the copies that a convolution makes of x and its weight, where they lie otherwise."""
    wanted = convolved_format(x, weight)
    copied = [y for y in (x, weight) if not y.is_contiguous(memory_format=wanted)]
    dense = x.dim() - 1 if wanted is torch.contiguous_format else 1
    return copying(work, *map(size_bytes, copied), turned=sum(_turned(y, dense) for y in copied))


def held_inside(work: Work, dtype: str) -> int:
    """Bytes alive while an operator runs, beside its arguments and results: its workspace, and what cuDNN reorders.

    For tensor cores it copies input and weight of a channels-first convolution into its own workspace. Source: names
    of its kernels (nchwToNhwcKernel); mit-han-lab/patch_conv on the memory of VAE decoders.
    """
    conv, target = work.conv, choice().target
    tf32 = target.startswith("sm") and int(target.removeprefix("sm")) >= 80
    cores = dtype in ("float16", "bfloat16") or dtype == "float32" and tf32
    if conv is None or conv.channels_last or conv.backward or target == "cpu" or not cores:
        return work.workspace
    return work.workspace + conv.input + conv.weight


def turned(x: Tensor, out: Tensor | None = None) -> int:
    """The elements of x, if a copy to `out` (None: a contiguous one) reads them across the lines in which it writes."""
    like = out is not None and out.dim() == x.dim()
    return _turned(x, _dense(out) if out is not None and like else x.dim() - 1)


def _turned(x: Tensor, along: int | None) -> int:
    """The elements of x, if a copy whose lines lie along a dimension reads them across its own: lines of a sector."""
    own = _dense(x)
    if own is None or along is None or own == along or x.stride(along) == 0:
        return 0
    return x.numel() if min(x.shape[own], x.shape[along]) * x.element_size() >= SECTOR else 0


def _dense(x: Tensor) -> int | None:
    """The dimension along which elements lie beside each other, if there is one."""
    found = [i for i, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)) if size > 1 and stride == 1]
    return found[-1] if found else None


def copying(work: Work, *copies: int, turned: int = 0) -> Work:
    """The work, after copies of some arguments of these bytes: the copies are read in their place.

    turned: elements of them that are read across the lines in which they are written.
    """
    copied, launches = sum(copies), work.launches + sum(size > 0 for size in copies)
    read, written, workspace = work.bytes_read + copied, work.bytes_written + copied, work.workspace + copied
    turned += work.turned
    return replace(work, bytes_read=read, bytes_written=written, launches=launches, workspace=workspace, turned=turned)
