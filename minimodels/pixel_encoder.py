"""From pixels to latents: the convolutional encoder of latent diffusion's and VQGAN's autoencoders.

It mirrors their decoder: the same channels from high to low resolution, one residual block less at each.

Source: Esser et al. 2021, arXiv 2012.09841, appendix A; Rombach et al. 2022, arXiv 2112.10752, appendix G.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.autoencoder_config import ConvDecoder as ConvDecoderConfig
from minimodels.blocks import Attention, Heads
from minimodels.kernels.fused import group_norm
from minimodels.kernels.scope import scope
from minimodels.unet_blocks import ResBlock, ResSettings, to_pixels


class MiddleAttention(nn.Module):
    """Self-attention of one head over all pixels: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.attention = Attention(channels, channels, Heads(1, 1, channels), "self", bias="all")

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(group_norm(x, self.norm), "b c h w -> b (h w) c")
        tokens = tokens.contiguous()  # once, not in every projection
        return x + to_pixels(self.attention(tokens), x)


class Middle(nn.Sequential):
    """Two residual blocks at the lowest resolution, attention between them or not: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, config: ConvDecoderConfig, settings: ResSettings) -> None:
        width, groups, eps = config.channels[0], config.norm_groups, config.norm_eps
        layers: dict[str, nn.Module] = {"before": ResBlock(settings, width, width)}
        if config.middle_attention:
            layers["attention"] = MiddleAttention(width, groups, eps)
        super().__init__(OrderedDict(layers, after=ResBlock(settings, width, width)))


class ConvLevel(nn.Module):
    """Residual blocks of one resolution, then a layer that changes it: (b, in_channels, h, w) -> (b, channels, h', w')."""

    def __init__(
        self, settings: ResSettings, in_channels: int, channels: int, num_blocks: int, resample: nn.Module
    ) -> None:
        super().__init__()
        inputs = [in_channels] + [channels] * (num_blocks - 1)
        self.res_blocks = nn.Sequential(*(ResBlock(settings, width, channels) for width in inputs))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(self.res_blocks(x))


class CornerDownsample(nn.Conv2d):
    """Half the side by a strided convolution padded at the right and below alone: (b, c, h, w) -> (b, c, h/2, w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        with scope("resample"):
            return super().forward(F.pad(x, (0, 1, 0, 1)))


class ConvEncoder(nn.Module):
    """Pixels (b, 3, h, w) -> (b, out_channels, h / grows, w / grows), by the config of the decoder it mirrors."""

    def __init__(self, config: ConvDecoderConfig, out_channels: int) -> None:
        super().__init__()
        settings = ResSettings(config.norm_groups, config.norm_eps, "silu")
        width = config.channels[-1]
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        levels: list[nn.Module] = []
        for index, channels in reversed(list(enumerate(config.channels))):
            resample = CornerDownsample(channels) if index > 0 else nn.Identity()
            levels.append(ConvLevel(settings, width, channels, config.res_blocks - 1, resample))
            width = channels
        self.down = nn.Sequential(*levels)
        self.middle = Middle(config, settings)
        self.norm = nn.GroupNorm(config.norm_groups, width, config.norm_eps)
        self.leave = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(group_norm(self.middle(self.down(self.enter(x))), self.norm, "silu"))
