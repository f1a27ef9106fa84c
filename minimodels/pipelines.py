"""How each kind of model generates: which function over its parts, and what it is given.

The functions stand in `token_pipelines`, `diffusion_pipelines` and `dit_pipelines`. Every loop goes through `steps()`,
every label through `scope()`; the same code runs for real, under a profiler, and on `meta`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minimodels import diffusion_pipelines, dit_pipelines, token_pipelines
from minimodels.checks import check_tokens
from minimodels.config import Architecture, AutoregressiveImage, LanguageModel, TextEncoder
from minimodels.diffusion_config import CascadedDiffusion, CascadedVideo, LatentDiffusion, LatentVideo
from minimodels.dit_config import ClassImage, FlowImage, FlowVideo
from minimodels.token_config import MaskedImage, ParallelImage, ParallelVideo

PIPELINES: dict[type[Architecture], Callable[[Any, nn.ModuleDict, Tensor], Tensor]] = {
    AutoregressiveImage: token_pipelines.autoregressive_image,
    LanguageModel: token_pipelines.language_model,
    ParallelImage: token_pipelines.parallel_image,
    ParallelVideo: token_pipelines.parallel_video,
    MaskedImage: token_pipelines.masked_image,
    LatentDiffusion: diffusion_pipelines.latent_diffusion,
    LatentVideo: diffusion_pipelines.latent_video,
    CascadedDiffusion: diffusion_pipelines.cascaded_diffusion,
    CascadedVideo: diffusion_pipelines.cascaded_video,
    ClassImage: dit_pipelines.class_image,
    FlowImage: dit_pipelines.flow_image,
    FlowVideo: dit_pipelines.flow_video,
}


def token_range(config: Architecture) -> tuple[int, int]:
    """How many different tokens a pipeline takes, and how many at once: those of all its text encoders in turn."""
    if isinstance(config, AutoregressiveImage):
        return config.transformer.text_vocab, config.transformer.text_len
    if isinstance(config, LanguageModel):
        return config.language_model.vocab, config.run.prompt_len
    if isinstance(config, ClassImage):
        return config.transformer.classes or 0, 1
    encoders = [part for _, part in config.parts() if isinstance(part, TextEncoder)]
    assert encoders, type(config)
    return min(part.vocab for part in encoders), sum(part.text_len for part in encoders)


def example_input(config: Architecture, batch: int, device: str | torch.device, seed: int = 0) -> Tensor:
    """Random tokens of the shape the pipeline of `config` takes, (b, n)."""
    vocab, length = token_range(config)
    generator = None if torch.device(device).type == "meta" else torch.Generator(device).manual_seed(seed)
    return torch.randint(vocab, (batch, length), device=device, generator=generator)


def generate(config: Architecture, parts: nn.ModuleDict, tokens: Tensor) -> Tensor:
    """Run the whole pipeline of `config` on `tokens` (b, n): pixels (b, 3, h, w), video (b, 3, f, h, w) or tokens.

    Raises:
        ValueError: tokens are no integers, or not as many as `example_input` gives.
    """
    check_tokens(tokens)
    length = token_range(config)[1]
    if tokens.shape[1] != length:
        raise ValueError(f"{config.name} takes {length} tokens a sample, those of all its texts, not {tokens.shape[1]}")
    with torch.inference_mode():
        return PIPELINES[type(config)](config, parts, tokens)
