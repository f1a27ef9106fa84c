"""How token models generate: one by one (Parti, LLaMA), or many a step (Muse, aMUSEd, Phenaki).

Shapes: text (b, n) of token numbers; pixels (b, 3, h, w); video (b, 3, f, h, w). Text without content is a row of
zeros; where guidance is on, networks run both texts side by side, so their batch is 2b.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.config import AutoregressiveImage, LanguageModel
from minimodels.masked import MaskedTransformer
from minimodels.run import STAGE, scope, steps
from minimodels.samplers import guide, sample_token, still_masked, unmask
from minimodels.texts import beside_empty, sizes_told
from minimodels.token_config import MaskedImage, ParallelImage, ParallelRun, ParallelVideo
from minimodels.transformer import Decoder, TextEncoder, TextToTokens, start_tokens
from minimodels.uvit import UVit, UVitContext


def autoregressive_image(config: AutoregressiveImage, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text tokens -> pixels: encode, decode token by token, detokenize, upscale."""
    transformer = cast(TextToTokens, parts["transformer"])
    decoder, length, scale = transformer.decoder, config.transformer.image_tokens, config.run.guidance_scale
    guided = scale != 1
    with scope(STAGE, "text_encoder"):
        context = transformer.encoder(beside_empty(text, guided))
    with scope(STAGE, "decode"):
        cache = decoder.empty_cache(len(context), length, context)
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
        cache = decoder.empty_cache(batch, prompt_len + gen_len)
        last = decoder.hidden(prompt, cache)[:, -1]
        tokens[:, prompt_len] = sample_token(decoder.logits(last), config.run.temperature)
    with scope(STAGE, "decode"):
        for i in steps("decode", gen_len - 1, "affine"):
            pos = prompt_len + i
            logits = decoder(tokens[:, pos : pos + 1], cache, pos)[:, -1]
            tokens[:, pos + 1] = sample_token(logits, config.run.temperature)
    return tokens


def parallel_image(config: ParallelImage, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text tokens -> pixels: encode, fill in low-resolution tokens, then high-resolution tokens, decode."""
    run = config.run
    with scope(STAGE, "text_encoder"):
        features = parts["text_encoder"](beside_empty(text, run.guidance_scale != 1))
    with scope(STAGE, "transformer"):
        lower = cast(MaskedTransformer, parts["transformer"])
        masked = _masked(text, config.transformer.tokens, lower.vocab)
        low = fill(partial(lower, context=lower.context(features)), masked, lower.vocab, run, run.steps)
    with scope(STAGE, "super_resolution"):
        upper = cast(MaskedTransformer, parts["super_resolution"])
        doubled = torch.cat([low, low]) if run.guidance_scale != 1 else low
        predict = partial(upper, context=upper.context(features, doubled))
        masked = _masked(text, config.super_resolution.tokens, upper.vocab)
        tokens = fill(predict, masked, upper.vocab, run, run.super_resolution_steps)
        del features, predict
    with scope(STAGE, "decode"):
        height, width = config.super_resolution.axes
        return parts["decoder"](rearrange(tokens, "b (h w) -> b h w", h=height, w=width))


def parallel_video(config: ParallelVideo, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text tokens -> video: encode, fill in video tokens, decode."""
    run, (_, height, width) = config.run, config.transformer.axes
    with scope(STAGE, "text_encoder"):
        features = parts["text_encoder"](beside_empty(text, run.guidance_scale != 1))
    with scope(STAGE, "transformer"):
        network = cast(MaskedTransformer, parts["transformer"])
        predict = partial(network, context=network.context(features))
        masked = _masked(text, config.token_frames * height * width, network.vocab)
        tokens = fill(predict, masked, network.vocab, run, run.steps, ramp=False)
        del features, predict
    with scope(STAGE, "decode"):
        return parts["decoder"](rearrange(tokens, "b (f h w) -> b f h w", h=height, w=width))


def masked_image(config: MaskedImage, parts: nn.ModuleDict, text: Tensor) -> Tensor:
    """Text tokens -> pixels: encode, fill in image tokens, decode."""
    run, side = config.run, config.side
    with scope(STAGE, "text_encoder"):
        features, pooled = cast(TextEncoder, parts["text_encoder"]).pooled(beside_empty(text, run.guidance_scale != 1))
    with scope(STAGE, "transformer"):
        network = cast(UVit, parts["transformer"])
        numbers = sizes_told(pooled, 5, run.image_size)
        predict, mask = partial(_flat, network, network.context(features, pooled, numbers), side), config.mask
        tokens = fill(predict, _masked(text, side**2, mask), mask, run, run.steps, ramp=False)
        del features, pooled, predict
    with scope(STAGE, "decode"):
        return parts["decoder"](rearrange(tokens, "b (h w) -> b h w", h=side))


def _flat(network: UVit, told: UVitContext, side: int, tokens: Tensor) -> Tensor:
    """Logits (b, n, vocab) of a square of tokens (b, n), row by row."""
    logits = network(rearrange(tokens, "b (h w) -> b h w", h=side), told)
    return rearrange(logits, "b vocab h w -> b (h w) vocab")


def _masked(text: Tensor, count: int, mask: int) -> Tensor:
    """Masks (b, count), as many as there are texts (b, n)."""
    return torch.full((len(text), count), mask, dtype=torch.long, device=text.device)


def fill(
    predict: Callable[[Tensor], Tensor],
    tokens: Tensor,
    mask: int,
    run: ParallelRun,
    count: int,
    *,
    ramp: bool = True,
) -> Tensor:
    """Tokens (b, n), all `mask` at first, filled in over `count` steps.

    predict: logits (b, n, vocab) of tokens, both with batch 2b under guidance; ramp: guidance grows with the steps
    from none (Muse, section 2.7); else it is constant.
    """
    guided, codes = run.guidance_scale != 1, mask
    for i in steps("fill", count, "constant"):
        left = 1 - (i + 1) / count
        scale = 1 + (run.guidance_scale - 1) * (1 - left) if ramp else run.guidance_scale
        logits = predict(torch.cat([tokens, tokens]) if guided else tokens)
        logits = guide(logits, scale) if guided else logits
        masked, codes = still_masked(i, count, tokens.shape[1]), logits.shape[-1]
        tokens = unmask(tokens, logits, mask, masked, run.temperature, run.choice_temperature * left)
    return tokens.clamp(max=codes - 1)  # where a profiler runs a few of the steps, masks are left
