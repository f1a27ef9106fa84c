"""The KL-regularised autoencoder of latent diffusion: pixels (b, 3, h, w) to latents and back.

Source: Rombach et al. 2022, arXiv 2112.10752, section 3.1 and appendix G.
"""

from __future__ import annotations

from torch import Tensor, nn

from minimodels.autoencoder import KlDecoder
from minimodels.autoencoder_config import KlDecoder as KlDecoderConfig
from minimodels.checks import check_picture
from minimodels.encoder import ConvEncoder


class KlAutoencoder(nn.Module):
    """Pixels -> pixels through latents, by the config of its decoder, which its encoder mirrors.

    Latents are those that a UNet denoises, shifted and scaled: (b, latent_channels, h / grows, w / grows).
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
