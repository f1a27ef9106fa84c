"""Models of image tokens: codes are learned first, then a transformer that writes them, one by one or many a step."""

from __future__ import annotations

import math
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimodels.config import AutoregressiveImage
from minimodels.demos import quantised
from minimodels.demos.data import tokens
from minimodels.demos.diffusion import some_dropped
from minimodels.demos.training import Stage
from minimodels.masked import MaskedTransformer
from minimodels.pixel_decoder import VitDecoder, VqDecoder
from minimodels.token_config import ParallelImage
from minimodels.transformer import TextToTokens


class Autoregressive:
    """An encoder-decoder that learns from labels (n, 2) and pixels (n, 3, h, w) to write image tokens one by one."""

    def __init__(self, config: AutoregressiveImage, parts: nn.ModuleDict, labels: Tensor, pixels: Tensor) -> None:
        self.parts, self.large = parts, pixels
        self.small = F.avg_pool2d(pixels, 2**config.super_resolution.doublings)
        self.text = tokens(labels, config.transformer.text_len)
        self.tokenizer = quantised.of_vit(config.detokenizer, cast(VitDecoder, parts["detokenizer"]))
        self.codes = self.text  # until there are codes
        self.trained = nn.ModuleDict({"parts": parts, "tokenizer": self.tokenizer})

    def ready(self) -> None:
        """Nothing is left to do."""

    def stages(self, *steps: int) -> list[Stage]:
        """Steps of each: codes of small pictures, their enlargement, the transformer that writes them."""
        tokenizer, upscaler, transformer = steps
        larger, writer = self.parts["super_resolution"], self.parts["transformer"]
        return [
            Stage("tokenizer", self.tokenizer, partial(reconstruction, self.tokenizer, self.small), tokenizer, 2e-3),
            Stage("super_resolution", larger, self._enlargement, upscaler, 2e-3, 0.0, self._encode),
            Stage("transformer", writer, self._writing, transformer, 2e-3, 0.998, self._encode, self._begin),
        ]

    def _encode(self) -> None:
        self.codes = self.tokenizer.encode(self.small)

    def _begin(self) -> None:
        decoder = cast(TextToTokens, self.parts["transformer"]).decoder
        start_alike(self.tokenizer, decoder.embedding, decoder.head)

    def _enlargement(self, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.codes), (32,), generator=generator)
        with torch.no_grad():
            low = self.parts["detokenizer"](self.codes[chosen])
        return F.l1_loss(self.parts["super_resolution"](low), self.large[chosen])

    def _writing(self, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.codes), (32,), generator=generator)
        codes, network = self.codes[chosen], cast(TextToTokens, self.parts["transformer"])
        start = torch.full_like(codes[:, :1], network.decoder.start_token)
        logits = network(some_dropped(self.text[chosen], generator), torch.cat([start, codes[:, :-1]], dim=1))
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


class Parallel:
    """Masked transformers that learn from labels (n, 2) and pixels (n, 3, h, w) to fill in tokens, coarse then fine.

    As in Muse the coarse tokens are of a smaller picture, here half as large, and have a tokenizer of their own.
    """

    def __init__(self, config: ParallelImage, parts: nn.ModuleDict, labels: Tensor, pixels: Tensor) -> None:
        self.parts, self.pixels, self.small = parts, pixels, F.avg_pool2d(pixels, 2)
        self.text = tokens(labels, config.text_encoder.text_len)
        half = {"codebook_size": config.transformer.vocab, "channels": config.decoder.channels[:-1]}
        coarse = config.decoder.model_copy(update=half)
        self.fine = quantised.of_conv(config.decoder, cast(VqDecoder, parts["decoder"]))
        self.coarse = quantised.of_conv(coarse, VqDecoder(coarse))
        self.low = self.high = self.text  # until there are codes
        # The decoder of the coarse tokens is trained with them and is no part of the model
        self.trained = nn.ModuleDict({"parts": parts, "fine": self.fine, "coarse": self.coarse})

    def ready(self) -> None:
        """Nothing is left to do."""

    def stages(self, *steps: int) -> list[Stage]:
        """Steps of each: both tokenizers, the transformer of coarse tokens with the text encoder, that of fine ones."""
        fine, coarse, transformer, upper = steps
        lower = nn.ModuleDict({name: self.parts[name] for name in ("text_encoder", "transformer")})
        finer = self.parts["super_resolution"]
        return [
            Stage("fine tokenizer", self.fine, partial(reconstruction, self.fine, self.pixels), fine, 2e-3),
            Stage("coarse tokenizer", self.coarse, partial(reconstruction, self.coarse, self.small), coarse, 2e-3),
            Stage("transformer", lower, self._coarse_filling, transformer, 2e-3, 0.998, self._encode, self._begin),
            Stage("super_resolution", finer, self._fine_filling, upper, 2e-3, 0.998, self._encode),
        ]

    def _encode(self) -> None:
        self.low, self.high = self.coarse.encode(self.small).flatten(1), self.fine.encode(self.pixels).flatten(1)

    def _begin(self) -> None:
        lower, upper = (cast(MaskedTransformer, self.parts[name]) for name in ("transformer", "super_resolution"))
        start_alike(self.coarse, lower.embedding, lower.head)
        start_alike(self.fine, upper.embedding, upper.head)

    def _coarse_filling(self, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.low), (32,), generator=generator)
        features = self.parts["text_encoder"](some_dropped(self.text[chosen], generator))
        network = cast(MaskedTransformer, self.parts["transformer"])
        return filling_loss(network, self.low[chosen], features, None, generator)

    def _fine_filling(self, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.high), (32,), generator=generator)
        features = self.parts["text_encoder"](some_dropped(self.text[chosen], generator))
        network = cast(MaskedTransformer, self.parts["super_resolution"])
        return filling_loss(network, self.high[chosen], features, self.low[chosen], generator)


def reconstruction(tokenizer: quantised.Quantised, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The loss of a tokenizer over some of pixels (n, 3, h, w)."""
    return tokenizer.loss(pixels[torch.randint(len(pixels), (48,), generator=generator)], generator)


@torch.no_grad()
def start_alike(tokenizer: quantised.Quantised, embedding: nn.Embedding, head: nn.Linear | None) -> None:
    """Give codes that stand for like patches like rows of the embedding and of the head, of the size they had."""
    assert head is not None
    vectors = tokenizer.codebook()
    vectors = (vectors - vectors.mean(dim=0)) / vectors.std(dim=0)
    generator = torch.Generator().manual_seed(0)
    for weight, size in ((embedding.weight, 1.0), (head.weight, head.in_features**-0.5)):
        mixed = vectors @ torch.randn(vectors.shape[1], weight.shape[1], generator=generator)
        weight[: len(mixed)] = size * mixed / mixed.std()


def filling_loss(
    network: MaskedTransformer, codes: Tensor, features: Tensor, low: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of the masked ones of codes (b, n), as many as a quarter of a cosine says at a random time.

    Source: Chang et al. 2022 (MaskGIT), arXiv 2202.04200, section 3.1.
    """
    share = torch.cos(math.pi / 2 * torch.rand(len(codes), 1, generator=generator))
    rank = torch.rand(codes.shape, generator=generator).argsort(dim=1).argsort(dim=1)
    hidden = rank < (share * codes.shape[1]).ceil()
    logits = network(torch.where(hidden, network.vocab, codes), network.context(features, low))
    return F.cross_entropy(logits[hidden], codes[hidden])
