"""What a benchmark knows of `upsample_conv`, which has no operator of its own: x (b, c, h, w) -> (b, n, 2 h, 2 w).

It is torch's transposed convolution of a folded weight and, where pixels lie channels last, `bias_residual` behind it.
Weights are folded when a run is prepared, so a benchmark does not time it. Apart from `upsample_conv`, which models
import, since what makes operators known takes Triton's 0.2 s.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels import fused
from minimodels.kernels.backend import kernel_backend
from minimodels.kernels.layout import channels_last
from minimodels.kernels.operator import compose
from minimodels.kernels.upsample_conv import fold
from minimodels.kernels.work import Conv, Work, size_bytes, stored_bytes


def prepare(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weight folded and laid out as that of the convolution was, which a run does once."""
    layout = torch.channels_last if channels_last(weight) else torch.contiguous_format
    return x, fold(weight).contiguous(memory_format=layout), bias


def run(x: Tensor, folded: Tensor, bias: Tensor) -> Tensor:
    """As models run it with our kernels: the bias is added by `bias_residual` where pixels are channels-last."""
    with kernel_backend("triton"):
        return fused.upsample_conv(x, folded, bias)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same in plain torch, in float32 at least."""
    kind = torch.promote_types(x.dtype, torch.float32)
    large = x.to(kind).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return F.conv2d(large, weight.to(kind), bias.to(kind), padding=1).to(x.dtype)


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As the models run it without our kernels: an enlarged image and its convolution."""
    return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """2 x 4 c FLOPs an element of the result; image, folded weight and bias read once, the result written once."""
    x, weight, bias = args
    pixels, channels, taps = out[0].numel() // weight.shape[0], weight.shape[0], 4 * weight.shape[1]
    folded = size_bytes(weight) * 16 // prod(weight.shape[2:])
    conv = Conv(weight.shape[1], size_bytes(x), folded, size_bytes(out[0]), channels_last(x), True)
    read = stored_bytes(x) + folded + stored_bytes(bias)
    gemm = (1, pixels, channels, taps)
    return Work("conv", 2 * pixels * channels * taps, read, stored_bytes(out[0]), gemm=gemm, conv=conv)


composite = compose(
    "upsample_conv(Tensor x, Tensor weight, Tensor bias) -> Tensor",
    prepare=prepare, run=run, reference=reference, eager=eager, work=_work,
)  # fmt: skip
"""upsample_conv(x, weight, bias) -> Tensor: x (b, c, h, w), weight (n, c, 3, 3) -> (b, n, 2 h, 2 w)."""
