"""Nearest-neighbour upsampling by two and a 3x3 convolution as one transposed convolution: 4/9 of the products.

Of the nine pixels under a window of the enlarged image only four differ, so weights that meet the same pixel are
added beforehand. What is left is, for each of the four places of a pixel of the result in its 2x2 block, a 2x2
convolution of the small image; the four together are a transposed convolution of window 4, stride 2, padding 1. The
enlarged image is never written: a quarter of the input's bytes is read.

    per dimension, with w the window of 3:    [w2, w1 + w2, w0 + w1, w0]

Convolution itself is cuDNN's. Weights are folded once, when a run is prepared; the sums are rounded to the weights'
type once, so in half precision a result differs from that of the two operators by rounding.
Source of the form: sglang pull 33451.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fold(weight: Tensor) -> Tensor:
    """The weight (c, n, 4, 4) of the transposed convolution, for one (n, c, 3, 3) of the enlarged image."""
    assert weight.shape[2:] == (3, 3), weight.shape
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return _folded(_folded(wide, 2), 3).transpose(0, 1).to(weight.dtype)


def _folded(weight: Tensor, dim: int) -> Tensor:
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)


def upsample_conv(x: Tensor, folded: Tensor, bias: Tensor | None) -> Tensor:
    """x (b, c, h, w) -> (b, n, 2 h, 2 w)."""
    return F.conv_transpose2d(x, folded, bias, stride=2, padding=1)
