"""Wan's decoder: latents of a video to its frames, one latent frame after the other.

Every convolution over frames sees the past alone and keeps the last frames that it saw, so that memory does not grow
with the length. The first latent frame is one frame of the video, every later one as many as time is doubled to.

Shapes: z (b, latent_channels, f, h, w); x (b, c, f', h', w'), f' the frames of one latent frame.

Source: Wan Team 2025, arXiv 2503.20314, section 4.1, and the official code, wan/modules/vae.py. Latents' mean and
deviation by channel, by which its pipeline scales them first, are left out: those of random weights are 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.autoencoder_config import CausalDecoder as CausalDecoderConfig
from minimodels.blocks import Attention, Heads
from minimodels.checks import check_picture
from minimodels.kernels.layout import laid_like
from minimodels.kernels.scope import scope
from minimodels.unet_blocks import Upsample

Past = dict[nn.Module, Tensor]  # the last frames that each convolution saw


class CausalConv(nn.Conv3d):
    """Convolution over a frame, its past and its pixels: (b, c, f, h, w) -> (b, channels, f, h, w)."""

    def __init__(self, in_channels: int, channels: int, frames: int, window: int) -> None:
        super().__init__(in_channels, channels, (frames, window, window), padding=(0, window // 2, window // 2))

    def empty_past(self, x: Tensor) -> Tensor:
        """The frames before the first one: zeros."""
        return torch.zeros_like(x[:, :, :1]).expand(-1, -1, self.kernel_size[0] - 1, -1, -1)

    def forward(self, x: Tensor, past: Past) -> Tensor:  # type: ignore[override]
        before = self.kernel_size[0] - 1
        if before:
            x = torch.cat([past[self] if self in past else self.empty_past(x), x], dim=2)
            past[self] = x[:, :, -before:].clone()  # a view would keep all of x
        return super().forward(x)


class ChannelNorm(nn.Module):
    """Divides the channels of each pixel by their root mean square: (b, c, ...) -> (b, c, ...)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * x.shape[1] ** 0.5
        return F.normalize(x, dim=1) * scale.view(-1, *[1] * (x.dim() - 2))


class CausalResBlock(nn.Module):
    """Norm, SiLU and convolution, twice, and the shortcut: (b, c, f, h, w) -> (b, channels, f, h, w)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = ChannelNorm(in_channels), ChannelNorm(channels)
        self.conv_in, self.conv_out = CausalConv(in_channels, channels, 3, 3), CausalConv(channels, channels, 3, 3)
        self.shortcut = CausalConv(in_channels, channels, 1, 1) if in_channels != channels else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        with scope("res_block"):
            h = self.conv_in(F.silu(self.norm_in(x)), past)
            h = self.conv_out(F.silu(self.norm_out(h)), past)
            return h + (x if self.shortcut is None else self.shortcut(x, past))


class FrameAttention(nn.Module):
    """Self-attention of one head over the pixels of each frame, added to x: (b, c, f, h, w) -> (b, c, f, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.attention = Attention(channels, channels, Heads(1, 1, channels), "spatial", bias="all")

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.norm(x), "b c f h w -> b f (h w) c").contiguous()
        out = rearrange(self.attention(tokens), "b f (h w) c -> b c f h w", h=x.shape[3])
        return x + laid_like(out, x)


class CausalUpsample(nn.Module):
    """Twice the side, and twice the frames where it `doubles` time: (b, c, f, h, w) -> (b, c/2, f', 2h, 2w)."""

    def __init__(self, channels: int, *, doubles: bool) -> None:
        super().__init__()
        self.over_time = CausalConv(channels, 2 * channels, 3, 1) if doubles else None
        self.over_pixels = Upsample(channels, channels // 2)

    def forward(self, x: Tensor, past: Past, *, first: bool) -> Tensor:
        """first: x is the first latent frame, which stays one, and which the convolution over time never sees."""
        if self.over_time is not None:
            if first:
                past[self.over_time] = self.over_time.empty_past(x)
            else:
                x = rearrange(self.over_time(x, past), "b (two c) f h w -> b c (f two) h w", two=2)
        frames = self.over_pixels(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(frames, "(b f) c h w -> b c f h w", b=len(x))


class CausalDecoder(nn.Module):
    """Latents z (b, latent_channels, f, h, w) -> video (b, 3, 1 + (f - 1) * grows_in_time, h * grows, w * grows)."""

    def __init__(self, config: CausalDecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, latent = config.channels[0], config.latent_channels
        self.from_code = nn.Conv3d(latent, latent, 1)
        self.enter = CausalConv(latent, width, 3, 3)
        self.before, self.after = CausalResBlock(width, width), CausalResBlock(width, width)
        self.attention = FrameAttention(width)
        self.up = nn.ModuleList()
        for index, channels in enumerate(config.channels):
            inputs = [width] + [channels] * (config.res_blocks - 1)
            self.up.extend(CausalResBlock(own, channels) for own in inputs)
            if index < len(config.doubles_time):
                self.up.append(CausalUpsample(channels, doubles=config.doubles_time[index]))
            width = channels // 2
        self.norm, self.leave = ChannelNorm(config.channels[-1]), CausalConv(config.channels[-1], 3, 3, 3)

    def frame(self, z: Tensor, past: Past, *, first: bool) -> Tensor:
        """One latent frame (b, c, 1, h, w) -> the frames of the video that it stands for."""
        x = self.after(self.attention(self.before(self.enter(z, past), past)), past)
        for module in self.up:
            x = module(x, past, first=first) if isinstance(module, CausalUpsample) else module(x, past)
        return self.leave(F.silu(self.norm(x)), past)

    def forward(self, z: Tensor, loop: Callable[[int], Iterable[int]] = range) -> Tensor:
        """loop: over so many latent frames, all but the first."""
        check_picture("z", z, self.config.latent_channels, video=True)
        z, past, each = self.from_code(z), {}, self.config.grows_in_time
        start = self.frame(z[:, :, :1], past, first=True)
        video = start.new_empty(len(z), 3, 1 + (z.shape[2] - 1) * each, *start.shape[3:])
        video[:, :, :1] = start
        for index in loop(z.shape[2] - 1):
            at = 1 + index * each
            video[:, :, at : at + each] = self.frame(z[:, :, index + 1 : index + 2], past, first=False)
        return video
