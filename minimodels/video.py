"""What makes a network for images one for video: convolutions and attention over frames.

Shapes: x (b f, c, h, w), the frames of a sample one after the other, so that every layer for images takes it as is.

Sources: Singer et al. 2022 (Make-A-Video), arXiv 2209.14792, section 3.2; Wang et al. 2023 (ModelScope), arXiv
2308.06571, section 3.2; Guo et al. 2023 (AnimateDiff), arXiv 2307.04725, section 4.2.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import Attention, Computed, Geglu, Heads
from minimodels.kernels.fused import Residual, complete, group_norm, layer_norm, takes_temporal_conv, temporal_conv
from minimodels.kernels.layout import laid_like
from minimodels.kernels.scope import scope
from minimodels.unet_config import LevelAttention, Motion, Pseudo3d, TextToVideo, UNet


def _to_pixels(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens (b, f, h w, c) as pixels (b f, c, h, w), laid out in memory as pixels `like` are."""
    height, width = like.shape[2:]
    return laid_like(rearrange(tokens, "b f (h w) c -> (b f) c h w", h=height, w=width), like)


class FrameConv(nn.Conv3d):
    """Convolution over the frames of each pixel: (b, c, f, h, w) -> the same."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, (kernel, 1, 1), padding=(kernel // 2, 0, 0))

    def forward(self, x: Tensor, residual: Residual | None = None) -> Tensor:  # type: ignore[override]
        """Residual: what is added to the result."""
        return temporal_conv(x, self, residual)


class TemporalConv(FrameConv):
    """The same of the frames of a sample one after the other: (b f, c, h, w) -> (b f, c, h, w)."""

    def forward(self, x: Tensor, frames: int, residual: Residual | None = None) -> Tensor:  # type: ignore[override]
        """Residual: what is added to the result."""
        split, join = "(b f) c h w -> b c f h w", "b c f h w -> (b f) c h w"
        h = rearrange(x, split, f=frames)
        if residual is not None and takes_temporal_conv(h, self):
            added = Residual(rearrange(residual.x, split, f=frames), residual.bias)
            return rearrange(super().forward(h, added), join)
        y = laid_like(rearrange(super().forward(h), join), x)
        return y if residual is None else complete(residual) + y


class TemporalConvs(nn.Module):
    """Norm, SiLU and convolution over frames, several times, added to x: (b f, c, h, w) -> (b f, c, h, w).

    Source: ModelScope's code; norms are over frames too, with an epsilon of their own.
    """

    def __init__(self, channels: int, groups: int, temporal: TextToVideo) -> None:
        super().__init__()
        kernel, count = temporal.kernel, range(temporal.convs)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, channels, 1e-5) for _ in count)
        self.convs = nn.ModuleList(FrameConv(channels, kernel) for _ in count)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        x = h = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        last = len(self.convs) - 1
        for index, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            assert isinstance(norm, nn.GroupNorm)
            h = conv(group_norm(h, norm, "silu"), Residual(x) if index == last else None)
        return rearrange(h, "b c f h w -> (b f) c h w")


class TemporalAttention(nn.Module):
    """Attention of each pixel over its frames, added to x: (b f, c, h, w) -> (b f, c, h, w)."""

    def __init__(self, channels: int, heads: Heads, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.attention = Attention(channels, channels, heads, "temporal", bias="all")

    def forward(self, x: Tensor, frames: int) -> Tensor:
        tokens = rearrange(group_norm(x, self.norm), "(b f) c h w -> b f (h w) c", f=frames).contiguous()
        return x + _to_pixels(self.attention(tokens), x)


class FramePositions(Computed):
    """A sinusoid per frame added to x (b, f, n, d), sines at even and cosines at odd features."""

    positions: Tensor

    def __init__(self, max_frames: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("positions", torch.empty(max_frames, 1, dim), persistent=False)

    def fill(self) -> None:
        frames, _, dim = self.positions.shape
        device = self.positions.device
        frequency = torch.exp(torch.arange(0, dim, 2, device=device).float() * (-math.log(10000) / dim))
        angle = torch.outer(torch.arange(frames, device=device).float(), frequency)
        self.positions.copy_(rearrange([angle.sin(), angle.cos()], "two f d -> f 1 (d two)"))

    def forward(self, x: Tensor) -> Tensor:
        frames, length = x.shape[1], len(self.positions)
        if frames > length:
            raise ValueError(f"{frames} frames exceed the {length} that have positions (temporal.max_frames)")
        return x + self.positions[:frames]


class TemporalBlock(nn.Module):
    """Two self-attentions over frames and GEGLU, each after a LayerNorm and added to its input."""

    def __init__(self, dim: int, heads: Heads, max_frames: int | None) -> None:
        super().__init__()
        self.first_norm, self.second_norm, self.ff_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.first_attention, self.second_attention = (
            Attention(dim, dim, heads, "temporal", bias="out") for _ in range(2)
        )
        self.positions = FramePositions(max_frames, dim) if max_frames else None
        self.feed_forward = Geglu(dim, 4 * dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, f, n, d) -> (b, f, n, d)."""
        for norm, attention in ((self.first_norm, self.first_attention), (self.second_norm, self.second_attention)):
            normed = layer_norm(x, norm)
            x = x + attention(normed if self.positions is None else self.positions(normed))
        return x + self.feed_forward(layer_norm(x, self.ff_norm))


class TemporalTransformer(nn.Module):
    """Frames of each pixel as tokens through transformer blocks: (b f, c, h, w) -> (b f, c, h, w).

    max_frames: frames that have positions; None: attention is told none. The norm is over frames too.

    Source: AnimateDiff's motion module; ModelScope's code has the same without positions.
    """

    def __init__(self, channels: int, heads: Heads, depth: int, groups: int, max_frames: int | None = None) -> None:
        super().__init__()
        dim = heads.num * heads.dim
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.enter, self.leave = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.blocks = nn.ModuleList(TemporalBlock(dim, heads, max_frames) for _ in range(depth))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        residual = x
        with scope("transformer"):
            x = group_norm(rearrange(x, "(b f) c h w -> b c f h w", f=frames), self.norm)
            x = self.enter(rearrange(x, "b c f h w -> b f (h w) c").contiguous())
            for block in self.blocks:
                x = block(x)
            return residual + _to_pixels(self.leave(x), residual)


def attention_over_frames(
    config: UNet, channels: int, attention: LevelAttention | None, *, middle: bool
) -> nn.Module | None:
    """What attends over frames behind attention over pixels, or, in a motion network, where a level has none."""
    temporal, groups = config.temporal, config.norm_groups
    if isinstance(temporal, Motion):
        depth, num_heads = temporal.middle_depth if middle else temporal.depth, temporal.num_heads
        heads = Heads(num_heads, num_heads, channels // num_heads)
        return TemporalTransformer(channels, heads, depth, groups, temporal.max_frames) if depth else None
    if temporal is None or attention is None:
        return None
    heads = Heads(attention.num_heads, attention.num_heads, channels // attention.num_heads)
    if isinstance(temporal, Pseudo3d):
        return TemporalAttention(channels, heads, groups, config.norm_eps) if temporal.attention else None
    return TemporalTransformer(channels, heads, temporal.depth, groups)


def stem_over_frames(config: UNet, channels: int) -> nn.Module | None:
    """The transformer over frames behind the first convolution of a text-to-video network."""
    temporal = config.temporal
    if not isinstance(temporal, TextToVideo):
        return None
    heads = Heads(temporal.stem_num_heads, temporal.stem_num_heads, temporal.stem_head_dim)
    return TemporalTransformer(channels, heads, temporal.depth, config.norm_groups)
