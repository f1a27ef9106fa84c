"""What a UNet is made of: residual blocks, resampling, embeddings of time; its attention is in `unet_attention`.

Shapes: x (b, c, h, w) features, in video (b f, c, h, w) with the frames of a sample one after the other; t
(b, time_dim) the embedded time, already through its activation.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.kernels.fused import (
    Residual,
    convolve,
    group_norm,
    shortcut,
    upsample,
    upsample_conv,
)
from minimodels.kernels.layout import laid_like, put_channels_last
from minimodels.kernels.scope import scope
from minimodels.kernels.upsample_conv import fold
from minimodels.unet_config import (
    Pseudo3d,
    Temporal,
    TextToVideo,
    UNet,
)
from minimodels.video import TemporalConv, TemporalConvs


def timestep_features(timestep: Tensor, dim: int) -> Tensor:
    """Sinusoidal features (b, dim) of timesteps (b,), cosines first.

    Source: Ho et al. 2020, arXiv 2006.11239, and the official code of latent diffusion.
    """
    half = dim // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angle = timestep[:, None].float() * torch.exp(exponent)[None]
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)


def per_sample(number: Tensor | float, x: Tensor) -> Tensor:
    """A number, or one for each sample of x (b, ...), as (b,)."""
    number = torch.as_tensor(number, device=x.device)
    if number.shape not in ((), (1,), (len(x),)):
        raise ValueError(f"one number for each of {len(x)} samples, or one for all, not {tuple(number.shape)}")
    return number.expand(len(x))


def to_pixels(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens (b, h w, c) as pixels (b, c, h, w), laid out in memory as pixels `like` (b, c', h, w) are."""
    height, width = like.shape[2:]
    return laid_like(rearrange(tokens, "b (h w) c -> b c h w", h=height, w=width), like)


class Embedding(nn.Sequential):
    """Linear, activation, linear: features (b, dim) -> (b, time_dim)."""

    def __init__(self, dim: int, time_dim: int, activation: str) -> None:
        module = {"silu": nn.SiLU, "gelu": nn.GELU, "gelu_tanh": partial(nn.GELU, "tanh")}[activation]
        super().__init__(nn.Linear(dim, time_dim), module(), nn.Linear(time_dim, time_dim))


class ResSettings(NamedTuple):
    """What all residual blocks of a network share; `time_dim` is None where there is no time."""

    groups: int
    eps: float
    activation: str
    time_dim: int | None = None
    scale_shift: bool = False
    project: bool = False  # the shortcut is a convolution even where the channels stay
    temporal: Temporal | None = None
    residual_scale: float | None = None  # what the sum with the shortcut is divided by

    @classmethod
    def of(cls, unet: UNet) -> ResSettings:
        """Those of a UNet."""
        return cls(
            groups=unet.norm_groups,
            eps=unet.norm_eps,
            activation=unet.activation,
            time_dim=unet.time_dim,
            scale_shift=unet.scale_shift,
            temporal=unet.temporal,
            residual_scale=unet.residual_scale,
        )


class Conv(nn.Conv2d):
    """3x3 convolution over pixels, followed in a video network by one over frames: (b f, c, h, w) -> the same."""

    def __init__(self, in_channels: int, channels: int, temporal: Temporal | None = None, stride: int = 1) -> None:
        super().__init__(in_channels, channels, 3, stride, padding=1)
        self.temporal = (
            TemporalConv(channels, temporal.kernel) if isinstance(temporal, Pseudo3d) and temporal.conv else None
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, frames: int = 1, residual: Residual | None = None, divisor: float | None = None
    ) -> Tensor:
        """Residual and divisor: what is added to the result, and what the sum is divided by."""
        if self.temporal is None:
            return convolve(x, self, residual, divisor)
        x = self.temporal(convolve(x, self), frames, residual)
        return x if divisor is None else x / divisor


class FoldedConv(nn.Module):
    """Twice the side by nearest neighbour and a `Conv`, as one convolution: (b, c, h, w) -> (b, n, 2h, 2w)."""

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        assert conv.bias is not None and conv.stride == (1, 1), conv
        self.weight = nn.Parameter(put_channels_last(fold(conv.weight)), requires_grad=False)
        self.bias, self.temporal = conv.bias, conv.temporal

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        x = upsample_conv(x, self.weight, self.bias)
        return x if self.temporal is None else self.temporal(x, frames)


def doubled(x: Tensor, conv: Conv | FoldedConv, frames: int) -> Tensor:
    """A `Conv` of x at twice its side by nearest neighbour: (b, c, h, w) -> (b, n, 2h, 2w)."""
    return conv(x if isinstance(conv, FoldedConv) else upsample(x), frames)


class PointConv(nn.Conv2d):
    """1x1 convolution: (b, c, h, w) -> (b, channels, h, w)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, 1)

    def forward(self, x: Tensor, residual: Residual | None = None) -> Tensor:  # type: ignore[override]
        """Residual: what is added to the result."""
        return convolve(x, self, residual)


class ResBlock(nn.Module):
    """norm, act, conv, + time, norm, act, conv, + shortcut; resamples x by two between where asked to.

    resample: None, "up" or "down", by nearest neighbour and mean, on the way in (BigGAN, as ADM and Imagen).
    """

    def __init__(self, settings: ResSettings, in_channels: int, channels: int, resample: str | None = None) -> None:
        super().__init__()
        groups, eps, time_dim, temporal = settings.groups, settings.eps, settings.time_dim, settings.temporal
        self.scale_shift, self.residual_scale = settings.scale_shift, settings.residual_scale
        self.resample, self.activation = resample, settings.activation
        self.norm_in = nn.GroupNorm(groups, in_channels, eps)
        self.conv_in: Conv | FoldedConv = Conv(in_channels, channels, temporal)
        self.from_time = nn.Linear(time_dim, channels * (1 + self.scale_shift)) if time_dim else None
        self.norm_out = nn.GroupNorm(groups, channels, eps)
        self.conv_out = Conv(channels, channels, temporal)
        project = settings.project or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1) if project else nn.Identity()
        self.temporal = TemporalConvs(channels, groups, temporal) if isinstance(temporal, TextToVideo) else None

    def forward(self, x: Tensor, t: Tensor | None = None, frames: int = 1) -> Tensor:
        """x: (b, c, h, w), t: (b, time_dim) -> (b, channels, h', w')."""
        with scope("res_block"):
            h = group_norm(x, self.norm_in, self.activation)
            if self.resample == "up":
                x, h = upsample(x), doubled(h, self.conv_in, frames)
            else:
                if self.resample == "down":
                    x, h = (F.avg_pool2d(y, 2) for y in (x, h))
                h = self.conv_in(h, frames)
            if self.from_time is None:
                h = group_norm(h, self.norm_out, self.activation)
            else:
                assert t is not None, "this block is told the time"
                time = rearrange(self.from_time(t), "b c -> b c 1 1")
                if self.scale_shift:
                    scale, shift = time.chunk(2, dim=1)
                    h = group_norm(h, self.norm_out, self.activation, scale, shift)
                else:
                    h = group_norm(h + time, self.norm_out, self.activation)
            x = self.conv_out(h, frames, shortcut(x, self.shortcut), self.residual_scale)
            return x if self.temporal is None else self.temporal(x, frames)


class Downsample(nn.Module):
    """Half the side by a strided convolution: (b, c, h, w) -> (b, channels, h/2, w/2)."""

    def __init__(self, in_channels: int, channels: int, temporal: Temporal | None = None) -> None:
        super().__init__()
        self.conv = Conv(in_channels, channels, temporal, stride=2)

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        with scope("resample"):
            return self.conv(x, frames)


class Upsample(nn.Module):
    """Twice the side by nearest neighbour and a convolution: (b, c, h, w) -> (b, channels, 2h, 2w)."""

    def __init__(self, in_channels: int, channels: int, temporal: Temporal | None = None) -> None:
        super().__init__()
        self.conv: Conv | FoldedConv = Conv(in_channels, channels, temporal)

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        with scope("resample"):
            return doubled(x, self.conv, frames)


def fold_upsampling(network: nn.Module) -> None:
    """Put a `FoldedConv` in the place of every convolution of a network that runs on enlarged pixels."""
    for module in network.modules():
        if isinstance(module, Upsample) and isinstance(module.conv, Conv):
            module.conv = FoldedConv(module.conv)
        elif isinstance(module, ResBlock) and module.resample == "up" and isinstance(module.conv_in, Conv):
            module.conv_in = FoldedConv(module.conv_in)
