"""How each kind of model generates: plain functions over its parts, stage by stage.

Every loop goes through `steps()`, every label through `scope()`; the same code runs for real, under a
profiler, and on `meta`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from minimodels.config import Architecture, AutoregressiveImage, LanguageModel
from minimodels.diffusion_config import LatentDiffusion
from minimodels.run import STAGE, scope, steps
from minimodels.samplers import Ddim, guide, sample_token
from minimodels.transformer import Cache, Decoder, TextToTokens, start_tokens


def autoregressive_image(config: AutoregressiveImage, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text tokens (b, text_len) -> pixels (b, 3, h, w): encode, decode token by token, detokenize, upscale.

    With guidance the decoder runs conditional and unconditional text side by side, so its batch is 2b.
    """
    transformer = cast(TextToTokens, parts["transformer"])
    decoder, length, scale = transformer.decoder, config.transformer.image_tokens, config.run.guidance_scale
    guided = scale != 1
    with scope(STAGE, "text_encoder"):
        context = transformer.encoder(torch.cat([text, text.new_zeros(text.shape)]) if guided else text)
    with scope(STAGE, "decode"):
        cache = Cache(decoder.stack.empty_cache(len(context), length), decoder.stack.project_context(context))
        tokens = start_tokens(decoder, len(text), length + 1)
        for i in steps("decode", length, "affine"):
            current = tokens[:, i : i + 1]
            logits = decoder(torch.cat([current, current]) if guided else current, cache, i)[:, -1]
            tokens[:, i + 1] = sample_token(guide(logits, scale) if guided else logits, config.run.temperature)
        del cache, context
    with scope(STAGE, "detokenize"):
        pixels = parts["detokenizer"](tokens[:, 1:])
    with scope(STAGE, "super_resolution"):
        return parts["super_resolution"](pixels)


def language_model(config: LanguageModel, parts: nn.ModuleDict, prompt: Tensor) -> Tensor:
    """Prompt (b, prompt_len) -> prompt and generated tokens (b, prompt_len + gen_len).

    The prompt runs in one pass, which also yields the first token; each further token is one step.
    """
    decoder = cast(Decoder, parts["language_model"])
    (batch, prompt_len), gen_len = prompt.shape, config.run.gen_len
    with scope(STAGE, "prefill"):
        tokens = torch.cat([prompt, prompt.new_zeros(batch, gen_len)], dim=1)
        cache = Cache(decoder.stack.empty_cache(batch, prompt_len + gen_len), ())
        last = decoder.hidden(prompt, cache)[:, -1]
        tokens[:, prompt_len] = sample_token(decoder.head(last), config.run.temperature)
    with scope(STAGE, "decode"):
        for i in steps("decode", gen_len - 1, "affine"):
            pos = prompt_len + i
            logits = decoder(tokens[:, pos : pos + 1], cache, pos)[:, -1]
            tokens[:, pos + 1] = sample_token(logits, config.run.temperature)
    return tokens


def latent_diffusion(config: LatentDiffusion, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text tokens (b, text_len) -> pixels (b, 3, h, w): encode, denoise latents step by step, decode.

    With guidance the UNet runs conditional and unconditional text side by side, so its batch is 2b.
    """
    unet, run, side = parts["unet"], config.run, config.latent_size
    guided = run.guidance_scale != 1
    with scope(STAGE, "text_encoder"):
        context = parts["text_encoder"](torch.cat([text, text.new_zeros(text.shape)]) if guided else text)
    with scope(STAGE, "denoise"):
        sampler = Ddim.of(config.schedule, run.steps)
        x = context.new_empty(len(text), config.unet.in_channels, side, side).normal_()
        for i in steps("denoise", run.steps, "constant"):
            time = torch.full((len(context),), sampler.timesteps[i], device=x.device)
            predicted = unet(torch.cat([x, x]) if guided else x, time, context)
            x = sampler.step(i, x, guide(predicted, run.guidance_scale) if guided else predicted)
        del context
    with scope(STAGE, "decode"):
        return parts["decoder"](x)


PIPELINES: dict[type[Architecture], Callable[[Any, nn.ModuleDict, Tensor], Tensor]] = {
    AutoregressiveImage: autoregressive_image,
    LanguageModel: language_model,
    LatentDiffusion: latent_diffusion,
}


def example_input(config: Architecture, batch: int, device: str | torch.device, seed: int = 0) -> Tensor:
    """Random tokens of the shape the pipeline of `config` takes, (b, n)."""
    if isinstance(config, AutoregressiveImage):
        vocab, length = config.transformer.text_vocab, config.transformer.text_len
    elif isinstance(config, LanguageModel):
        vocab, length = config.language_model.vocab, config.run.prompt_len
    elif isinstance(config, LatentDiffusion):
        vocab, length = config.text_encoder.vocab, config.text_encoder.text_len
    else:
        raise AssertionError(type(config))
    generator = None if torch.device(device).type == "meta" else torch.Generator(device).manual_seed(seed)
    return torch.randint(vocab, (batch, length), device=device, generator=generator)


def generate(config: Architecture, parts: nn.ModuleDict, tokens: Tensor) -> Tensor:
    """Run the whole pipeline of `config` on `tokens` (b, n): the image (b, 3, h, w), or the tokens (b, n')."""
    with torch.inference_mode():
        return PIPELINES[type(config)](config, parts, tokens)
