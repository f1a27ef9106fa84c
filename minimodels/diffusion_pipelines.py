"""How diffusion models generate: latents, cascades of images, cascades of video.

Shapes: text (b, n) of token numbers; pixels (b, 3, h, w); video (b, 3, f, h, w). Text without content is a row of
zeros; where guidance is on, networks run both texts side by side, so their batch is 2b.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.diffusion_config import (
    CascadedDiffusion,
    CascadedVideo,
    Denoising,
    LatentDiffusion,
    LatentVideo,
    Schedule,
)
from minimodels.run import STAGE, scope, steps
from minimodels.samplers import FlowSampler, Sampler, signals
from minimodels.texts import beside_empty, sizes_told
from minimodels.transformer import TextEncoder
from minimodels.unet_blocks import timestep_features
from minimodels.unet_config import UNet

Predict = Callable[[Tensor, Tensor], Tensor]


def denoise(x: Tensor, run: Denoising, schedule: Schedule, predict: Predict, name: str = "denoise") -> Tensor:
    """From noise x (b, ...) to the image; predict(x, timestep), both with batch 2b under guidance."""
    return loop(x, Sampler.of(schedule, run), run.guidance_scale, predict, name)


def loop(x: Tensor, sampler: Sampler | FlowSampler, scale: float, predict: Predict, name: str = "denoise") -> Tensor:
    """`denoise` by a sampler, with guidance where its scale is not 1."""
    guided = scale != 1
    x = sampler.start(x)
    for i in steps(name, len(sampler.timesteps), "constant"):
        given = sampler.given(i, x)
        given = torch.cat([given, given]) if guided else given
        time = torch.full((len(given),), sampler.timesteps[i], device=x.device)
        predicted = predict(given, time)
        if predicted.shape[1] != x.shape[1]:  # a learned variance comes second; no sampler here uses it
            predicted = predicted[:, : x.shape[1]]
        x = sampler.advance(i, x, predicted, scale if guided else None)
    return x


def both(x: Tensor, run: Denoising) -> Tensor:
    """x (b, ...) for the conditional and the unconditional half: (2b, ...) under guidance."""
    return torch.cat([x, x]) if run.guidance_scale != 1 else x


def latent_diffusion(config: LatentDiffusion, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Tokens of each text encoder, one after the other (b, n) -> pixels: encode, denoise latents, decode."""
    x = _latents(config, parts, text, ())
    with scope(STAGE, "decode"):
        return parts["decoder"](x)


def latent_video(config: LatentVideo, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Tokens of each text encoder, one after the other (b, n) -> video: as of images, then decode frame by frame."""
    run, frames = config.run, config.run.frames
    x = _latents(config, parts, text, (frames,))
    with scope(STAGE, "decode"):
        video = x.new_empty(len(text), 3, frames, run.image_size, run.image_size)
        for frame in steps("frames", frames, "constant"):
            video[:, :, frame] = parts["decoder"](x[:, :, frame])
        return video


def _latents(
    config: LatentDiffusion | LatentVideo, parts: nn.ModuleDict, text: Tensor, frames: tuple[int, ...]
) -> Tensor:
    """Encode the text and denoise latents (b, c, *frames, h, w)."""
    unet, run, side = parts["unet"], config.run, config.latent_size
    with scope(STAGE, "text_encoder"):
        context, told = _texts(config, parts, beside_empty(text, run.guidance_scale != 1))
    with scope(STAGE, "denoise"):
        x = context.new_empty(len(text), config.unet.in_channels, *frames, side, side).normal_()
        return denoise(x, run, config.schedule, lambda x, t: unet(x, t, context, **told))


def _texts(
    config: LatentDiffusion | LatentVideo, parts: nn.ModuleDict, text: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The features attended to (b, m, d), and what else of the text the UNet is told."""
    features: list[Tensor] = []
    told: dict[str, Tensor] = {}
    for key, part in (("text_encoder", config.text_encoder), ("second_text_encoder", config.second_text_encoder)):
        if part is None:
            continue
        tokens, text = text[:, : part.text_len], text[:, part.text_len :]
        encoder = cast(TextEncoder, parts[key])
        if part.projection is None or config.unet.vector is None:
            features.append(encoder(tokens))
        else:
            own, pooled = encoder.pooled(tokens)
            features.append(own)
            told["vector"] = _vector(config, pooled)
    if config.unet.second_context_dim is not None:
        told["second_context"] = features.pop()
    return features[0] if len(features) == 1 else torch.cat(features, dim=-1), told


def _vector(config: LatentDiffusion | LatentVideo, pooled: Tensor) -> Tensor:
    """The pooled text beside sinusoids of the sizes and crops: (b, vector.dim)."""
    vector = config.unet.vector
    assert vector is not None, "asked for"
    numbers = sizes_told(pooled, vector.numbers, config.run.image_size)
    features = timestep_features(numbers.flatten(), vector.number_dim).to(pooled.dtype)
    return torch.cat([pooled, rearrange(features, "(b n) d -> b (n d)", n=vector.numbers)], dim=-1)


def cascaded_diffusion(config: CascadedDiffusion, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text (b, n) -> pixels: encode, denoise a small image, enlarge it twice, each in a loop of its own."""
    runs = [getattr(config.run, name) for name in config.networks]
    with scope(STAGE, "text_encoder"):
        encoded = parts["text_encoder"](beside_empty(text, any(run.guidance_scale != 1 for run in runs)))
    image: Tensor | None = None
    for name, side, run in zip(config.networks, config.sides, runs, strict=True):
        schedule, network = getattr(config.schedules, name), parts[name]
        context = encoded if run.guidance_scale != 1 else encoded[: len(text)]
        with scope(STAGE, name):
            x = encoded.new_empty(len(text), 3, side, side).normal_()
            if image is None:
                predict = telling(network, None, context)
            else:
                low = both(enlarge(image, side, schedule, config.run.augmentation), run)
                predict = telling(network, low, context, noise_level=_level(low, schedule, config.run.augmentation))
            image = denoise(x, run, schedule, predict)
    assert image is not None, "a cascade has networks"
    return image


def telling(network: nn.Module, beside: Tensor | None, *context: Tensor, **told: Tensor) -> Predict:
    """The network as a function of x and the timestep; `beside` are further channels of x."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return network(x if beside is None else torch.cat([x, beside], dim=1), t, *context, **told)

    return predict


def enlarge(image: Tensor, side: int, schedule: Schedule, augmentation: float, noise: Tensor | None = None) -> Tensor:
    """The low-resolution image (b, 3, h, w) at a larger side, with noise added (conditioning augmentation).

    augmentation: share of the timesteps after which that much noise is there; noise: (b, 3, side, side), else drawn.

    Source: Ho et al. 2021, arXiv 2106.15282, section 4.
    """
    low = F.interpolate(image, size=(side, side), mode="bilinear")
    signal = signals(schedule)[int(augmentation * (schedule.timesteps - 1))]
    noise = torch.empty_like(low).normal_() if noise is None else noise
    return signal**0.5 * low + (1 - signal) ** 0.5 * noise


def _level(like: Tensor, schedule: Schedule, augmentation: float) -> Tensor:
    return torch.full((len(like),), augmentation * schedule.timesteps, device=like.device)


def cascaded_video(config: CascadedVideo, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text (b, n) -> video: encode, image embedding, a few small frames, frames between them, larger twice.

    The last enlargement runs frame by frame with the same noise for each.
    """
    run, (small, middle, large) = config.run, config.sides
    frames = config.total_frames
    image = _image_embedding(config, parts, text)
    with scope(STAGE, "decoder"):
        video = _video(config, parts, "decoder", image, image.new_empty(len(text), 3, run.frames, small, small), None)
    with scope(STAGE, "interpolation"):
        known = video.new_zeros(len(text), 4, frames, small, small)
        known[:, :3, :: run.frame_skip] = video
        known[:, 3:, :: run.frame_skip].fill_(1)
        x = video.new_empty(len(text), 3, frames, small, small)
        video = _video(config, parts, "interpolation", image, x, known)
        del known, x
    with scope(STAGE, "super_resolution_1"):
        flat = rearrange(video, "b c f h w -> (b f) c h w")
        flat = enlarge(flat, middle, config.schedules.super_resolution_1, run.augmentation)
        low = rearrange(flat, "(b f) c h w -> b c f h w", f=frames)
        video = _video(config, parts, "super_resolution_1", image, torch.empty_like(low), low)
        del flat, low
    with scope(STAGE, "super_resolution_2"):
        return _frame_by_frame(config, parts["super_resolution_2"], video, large)


def _image_embedding(config: CascadedVideo, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Encode the text, denoise the image embedding (b, embedding_dim) that goes with it."""
    run, prior = config.run.prior, parts["prior"]
    with scope(STAGE, "text_encoder"):
        encoder = cast(TextEncoder, parts["text_encoder"])
        features, embedding = encoder.pooled(beside_empty(text, run.guidance_scale != 1))
    with scope(STAGE, "prior"):
        noise = embedding.new_empty(len(text), embedding.shape[1]).normal_()
        return denoise(noise, run, config.schedules.prior, telling(prior, None, features, embedding))


def _video(
    config: CascadedVideo, parts: nn.ModuleDict, name: str, image: Tensor, x: Tensor, beside: Tensor | None
) -> Tensor:
    """Denoise a video of the shape of x with network `name`, told the image embedding and what stands beside x."""
    run: Denoising = getattr(config.run, name)
    schedule: Schedule = getattr(config.schedules, name)
    part: UNet = getattr(config, name)
    told: dict[str, Tensor] = {}
    if part.image_tokens is not None:
        told["image"] = torch.cat([image, torch.zeros_like(image)]) if run.guidance_scale != 1 else image
    if part.frame_rate:
        told["frame_rate"] = torch.full((len(both(image, run)),), config.run.frame_rate, device=image.device)
    if beside is not None:
        beside = both(beside, run)
        if part.noise_level:
            told["noise_level"] = _level(beside, schedule, config.run.augmentation)
    return denoise(x.normal_(), run, schedule, telling(parts[name], beside, **told))


def _frame_by_frame(config: CascadedVideo, network: nn.Module, video: Tensor, side: int) -> Tensor:
    """Enlarge each frame of (b, 3, f, h, w) in a loop of its own, from the same noise."""
    run, schedule, part = config.run.super_resolution_2, config.schedules.super_resolution_2, config.super_resolution_2
    result = video.new_empty(*video.shape[:3], side, side)
    start, added = (video.new_empty(len(video), 3, side, side).normal_() for _ in range(2))
    for frame in steps("frames", video.shape[2], "constant"):
        low = both(enlarge(video[:, :, frame], side, schedule, config.run.augmentation, added), run)
        told = {"noise_level": _level(low, schedule, config.run.augmentation)} if part.noise_level else {}
        result[:, :, frame] = denoise(start, run, schedule, telling(network, low, **told))
    return result
