"""How pixels lie in memory: channels first (torch's default) or channels last, those of a pixel beside each other.

torch's rule decides which of the two a tensor has, and by it a convolution which of the two it runs in: channels
last where its input or its weight has them last. So a network whose weights are channels last runs so from the first
convolution on, and whatever leaves pixels for tokens comes back to the layout that it finds (`laid_like`).

Imports no Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> bool:
    """Whether torch takes pixels x (b, c, *pixels), or a weight (out, in, *window), for channels-last.

    By its strides, those of dimensions of size 1 included: a weight (out, in, 1, 1) has either layout, and says by
    strides that nothing else reads which one is meant.

    Source: c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4 and _3d_s5.
    """
    if x.dim() not in LAST or x.stride(1) == 0:
        return False
    least = 0
    for dim in (1, *range(x.dim() - 1, 1, -1), 0):
        size, stride = x.shape[dim], x.stride(dim)
        if size == 0 or stride < least or dim == 0 and least == x.stride(1):
            return False
        least = stride * size
    return True


def pixel_rows(x: Tensor) -> bool:
    """Whether the channels of pixels x, or of a weight, lie beside each other, one pixel after another, without gaps.

    What our kernels read: a slice of channels is channels-last for torch, and is none.
    """
    return x.movedim(1, -1).is_contiguous()


def format_of(x: Tensor) -> torch.memory_format:
    """The memory format of pixels x, or of a weight."""
    return LAST[x.dim()] if channels_last(x) else torch.contiguous_format


def laid_like(x: Tensor, like: Tensor) -> Tensor:
    """Pixels x (b, c, *pixels) in the memory format of `like`, pixels or a weight: a copy only where they differ."""
    return x.contiguous(memory_format=format_of(like))


def put_channels_last(weight: Tensor) -> Tensor:
    """A copy of a convolution's weight that torch takes for channels-last, one of a 1x1 window too."""
    order = (0, *range(2, weight.dim()), 1)
    copy = torch.empty_permuted(weight.shape, order, dtype=weight.dtype, device=weight.device)
    return copy.copy_(weight)
