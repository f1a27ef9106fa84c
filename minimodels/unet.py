"""One UNet for pixels, latents and super-resolution: a list of levels.

Down: per level `res_blocks` residual blocks, each followed by attention where the level has it, then half the
side. Middle: residual block, attention, residual block. Up: the same levels backwards, with one residual block
more, each taking the features that the down path left behind.

Sources: Dhariwal and Nichol 2021, arXiv 2105.05233 (pixels); Rombach et al. 2022, arXiv 2112.10752 (latents);
Saharia et al. 2022, arXiv 2205.11487, appendix F (Imagen).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from minimodels.blocks import ACTIVATIONS
from minimodels.diffusion_config import Level
from minimodels.diffusion_config import UNet as UNetConfig
from minimodels.unet_blocks import (
    Downsample,
    Embedding,
    ResBlock,
    ResSettings,
    TextPooling,
    Upsample,
    make_attention,
    timestep_features,
)


def _resampler(config: UNetConfig, channels: int, direction: Literal["up", "down"]) -> nn.Module:
    """What doubles or halves the side between two levels."""
    if config.resample == "res_block":
        return ResBlock(ResSettings.of(config), channels, channels, direction)
    return Downsample(channels) if direction == "down" else Upsample(channels)


class Stage(nn.Module):
    """Residual blocks with their attention at one resolution, then a change of resolution."""

    def __init__(self, config: UNetConfig, level: Level, inputs: list[int], resample: nn.Module | None) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(
            ResBlock(ResSettings.of(config), channels, level.channels) for channels in inputs
        )
        attention = level.attention
        self.attentions = nn.ModuleList(
            [] if attention is None else [make_attention(config, level.channels, attention) for _ in inputs]
        )
        self.resample = resample

    def step(self, index: int, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """One residual block and its attention."""
        x = self.res_blocks[index](x, t)
        return self.attentions[index](x, context) if len(self.attentions) else x

    def change(self, x: Tensor, t: Tensor) -> Tensor:
        """To the side of the next level."""
        assert self.resample is not None
        return self.resample(x, t) if isinstance(self.resample, ResBlock) else self.resample(x)


class UNet(nn.Module):
    """Noisy x (b, in_channels, h, w), timestep (b,), context (b, m, d) -> (b, out_channels, h, w).

    d is text_dim where the config has one, else context_dim.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.activation]
        levels, stem = config.levels, config.levels[0].channels
        self.time = Embedding(stem, config.time_dim, config.activation)
        text_dim = config.text_dim or config.context_dim
        self.text = nn.Linear(text_dim, config.context_dim) if config.text_dim else None
        pooling = config.pooling
        self.pooling = TextPooling(text_dim, config.time_dim, pooling.num_heads) if pooling else None
        self.enter = nn.Conv2d(config.in_channels, stem, 3, padding=1)
        self.down, skips = self._down(config)
        width = levels[-1].channels
        settings = ResSettings.of(config)
        self.middle_in, self.middle_out = (ResBlock(settings, width, width) for _ in range(2))
        self.middle_attention = make_attention(config, width, config.middle)
        self.up = self._up(config, skips)
        self.norm = nn.GroupNorm(config.norm_groups, stem, config.norm_eps)
        self.leave = nn.Conv2d(stem, config.out_channels, 3, padding=1)

    @staticmethod
    def _down(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
        """The way down, and the channels of every skip it leaves."""
        stages, channels = [], config.levels[0].channels
        skips = [channels]
        for index, level in enumerate(config.levels):
            inputs = [channels] + [level.channels] * (level.res_blocks - 1)
            channels = level.channels
            last = index == len(config.levels) - 1
            down = None if last else _resampler(config, channels, "down")
            stages.append(Stage(config, level, inputs, down))
            skips += [channels] * (level.res_blocks + (not last))
        return nn.ModuleList(stages), skips

    @staticmethod
    def _up(config: UNetConfig, skips: list[int]) -> nn.ModuleList:
        stages, channels = [], config.levels[-1].channels
        for index, level in reversed(list(enumerate(config.levels))):
            inputs = []
            for _ in range(level.res_blocks + 1):
                inputs.append(channels + skips.pop())
                channels = level.channels
            up = None if index == 0 else _resampler(config, channels, "up")
            stages.append(Stage(config, level, inputs, up))
        return nn.ModuleList(stages)

    def embed(self, timestep: Tensor, context: Tensor, dtype: torch.dtype) -> Tensor:
        """All that the residual blocks are told: (b, time_dim), through the activation."""
        stem = self.config.levels[0].channels
        t = self.time(timestep_features(timestep, stem).to(dtype))
        if self.pooling is not None:
            t = t + self.pooling(context)
        return self.activation(t)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        t = self.embed(timestep, context, x.dtype)
        if self.text is not None:
            context = self.text(context)
        x = self.enter(x)
        skips = [x]
        for stage in self.down:
            for index in range(len(stage.res_blocks)):  # type: ignore[arg-type]
                x = stage.step(index, x, t, context)  # type: ignore[operator]
                skips.append(x)
            if stage.resample is not None:
                x = stage.change(x, t)  # type: ignore[operator]
                skips.append(x)
        x = self.middle_out(self.middle_attention(self.middle_in(x, t), context), t)
        for stage in self.up:
            for index in range(len(stage.res_blocks)):  # type: ignore[arg-type]
                x = stage.step(index, torch.cat([x, skips.pop()], dim=1), t, context)  # type: ignore[operator]
            if stage.resample is not None:
                x = stage.change(x, t)  # type: ignore[operator]
        return self.leave(self.activation(self.norm(x)))
