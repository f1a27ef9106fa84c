"""Autoencoders with a codebook, as the demos train them: reconstruction alone, neither adversary nor perceptual loss.

The gradient passes from the code to the vector it stands for; codes that nothing is near to start again at a vector.

Sources: van den Oord et al. 2017 (VQ-VAE), arXiv 1711.00937; Dhariwal et al. 2020 (Jukebox), arXiv 2005.00341,
section 3 (restarts of codes).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.autoencoder_config import VqDecoder as VqDecoderConfig
from minimodels.config import VitDecoder as VitDecoderConfig
from minimodels.pixel_decoder import VitDecoder, VqDecoder

COMMITMENT = 0.25  # of the vectors to their codes, beside 1 of the codes to the vectors: VQ-VAE, section 3.2
PATIENCE = 20  # steps that a code may go unused


class PatchEncoder(nn.Module):
    """Pixels (b, 3, h p, w p) -> a vector for each patch, (b, h, w, code_dim), of its own pixels alone.

    The encoders of the papers see the whole picture, as their decoders do. A small transformer learns to write codes
    much sooner where the same patch has the same code in every picture.
    """

    def __init__(self, patch_size: int, code_dim: int, width: int = 96) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.layers = nn.Sequential(nn.Linear(3 * patch_size**2, width), nn.GELU(), nn.Linear(width, code_dim))

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch_size
        return self.layers(rearrange(x, "b c (h p) (w q) -> b h w (c p q)", p=p, q=p))


class Quantised(nn.Module):
    """An encoder and a decoder with a codebook between them: pixels (b, 3, h, w) to codes and back.

    vectors: of pixels, (b, ..., code_dim), as the decoder takes codes (b, ...); unit: both are compared by direction.
    """

    def __init__(self, encoder: nn.Module, decoder: VitDecoder | VqDecoder, *, unit: bool) -> None:
        super().__init__()
        self.encoder, self.decoder, self.unit = encoder, decoder, unit
        self.idle: Tensor
        self.register_buffer("idle", torch.full((len(decoder.codebook.weight),), PATIENCE))

    def vectors(self, x: Tensor) -> Tensor:
        """Pixels to vectors, of length 1 where only directions count."""
        z = self.encoder(x)
        return F.normalize(z, dim=-1) if self.unit else z

    def codebook(self) -> Tensor:
        """The codes' vectors (codebook_size, code_dim)."""
        weight = self.decoder.codebook.weight
        return F.normalize(weight, dim=-1) if self.unit else weight

    def codes(self, z: Tensor) -> Tensor:
        """The codes nearest to vectors."""
        return torch.cdist(z.flatten(0, -2), self.codebook()).argmin(dim=1).view(z.shape[:-1])

    @torch.no_grad()
    def encode(self, x: Tensor, chunk: int = 256) -> Tensor:
        """Pixels to codes."""
        return torch.cat([self.codes(self.vectors(some)) for some in x.split(chunk)])

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of the pixels, and of vectors and codes to each other."""
        z = self.vectors(x)
        self._restart(z, generator)
        codes = self.codes(z.detach())
        self.idle += 1
        self.idle[codes.flatten()] = 0
        near = self.codebook()[codes]
        apart = F.mse_loss(near, z.detach()) + COMMITMENT * F.mse_loss(z, near.detach())
        return F.mse_loss(self._through(codes, z), x) + apart

    @torch.no_grad()
    def _restart(self, z: Tensor, generator: torch.Generator) -> None:
        """Put codes that have gone unused for long where vectors of this step are."""
        unused, flat = self.idle >= PATIENCE, z.flatten(0, -2)
        chosen = flat[torch.randint(len(flat), (len(unused),), generator=generator)]
        weight = self.decoder.codebook.weight
        weight.copy_(torch.where(unused[:, None], chosen, weight))
        self.idle.masked_fill_(unused, 0)

    def _through(self, codes: Tensor, z: Tensor) -> Tensor:
        """Codes to pixels, whose gradient goes on to the vectors as if these had been decoded."""
        hook: Callable[..., Tensor] = lambda module, given, code: code + (z - z.detach())
        handle = self.decoder.codebook.register_forward_hook(hook)
        try:
            return self.decoder(codes)
        finally:
            handle.remove()


def of_vit(config: VitDecoderConfig, decoder: VitDecoder) -> Quantised:
    """An autoencoder around the decoder of a ViT-VQGAN, which takes codes (b, n)."""
    encoder = nn.Sequential(PatchEncoder(config.patch_size, config.code_dim), nn.Flatten(1, 2))
    return Quantised(encoder, decoder, unit=True)


def of_conv(config: VqDecoderConfig, decoder: VqDecoder) -> Quantised:
    """An autoencoder around the decoder of a VQGAN, which takes codes (b, h, w)."""
    return Quantised(PatchEncoder(config.grows, config.code_dim), decoder, unit=False)
