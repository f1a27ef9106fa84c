"""How diffusion transformers generate: images of a class, images and video of a text.

Shapes: labels (b, 1); text (b, n) of token numbers; pixels (b, 3, h, w); video (b, 3, f, h, w).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from minimodels.diffusion_pipelines import denoise, loop, telling
from minimodels.dit_config import ClassImage, FlowImage, FlowVideo
from minimodels.run import STAGE, scope, steps
from minimodels.samplers import FlowSampler
from minimodels.texts import beside_empty
from minimodels.transformer import TextEncoder


def class_image(config: ClassImage, parts: nn.ModuleDict, labels: Tensor) -> Tensor:
    """Labels (b, 1) -> pixels: denoise latents, with the class that stands for none beside each, and decode."""
    run, network = config.run, parts["transformer"]
    like = next(network.parameters())
    with scope(STAGE, "denoise"):
        classes = labels[:, 0]
        if run.guidance_scale != 1:
            none = cast(int, config.transformer.classes)
            classes = torch.cat([classes, torch.full((len(labels),), none, device=labels.device)])
        x = like.new_empty(len(labels), *config.latent_shape).normal_()
        x = denoise(x, run, config.schedule, telling(network, None, classes=classes))
    with scope(STAGE, "decode"):
        return parts["decoder"](x)


def flow_image(config: FlowImage, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Tokens of the pooled text, then of the other (b, n) -> pixels: encode, follow the flow in latents, decode."""
    run, length, samples = config.run, config.pooled_text_encoder.text_len, len(text)
    with scope(STAGE, "text_encoder"):
        text = beside_empty(text, run.guidance_scale != 1)
        pooled = cast(TextEncoder, parts["pooled_text_encoder"]).ending(text[:, :length])[1]
        features = parts["text_encoder"](text[:, length:])
    with scope(STAGE, "denoise"):
        network, told = parts["transformer"], {"pooled": pooled}
        if run.told_guidance is not None:
            told["guidance"] = torch.full((len(text),), run.told_guidance, device=text.device)
        x = features.new_empty(samples, *config.latent_shape).normal_()
        sampler = FlowSampler.of(config.schedule, run.steps)
        x = loop(x, sampler, run.guidance_scale, telling(network, None, features, **told))
    with scope(STAGE, "decode"):
        return parts["decoder"](x)


def flow_video(config: FlowVideo, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text (b, n) -> video: encode, follow the flow in the latents of all frames, decode one after the other."""
    run = config.run
    with scope(STAGE, "text_encoder"):
        features = parts["text_encoder"](beside_empty(text, run.guidance_scale != 1))
    with scope(STAGE, "denoise"):
        x = features.new_empty(len(text), *config.latent_shape).normal_()
        sampler = FlowSampler.of(config.schedule, run.steps)
        x = loop(x, sampler, run.guidance_scale, telling(parts["transformer"], None, features))
    with scope(STAGE, "decode"):
        return parts["decoder"](x, lambda frames: steps("frames", frames, "constant"))
