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

from minimodels.kernels.work import Work, size_bytes, stored_bytes


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
    """Bytes of the copy that a convolution makes of x, 0 if it lies in one of the orders the kernels know."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if x.is_contiguous() or channels_last is not None and x.is_contiguous(memory_format=channels_last):
        return 0
    return size_bytes(x)


def copying(work: Work, *copies: int) -> Work:
    """The work, after copies of some arguments of these bytes: the copies are read in their place."""
    copied, launches = sum(copies), work.launches + sum(size > 0 for size in copies)
    read, written, workspace = work.bytes_read + copied, work.bytes_written + copied, work.workspace + copied
    return replace(work, bytes_read=read, bytes_written=written, launches=launches, workspace=workspace)
