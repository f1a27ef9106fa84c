"""From codes or latents to pixels.

`KlDecoder` and `VqDecoder` are the decoder halves of latent diffusion's and VQGAN's autoencoders: convolutional
networks, often with one attention over all latent pixels in the middle. Source: Rombach et al. 2022, arXiv
2112.10752, appendix G. `CVivitDecoder` is that of Phenaki, for video.

`VitDecoder` is the decoder of ViT-VQGAN: every code becomes a token, a transformer mixes them, and each token
is projected to its patch of pixels.

Source: Yu et al. 2021, Vector-quantized Image Modeling with Improved VQGAN, arXiv 2110.04627, section 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.autoencoder_config import ConvDecoder as ConvDecoderConfig
from minimodels.autoencoder_config import CVivitDecoder as CVivitDecoderConfig
from minimodels.autoencoder_config import KlDecoder as KlDecoderConfig
from minimodels.autoencoder_config import VqDecoder as VqDecoderConfig
from minimodels.checks import check_count, check_tokens
from minimodels.config import VitDecoder as VitDecoderConfig
from minimodels.kernels.fused import group_norm
from minimodels.kernels.layout import laid_like
from minimodels.pixel_encoder import ConvLevel, Middle
from minimodels.transformer import Stack
from minimodels.unet_blocks import ResSettings, Upsample


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
        check_tokens(codes, "(b, n)", "codes")
        check_count("codes", codes.shape[1], self.grid**2, f"a grid of {self.grid} x {self.grid}")
        code = F.normalize(self.codebook(codes), dim=-1)
        patches = self.to_pixels(self.stack(self.from_code(code)))
        return rearrange(
            patches, "b (h w) (c p q) -> b c (h p) (w q)", h=self.grid, p=self.patch_size, q=self.patch_size
        )


class ConvDecoder(nn.Module):
    """Latents (b, latent_channels, h, w) -> pixels (b, 3, h * grows, w * grows)."""

    def __init__(self, config: ConvDecoderConfig) -> None:
        super().__init__()
        settings = ResSettings(config.norm_groups, config.norm_eps, "silu")
        width = config.channels[0]
        self.enter = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.middle = Middle(config, settings)
        levels: list[nn.Module] = []
        for index, channels in enumerate(config.channels):
            resample = Upsample(channels, channels) if index < len(config.channels) - 1 else nn.Identity()
            levels.append(ConvLevel(settings, width, channels, config.res_blocks, resample))
            width = channels
        self.up = nn.Sequential(*levels)
        self.norm = nn.GroupNorm(config.norm_groups, width, config.norm_eps)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return self.leave(group_norm(self.up(self.middle(self.enter(z))), self.norm, "silu"))


class KlDecoder(ConvDecoder):
    """Scaled latents (b, latent_channels, h, w) -> pixels (b, 3, h * grows, w * grows)."""

    def __init__(self, config: KlDecoderConfig) -> None:
        super().__init__(config)
        self.scale, self.shift, latent = config.latent_scale, config.latent_shift, config.latent_channels
        self.from_code = nn.Conv2d(latent, latent, 1) if config.quant_conv else None

    def forward(self, z: Tensor) -> Tensor:
        z = z / self.scale if self.shift is None else z / self.scale + self.shift
        return super().forward(z if self.from_code is None else self.from_code(z))


class VqDecoder(ConvDecoder):
    """Codes (b, h, w) of integers -> pixels (b, 3, h * grows, w * grows): the decoder of a VQGAN.

    Source: Esser et al. 2021, arXiv 2012.09841; Muse's has no attention (arXiv 2301.00704, section 2.2).
    """

    def __init__(self, config: VqDecoderConfig) -> None:
        super().__init__(config)
        self.codebook = nn.Embedding(config.codebook_size, config.code_dim)
        self.from_code = nn.Conv2d(config.code_dim, config.latent_channels, 1)

    def forward(self, codes: Tensor) -> Tensor:  # type: ignore[override]
        check_tokens(codes, "(b, h, w)", "codes")
        code = laid_like(rearrange(self.codebook(codes), "b h w c -> b c h w"), self.from_code.weight)
        return super().forward(self.from_code(code))


class CVivitDecoder(nn.Module):
    """Codes (b, f, h, w) of integers -> video (b, 3, frames, height, width): Phenaki's C-ViViT.

    A causal transformer over the frames of each place, one over the places of each frame, then each token to its
    patch of pixels; the first frame's patches are one frame deep.

    Source: Villegas et al. 2022 (Phenaki), arXiv 2210.02399, section 2.1 and appendix.
    """

    def __init__(self, config: CVivitDecoderConfig) -> None:
        super().__init__()
        self.frame_patch, self.patch_size, self.grid = config.frame_patch, config.patch_size, config.grid
        dim = config.temporal.dim
        self.codebook = nn.Embedding(config.codebook_size, config.code_dim)
        self.from_code = nn.Linear(config.code_dim, dim)
        self.temporal = Stack(config.temporal, config.max_frames, causal=True, role="temporal")
        self.spatial = Stack(config.spatial, config.grid**2, causal=False, role="spatial")
        pixels = 3 * config.patch_size**2
        self.to_first, self.to_rest = nn.Linear(dim, pixels), nn.Linear(dim, pixels * config.frame_patch)

    def forward(self, codes: Tensor) -> Tensor:
        check_tokens(codes, "(b, f, h, w)", "codes")
        check_count("codes of a frame", codes.shape[2] * codes.shape[3], self.grid**2, f"{self.grid} x {self.grid}")
        height, p, depth = codes.shape[2], self.patch_size, self.frame_patch
        code = F.normalize(self.codebook(rearrange(codes, "b f h w -> b f (h w)")), dim=-1)
        x = self.spatial(self.temporal(self.from_code(code)))
        first = rearrange(self.to_first(x[:, 0]), "b (h w) (c p q) -> b c 1 (h p) (w q)", h=height, p=p, q=p)
        rest = rearrange(
            self.to_rest(x[:, 1:]), "b f (h w) (c t p q) -> b c (f t) (h p) (w q)", h=height, t=depth, p=p, q=p
        )
        return torch.cat([first, rest], dim=2)
