"""Imagen's Efficient UNet: super-resolution with most residual blocks at low resolution.

Down: a strided convolution, residual blocks, then attention where the block has it. Up: the blocks backwards, every
residual block with the skip of its partner on the way down, attention, then twice the side and a convolution. Skips
are scaled by 1/sqrt(2). The text is normed in each attention to it.

Source: Saharia et al. 2022 (Imagen), arXiv 2205.11487, section 2.4, appendices B.1, F.2 and F.3, figures A.27 to A.30. That a skip
enters every residual block, and not the first of each UBlock alone, is inferred from the parameter count.
"""

from __future__ import annotations

import itertools

import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import ACTIVATIONS, Attention, Heads
from minimodels.checks import check_features, check_picture, check_told
from minimodels.kernels.fused import group_norm, layer_norm
from minimodels.kernels.scope import scope
from minimodels.unet_attention import TextPooling
from minimodels.unet_blocks import (
    Downsample,
    Embedding,
    ResBlock,
    ResSettings,
    Upsample,
    per_sample,
    timestep_features,
    to_pixels,
)
from minimodels.unet_config import Block
from minimodels.unet_config import EfficientUNet as EfficientUNetConfig

SKIP_SCALE = 2**-0.5
ACTIVATION = "silu"


class BlockAttention(nn.Module):
    """Self-attention, attention to the text, MLP, as the block has them: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, config: EfficientUNetConfig, block: Block) -> None:
        super().__init__()
        dim, inner = block.channels, block.channels * config.ff_mult
        heads = Heads(config.num_heads, config.num_heads, dim // config.num_heads)
        self.self_norm = nn.LayerNorm(dim) if block.self_attention else None
        self.self_attention = Attention(dim, dim, heads, "self") if block.self_attention else None
        self.cross_norm = nn.LayerNorm(dim) if block.cross_attention else None
        self.text_norm = nn.LayerNorm(config.context_dim) if block.cross_attention else None
        self.cross_attention = Attention(dim, config.context_dim, heads, "cross") if block.cross_attention else None
        self.ff_norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        pixels, x = x, rearrange(x, "b c h w -> b (h w) c").contiguous()
        if self.self_attention is not None and self.self_norm is not None:
            x = x + self.self_attention(layer_norm(x, self.self_norm))
        if self.cross_attention is not None and self.cross_norm is not None and self.text_norm is not None:
            with scope("attention", "cross"):
                text = layer_norm(context, self.text_norm)
            x = x + self.cross_attention(layer_norm(x, self.cross_norm), self.cross_attention.project(text))
        with scope("feed_forward"):
            x = x + self.down(ACTIVATIONS["gelu"](self.up(layer_norm(x, self.ff_norm))))
        return to_pixels(x, pixels)


class EfficientLevel(nn.Module):
    """Residual blocks at one resolution and the attention behind them."""

    def __init__(self, config: EfficientUNetConfig, block: Block, inputs: list[int]) -> None:
        super().__init__()
        settings = ResSettings(
            groups=config.norm_groups, eps=config.norm_eps, activation=ACTIVATION, time_dim=config.time_dim,
            scale_shift=True, project=True,
        )  # fmt: skip
        self.res_blocks = nn.ModuleList(ResBlock(settings, channels, block.channels) for channels in inputs)
        attends = block.self_attention or block.cross_attention
        self.attention = BlockAttention(config, block) if attends else None

    def attend(self, x: Tensor, context: Tensor) -> Tensor:
        """x after attention, where the block has it."""
        return x if self.attention is None else self.attention(x, context)


class EfficientUNet(nn.Module):
    """Noisy and enlarged pixels x (b, 6, h, w), timestep t (b,), context (b, m, text_dim) -> (b, out_channels, h, w)."""

    def __init__(self, config: EfficientUNetConfig) -> None:
        super().__init__()
        self.config = config
        stem, width, levels = config.stem_channels, config.time_dim, config.levels
        self.stem = stem
        self.time, self.noise_level = (Embedding(stem, width, ACTIVATION) for _ in range(2))
        self.projected = config.pooling.projected
        pooled = config.context_dim if self.projected else config.text_dim
        self.pooling = TextPooling(pooled, width, config.pooling.num_heads)
        self.text = nn.Linear(config.text_dim, config.context_dim)
        self.enter = nn.Conv2d(config.in_channels, stem, 3, padding=1)
        sides = [stem, *(block.channels for block in levels)]
        self.shrink = nn.ModuleList(Downsample(a, b) for a, b in itertools.pairwise(sides))
        self.down = nn.ModuleList(
            EfficientLevel(config, block, [block.channels] * block.res_blocks) for block in levels
        )
        self.up = nn.ModuleList(
            EfficientLevel(config, block, [2 * block.channels] * block.res_blocks) for block in reversed(levels)
        )
        self.grow = nn.ModuleList(Upsample(b, a) for a, b in reversed(list(itertools.pairwise(sides))))
        self.norm = nn.GroupNorm(config.norm_groups, stem, config.norm_eps)
        self.leave = nn.Conv2d(stem, config.out_channels, 3, padding=1)

    def forward(
        self, x: Tensor, t: Tensor | float, context: Tensor | None = None, *, noise_level: Tensor | float | None = None
    ) -> Tensor:
        """noise_level: a number or (b,), the noise added to the low-resolution image.

        Raises:
            ValueError: something is missing or of another width.
        """
        check_picture("x", x, self.config.in_channels, self.config.shrinks)
        check_features("context", context, self.config.text_dim)
        check_told("noise_level", noise_level, 0)
        assert context is not None and noise_level is not None, "checked"
        act = ACTIVATIONS[ACTIVATION]
        embedded = self.time(timestep_features(per_sample(t, x), self.stem).to(x.dtype))
        embedded = embedded + self.noise_level(timestep_features(per_sample(noise_level, x), self.stem).to(x.dtype))
        text = self.text(context)
        t, context = act(embedded + self.pooling(text if self.projected else context)), text
        x, skips = self.enter(x), []
        for shrink, level in zip(self.shrink, self.down, strict=True):
            x = shrink(x)
            for block in level.res_blocks:  # type: ignore[union-attr]
                x = block(x, t)
                skips.append(x)
            x = level.attend(x, context)  # type: ignore[operator]
        for level, grow in zip(self.up, self.grow, strict=True):
            for block in level.res_blocks:  # type: ignore[union-attr]
                x = block(torch.cat([x, skips.pop() * SKIP_SCALE], dim=1), t)
            x = grow(level.attend(x, context))  # type: ignore[operator]
        return self.leave(group_norm(x, self.norm, ACTIVATION))
