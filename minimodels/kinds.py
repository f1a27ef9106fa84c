"""The kinds of architecture: which record a config file's `kind` stands for."""

from __future__ import annotations

from minimodels.config import AutoregressiveImage, LanguageModel
from minimodels.diffusion_config import LatentDiffusion

Config = AutoregressiveImage | LanguageModel | LatentDiffusion
KINDS: dict[str, type[Config]] = {
    "autoregressive-image": AutoregressiveImage,
    "language-model": LanguageModel,
    "latent-diffusion": LatentDiffusion,
}
