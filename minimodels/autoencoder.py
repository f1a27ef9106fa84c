"""From codes or latents to pixels.

`KlDecoder` is the decoder half of latent diffusion's autoencoder: a convolutional network with one attention
over all latent pixels in its middle. Source: Rombach et al. 2022, arXiv 2112.10752, appendix G.

`VitDecoder` is the decoder of ViT-VQGAN: every code becomes a token, a transformer mixes them, and each token
is projected to its patch of pixels.

Source: Yu et al. 2021, Vector-quantized Image Modeling with Improved VQGAN, arXiv 2110.04627, section 3.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import Attention, Heads
from minimodels.config import VitDecoder as VitDecoderConfig
from minimodels.diffusion_config import KlDecoder as KlDecoderConfig
from minimodels.transformer import Stack
from minimodels.unet_blocks import ResBlock, ResSettings, Upsample


class VitDecoder(nn.Module):
    """Codes (b, grid * grid) of integers -> pixels (b, 3, h, w) with h = w = grid * patch_size."""

    def __init__(self, config: VitDecoderConfig) -> None:
        super().__init__()
        self.grid, self.patch_size = config.grid, config.patch_size
        self.codebook = nn.Embedding(config.codebook_size, config.code_dim)
        self.from_code = nn.Linear(config.code_dim, config.stack.dim)
        self.stack = Stack(config.stack, config.grid**2, causal=False)
        self.to_pixels = nn.Linear(config.stack.dim, 3 * config.patch_size**2)

    def forward(self, codes: Tensor) -> Tensor:
        code = F.normalize(self.codebook(codes), dim=-1)
        patches = self.to_pixels(self.stack(self.from_code(code)))
        return rearrange(
            patches, "b (h w) (c p q) -> b c (h p) (w q)", h=self.grid, p=self.patch_size, q=self.patch_size
        )


class PixelAttention(nn.Module):
    """Self-attention of one head over all pixels: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.attention = Attention(channels, channels, Heads(1, 1, channels), "self", bias="all")

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.norm(x), "b c h w -> b (h w) c")
        return x + rearrange(self.attention(tokens), "b (h w) c -> b c h w", h=x.shape[2]).contiguous()


class KlDecoder(nn.Module):
    """Latents (b, latent_channels, h, w) -> pixels (b, 3, h * grows, w * grows)."""

    def __init__(self, config: KlDecoderConfig) -> None:
        super().__init__()
        self.scale = config.latent_scale
        settings = ResSettings(config.norm_groups, config.norm_eps, "silu")
        width, latent = config.channels[0], config.latent_channels
        self.from_code = nn.Conv2d(latent, latent, 1)
        self.enter = nn.Conv2d(latent, width, 3, padding=1)
        self.middle = nn.Sequential(
            ResBlock(settings, width, width),
            PixelAttention(width, config.norm_groups, config.norm_eps),
            ResBlock(settings, width, width),
        )
        layers: list[nn.Module] = []
        for index, channels in enumerate(config.channels):
            for _ in range(config.res_blocks):
                layers.append(ResBlock(settings, width, channels))
                width = channels
            if index < len(config.channels) - 1:
                layers.append(Upsample(channels))
        self.up = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(config.norm_groups, width, config.norm_eps)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.up(self.middle(self.enter(self.from_code(z / self.scale))))
        return self.leave(F.silu(self.norm(x)))
