"""One UNet for pixels, latents and super-resolution: a list of levels.

Down: per level `res_blocks` residual blocks, each followed by attention where the level has it, then half the
side. Middle: residual block, attention, residual block. Up: the same levels backwards, with one residual block
more, each taking the features that the down path left behind.

Sources: Dhariwal and Nichol 2021, arXiv 2105.05233 (pixels); Rombach et al. 2022, arXiv 2112.10752 (latents);
Saharia et al. 2022, arXiv 2205.11487, appendix F (Imagen).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from minimodels.blocks import ACTIVATIONS
from minimodels.checks import check_features, check_picture, check_told
from minimodels.kernels.fused import group_norm
from minimodels.unet_attention import TextPooling, make_attention
from minimodels.unet_blocks import (
    Conv,
    Downsample,
    Embedding,
    ResBlock,
    ResSettings,
    Upsample,
    per_sample,
    timestep_features,
)
from minimodels.unet_config import Level, LevelAttention, Motion
from minimodels.unet_config import UNet as UNetConfig
from minimodels.video import attention_over_frames, stem_over_frames


class Told(NamedTuple):
    """What every block is told: embedded time (b f, time_dim), texts (b f, m, context_dim), frames per sample."""

    time: Tensor
    texts: tuple[Tensor, ...]
    frames: int


def _resampler(config: UNetConfig, channels: int, direction: Literal["up", "down"]) -> nn.Module:
    """What doubles or halves the side between two levels."""
    if config.resample == "res_block":
        return ResBlock(ResSettings.of(config), channels, channels, direction)
    return (Downsample if direction == "down" else Upsample)(channels, channels, config.temporal)


class PixelAttention(nn.Module):
    """Attention over pixels, in a video then over frames: (b f, c, h, w) -> (b f, c, h, w).

    A motion network attends over frames where a level has no attention over pixels, too.
    """

    def __init__(
        self, config: UNetConfig, channels: int, attention: LevelAttention | None, *, middle: bool = False
    ) -> None:
        super().__init__()
        self.space = make_attention(config, channels, attention) if attention else None
        self.time = attention_over_frames(config, channels, attention, middle=middle)

    def forward(self, x: Tensor, told: Told) -> Tensor:
        x = x if self.space is None else self.space(x, told.texts)
        return x if self.time is None else self.time(x, told.frames)


class UNetStage(nn.Module):
    """Residual blocks with their attention at one resolution, then a change of resolution."""

    def __init__(self, config: UNetConfig, level: Level, inputs: list[int], resample: nn.Module | None) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(
            ResBlock(ResSettings.of(config), channels, level.channels) for channels in inputs
        )
        attends = level.attention is not None or isinstance(config.temporal, Motion)
        self.attentions = nn.ModuleList(
            PixelAttention(config, level.channels, level.attention) for _ in inputs if attends
        )
        self.resample = resample

    def block(self, index: int, x: Tensor, told: Told) -> Tensor:
        """One residual block. Its attention is called apart, so that what this is given need not live as long."""
        return self.res_blocks[index](x, told.time, told.frames)

    def attend(self, index: int, x: Tensor, told: Told) -> Tensor:
        """The attention behind a residual block, if there is one."""
        return self.attentions[index](x, told) if len(self.attentions) else x

    def change(self, x: Tensor, told: Told) -> Tensor:
        """To the side of the next level."""
        assert self.resample is not None
        if isinstance(self.resample, ResBlock):
            return self.resample(x, told.time, told.frames)
        return self.resample(x, told.frames)


class Conditions(nn.Module):
    """All that a UNet is told beside x: the timestep, texts, a vector, an image embedding, noise level, frame rate."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.stem, width = config.levels[0].channels, config.time_dim
        self.activation, act = ACTIVATIONS[config.activation], config.activation
        self.time = Embedding(self.stem, width, act)
        self.noise_level = Embedding(self.stem, width, act) if config.noise_level else None
        self.frame_rate = Embedding(self.stem, width, act) if config.frame_rate else None
        self.vector = Embedding(config.vector.dim, width, act) if config.vector else None
        text_dim, context_dim, pooling = config.text_dim or config.context_dim, config.context_dim, config.pooling
        self.text = nn.Linear(text_dim, context_dim) if config.text_dim and text_dim and context_dim else None
        pooled = context_dim if pooling and pooling.projected else text_dim
        self.pooling = TextPooling(pooled, width, pooling.num_heads) if pooling and pooled else None
        self.pools_projected = pooling is not None and pooling.projected
        image = config.image_tokens
        self.image = nn.Linear(image.dim, width) if image else None
        self.image_tokens = nn.Linear(image.dim, image.tokens * context_dim) if image and context_dim else None
        self.tokens = image.tokens if image else 0

    def forward(
        self,
        timestep: Tensor,
        dtype: torch.dtype,
        texts: list[Tensor],
        vector: Tensor | None,
        image: Tensor | None,
        noise_level: Tensor | None,
        frame_rate: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Embedded time (b, time_dim), through the activation, and the texts as attention takes them."""
        t = self.time(timestep_features(timestep, self.stem).to(dtype))
        for embedding, number in ((self.noise_level, noise_level), (self.frame_rate, frame_rate)):
            if embedding is not None and number is not None:
                t = t + embedding(timestep_features(number, self.stem).to(dtype))
        if self.vector is not None:
            t = t + self.vector(vector)
        raw = texts[:1]
        if self.text is not None:
            texts = [self.text(texts[0]), *texts[1:]]
        if self.pooling is not None:
            t = t + self.pooling(texts[0] if self.pools_projected else raw[0])
        if self.image is not None and self.image_tokens is not None and image is not None:
            t = t + self.image(image)
            tokens = rearrange(self.image_tokens(image), "b (m d) -> b m d", m=self.tokens)
            texts = [torch.cat([tokens, *texts[:1]], dim=1), *texts[1:]]
        return self.activation(t), texts


class UNet(nn.Module):
    """Noisy x (b, in_channels, h, w), timestep t (b,), context (b, m, d) -> (b, out_channels, h, w).

    d is text_dim where the config has one, else context_dim; one timestep will do for all samples. A network for
    video takes (b, c, f, h, w).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        levels, stem = config.levels, config.levels[0].channels
        self.conditions = Conditions(config)
        self.enter = Conv(config.in_channels, stem, config.temporal)
        self.temporal = stem_over_frames(config, stem)
        self.down, skips = self._down(config)
        width = levels[-1].channels
        settings = ResSettings.of(config)
        self.middle_in, self.middle_out = (ResBlock(settings, width, width) for _ in range(2))
        self.middle_attention = PixelAttention(config, width, config.middle, middle=True) if config.middle else None
        self.up = self._up(config, skips)
        self.norm = nn.GroupNorm(config.norm_groups, stem, config.norm_eps)
        self.leave = Conv(stem, config.out_channels, config.temporal)

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
            stages.append(UNetStage(config, level, inputs, down))
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
            stages.append(UNetStage(config, level, inputs, up))
        return nn.ModuleList(stages)

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        context: Tensor | None = None,
        *,
        second_context: Tensor | None = None,
        vector: Tensor | None = None,
        image: Tensor | None = None,
        noise_level: Tensor | float | None = None,
        frame_rate: Tensor | float | None = None,
    ) -> Tensor:
        """second_context: (b, m', second_context_dim); vector: (b, vector.dim); image: (b, image_tokens.dim);
        noise_level, frame_rate: numbers or (b,), each for networks whose config has it.

        Raises:
            ValueError: something is missing, of another width, or not what this network is told.
        """
        config = self.config
        check_picture("x", x, config.in_channels, config.shrinks, video=config.temporal is not None)
        width = config.text_dim or config.context_dim
        if width is not None and (context is not None or config.image_tokens is None):
            check_features("context", context, width)
        check_told("second_context", second_context, config.second_context_dim)
        check_told("vector", vector, config.vector.dim if config.vector else None)
        check_told("image", image, config.image_tokens.dim if config.image_tokens else None)
        check_told("noise_level", noise_level, 0 if config.noise_level else None)
        check_told("frame_rate", frame_rate, 0 if config.frame_rate else None)
        texts = [text for text in (context, second_context) if text is not None]
        numbers = (None if number is None else per_sample(number, x) for number in (noise_level, frame_rate))
        embedded, texts = self.conditions(per_sample(t, x), x.dtype, texts, vector, image, *numbers)
        if config.temporal is None:
            told = Told(embedded, tuple(texts), 1)
            return self._denoise(self._enter(x, told), told)
        frames = x.shape[2]
        each = [repeat(text, "b m d -> (b f) m d", f=frames) for text in texts]
        told = Told(repeat(embedded, "b d -> (b f) d", f=frames), tuple(each), frames)
        x = self._denoise(self._enter(rearrange(x, "b c f h w -> (b f) c h w"), told), told)
        return rearrange(x, "(b f) c h w -> b c f h w", f=frames)

    def _enter(self, x: Tensor, told: Told) -> Tensor:
        """(b f, in_channels, h, w) -> features (b f, c, h, w)."""
        x = self.enter(x, told.frames)
        return x if self.temporal is None else self.temporal(x, told.frames)

    def _denoise(self, x: Tensor, told: Told) -> Tensor:
        """Down, through the middle, and up again: features (b f, c, h, w) -> (b f, out_channels, h, w)."""
        skips = [x]
        for stage in self.down:
            for index in range(len(stage.res_blocks)):  # type: ignore[arg-type]
                x = stage.block(index, x, told)  # type: ignore[operator]
                x = stage.attend(index, x, told)  # type: ignore[operator]
                skips.append(x)
            if stage.resample is not None:
                x = stage.change(x, told)  # type: ignore[operator]
                skips.append(x)
        x = self.middle_in(x, told.time, told.frames)
        if self.middle_attention is not None:
            x = self.middle_attention(x, told)
        x = self.middle_out(x, told.time, told.frames)
        for stage in self.up:
            for index in range(len(stage.res_blocks)):  # type: ignore[arg-type]
                x = stage.block(index, torch.cat([x, skips.pop()], dim=1), told)  # type: ignore[operator]
                x = stage.attend(index, x, told)  # type: ignore[operator]
            if stage.resample is not None:
                x = stage.change(x, told)  # type: ignore[operator]
        return self.leave(group_norm(x, self.norm, self.config.activation), told.frames)
