"""The autoencoder of a VQGAN: pixels (b, 3, h, w) to codes (b, h', w') of integers and back.

Source: Esser et al. 2021, Taming Transformers, arXiv 2012.09841, section 3.1.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.autoencoder import VqDecoder
from minimodels.autoencoder_config import VqDecoder as VqDecoderConfig
from minimodels.checks import check_picture
from minimodels.encoder import ConvEncoder


class VqAutoencoder(nn.Module):
    """Pixels -> pixels through codes, by the config of its decoder, which its encoder mirrors."""

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
