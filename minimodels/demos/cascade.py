"""Pixel diffusion: a small picture from text, enlarged twice, each network on its own real pictures."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimodels.demos.data import tokens
from minimodels.demos.diffusion import denoising_loss, normal, some_dropped, start_quiet
from minimodels.demos.training import Stage
from minimodels.diffusion_config import CascadedDiffusion
from minimodels.diffusion_pipelines import enlarge

BATCH = 64


class Cascade:
    """A cascade that learns from labels (n, 2) and pixels (n, 3, h, w) in [-1, 1], h being the last network's."""

    def __init__(self, config: CascadedDiffusion, parts: nn.ModuleDict, labels: Tensor, pixels: Tensor) -> None:
        self.config, self.trained = config, parts
        for name in config.networks:
            start_quiet(parts[name])
        self.text = tokens(labels, config.text_encoder.text_len)
        self.pixels = [F.avg_pool2d(pixels, config.sides[-1] // side) for side in config.sides]

    def ready(self) -> None:
        """Nothing is left to do."""

    def stages(self, *steps: int) -> list[Stage]:
        """Steps of each network; the text encoder learns with the first."""
        first = nn.ModuleDict({name: self.trained[name] for name in ("text_encoder", "unet")})
        stages = [Stage("unet", first, self._base, steps[0], 2e-3, 0.995)]
        for index in (1, 2):
            name = self.config.networks[index]
            stages.append(Stage(name, self.trained[name], partial(self._enlarging, index), steps[index], 2e-3, 0.99))
        return stages

    def _base(self, generator: torch.Generator) -> Tensor:
        chosen, context = self._chosen(BATCH, generator)
        unet = self.trained["unet"]
        schedule = self.config.schedules.unet
        return denoising_loss(lambda x, t: unet(x, t, context), schedule, self.pixels[0][chosen], generator)

    def _enlarging(self, index: int, generator: torch.Generator) -> Tensor:
        """Given the picture at half the side with noise added, as `enlarge` adds it, up to twice that of the run."""
        name = self.config.networks[index]
        network, schedule = self.trained[name], getattr(self.config.schedules, name)
        chosen, context = self._chosen(BATCH // 2, generator)
        augmentation = 2 * self.config.run.augmentation * torch.rand((), generator=generator).item()
        clean = self.pixels[index][chosen]
        low = enlarge(self.pixels[index - 1][chosen], clean.shape[-1], schedule, augmentation, normal(clean, generator))
        level = augmentation * schedule.timesteps
        return denoising_loss(
            lambda x, t: network(torch.cat([x, low], dim=1), t, context, noise_level=level), schedule, clean, generator
        )

    def _chosen(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which samples, and the features of their captions."""
        chosen = torch.randint(len(self.text), (batch,), generator=generator)
        return chosen, self.trained["text_encoder"](some_dropped(self.text[chosen], generator))
