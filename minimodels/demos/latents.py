"""Latent diffusion of pictures and of videos: the autoencoder learns first, then the UNet with its text encoder."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.autoencoder import KlAutoencoder
from minimodels.demos.data import tokens
from minimodels.demos.diffusion import denoising_loss, normal, some_dropped, start_quiet
from minimodels.demos.training import Stage
from minimodels.diffusion_config import LatentDiffusion, LatentVideo

DIVERGENCE = 1e-4  # weight of the latents' distance from a normal distribution
CHUNK = 256  # pictures that are encoded at once


class Latents:
    """A latent model that learns from labels (n, 2 or 3) and pixels (n, 3, h, w) or (n, 3, f, h, w) in [-1, 1]."""

    def __init__(
        self, config: LatentDiffusion | LatentVideo, parts: nn.ModuleDict, labels: Tensor, pixels: Tensor
    ) -> None:
        self.config, self.parts = config, parts
        start_quiet(parts["unet"])
        self.autoencoder = KlAutoencoder(config.decoder)
        self.autoencoder.decoder = parts["decoder"]  # type: ignore[assignment]
        self.text, self.pixels = tokens(labels, config.text_encoder.text_len), pixels
        self.batch = 16 if pixels.dim() == 5 else 64
        self.mean, self.deviation = pixels, pixels  # of the latents, once there are any
        self.trained = nn.ModuleDict({"parts": parts, "autoencoder": self.autoencoder})
        self.trained.register_buffer("scale", torch.tensor(self.autoencoder.decoder.scale))

    def ready(self) -> None:
        """The decoder takes latents as the UNet makes them."""
        self.autoencoder.decoder.scale = cast(Tensor, self.trained.scale).item()

    def stages(self, *steps: int) -> list[Stage]:
        """Steps of each: the autoencoder on single frames, then UNet and text encoder on latents."""
        autoencoder, unet = steps
        denoiser = nn.ModuleDict({name: self.parts[name] for name in ("text_encoder", "unet")})
        return [
            Stage("autoencoder", self.autoencoder, self._reconstruction, autoencoder, 2e-3),
            Stage("unet", denoiser, self._denoising, unet, 2e-3, 0.995, self._encode),
        ]

    def _reconstruction(self, generator: torch.Generator) -> Tensor:
        """Squared error of the pixels, and the divergence of the latents."""
        chosen = self.pixels[torch.randint(len(self.pixels), (32,), generator=generator)]
        if chosen.dim() == 5:
            chosen = chosen[:, :, torch.randint(chosen.shape[2], (), generator=generator)]
        mean, log_variance = self.autoencoder.moments(chosen)
        latents = mean + (log_variance / 2).exp() * normal(mean, generator)
        pixels = self.autoencoder.decode(latents * self.autoencoder.decoder.scale)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        return F.mse_loss(pixels, chosen) + DIVERGENCE * divergence

    @torch.no_grad()
    def _encode(self) -> None:
        """The latents of all pixels, and the scale that gives them a variance of one (Rombach et al. 2022, app. G)."""
        video = self.pixels.dim() == 5
        flat = rearrange(self.pixels, "b c f h w -> (b f) c h w") if video else self.pixels
        mean, log_variance = (
            torch.cat(x) for x in zip(*(self.autoencoder.moments(some) for some in flat.split(CHUNK)), strict=True)
        )
        if video:
            frames = self.pixels.shape[2]
            mean, log_variance = (rearrange(x, "(b f) c h w -> b c f h w", f=frames) for x in (mean, log_variance))
        scale = 1 / mean.std()
        cast(Tensor, self.trained.scale).copy_(scale)
        self.ready()
        self.mean, self.deviation = mean * scale, (log_variance / 2).exp() * scale

    def _denoising(self, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.mean), (self.batch,), generator=generator)
        mean = self.mean[chosen]
        latents = mean + self.deviation[chosen] * normal(mean, generator)
        context = self.parts["text_encoder"](some_dropped(self.text[chosen], generator))
        unet = self.parts["unet"]
        return denoising_loss(lambda x, t: unet(x, t, context), self.config.schedule, latents, generator)
