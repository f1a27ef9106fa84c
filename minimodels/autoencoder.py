"""Autoencoders whole: pixels (b, 3, h, w) to latents or codes and back. `generate` runs their decoders alone."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.autoencoder_config import KlDecoder as KlDecoderConfig
from minimodels.autoencoder_config import VqDecoder as VqDecoderConfig
from minimodels.checks import check_picture
from minimodels.pixel_decoder import KlDecoder, VqDecoder
from minimodels.pixel_encoder import ConvEncoder


class KlAutoencoder(nn.Module):
    """Pixels -> pixels through latents, by the config of its decoder, which its encoder mirrors.

    Latents are those that a UNet denoises, shifted and scaled: (b, latent_channels, h / grows, w / grows).

    Source: Rombach et al. 2022, arXiv 2112.10752, section 3.1 and appendix G.
    """

    def __init__(self, config: KlDecoderConfig) -> None:
        super().__init__()
        self.latent_channels = config.latent_channels
        moments = 2 * config.latent_channels
        self.encoder = ConvEncoder(config, moments)
        self.to_code = nn.Conv2d(moments, moments, 1) if config.quant_conv else None
        self.decoder = KlDecoder(config)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of x, neither shifted nor scaled."""
        check_picture("x", x, 3)
        h = self.encoder(x)
        mean, log_variance = (h if self.to_code is None else self.to_code(h)).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, x: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) -> the mean of their latents."""
        mean = self.moments(x)[0]
        return (mean if self.decoder.shift is None else mean - self.decoder.shift) * self.decoder.scale

    def decode(self, z: Tensor) -> Tensor:
        """Latents -> pixels (b, 3, h, w)."""
        check_picture("z", z, self.latent_channels)
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class VqAutoencoder(nn.Module):
    """Pixels -> pixels through codes (a VQGAN), by the config of its decoder, which its encoder mirrors.

    Source: Esser et al. 2021, Taming Transformers, arXiv 2012.09841, section 3.1.
    """

    def __init__(self, config: VqDecoderConfig) -> None:
        super().__init__()
        self.encoder = ConvEncoder(config, config.latent_channels)
        self.to_code = nn.Conv2d(config.latent_channels, config.code_dim, 1)
        self.decoder = VqDecoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) -> codes (b, h / grows, w / grows)."""
        check_picture("x", x, 3)
        return self.quantize(self.to_code(self.encoder(x)))

    def quantize(self, z: Tensor) -> Tensor:
        """Vectors (b, code_dim, h, w) -> the nearest codes (b, h, w): |z - e|^2 without |z|^2, which all share."""
        codebook = self.decoder.codebook.weight
        vectors = rearrange(z, "b c h w -> (b h w) c")
        distance = torch.addmm(codebook.square().sum(dim=1), vectors, codebook.T, alpha=-2)
        return rearrange(distance.argmin(dim=1), "(b h w) -> b h w", b=len(z), h=z.shape[2])

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (b, h, w) -> pixels (b, 3, h * grows, w * grows)."""
        return self.decoder(codes)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))
