"""Transformers: a stack of pre-norm layers, as encoder, causal decoder with a KV cache, or both.

x + attention(norm(x)), then x + cross_attention(norm(x)) where there is a context, then x + mlp(norm(x)).
Parti and LLaMA-2 are settings of `Stack`; T5 is one more.

Shapes: tokens (b, n) of integers; features (b, n, d); logits (b, n, vocabulary).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from minimodels.blocks import KV, Attention, FeedForward, Heads, RelativeBias, RotaryTable, make_norm
from minimodels.config import DecoderOnly, EncoderDecoder, Learned, Relative, Rotary, TextEncoder
from minimodels.config import Stack as StackConfig
from minimodels.kernels.scope import KV_CACHE, scope


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of every layer: `layers` of the decoder itself, `cross` of its context."""

    layers: tuple[KV, ...]
    cross: tuple[KV, ...]


class Layer(nn.Module):
    """One pre-norm layer; `context_dim` is the width of what it cross-attends to, None for nothing."""

    def __init__(self, config: StackConfig, context_dim: int | None) -> None:
        super().__init__()
        bias = "all" if config.bias else "none"
        self.self_norm = make_norm(config.norm, config.dim)
        self.self_attention = Attention(config.dim, config.dim, Heads.of(config), "self", bias)
        if context_dim is not None:
            self.cross_norm = make_norm(config.norm, config.dim)
            self.cross_attention = Attention(config.dim, context_dim, Heads.of(config), "cross", bias)
        self.ff_norm = make_norm(config.norm, config.dim)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool,
        rotary: RotaryTable | None,
        bias: Tensor | None,
        cache: KV | None,
        pos: int,
        cross: KV | None,
    ) -> Tensor:
        """x: (b, n, d) -> (b, n, d)."""
        h = self.self_norm(x)
        x = x + self.self_attention(h, cache=cache, pos=pos, rotary=rotary, causal=causal, bias=bias)
        if cross is not None:
            x = x + self.cross_attention(self.cross_norm(x), cross)
        return x + self.feed_forward(self.ff_norm(x))


class Stack(nn.Module):
    """Positions, layers and the final norm; `length` is the largest number of positions."""

    def __init__(self, config: StackConfig, length: int, *, causal: bool, context_dim: int | None = None) -> None:
        super().__init__()
        self.config, self.causal = config, causal
        position = config.position
        self.positions = nn.Embedding(length, config.dim) if isinstance(position, Learned) else None
        self.rotary = RotaryTable(position, config.head_width, length) if isinstance(position, Rotary) else None
        relative = isinstance(position, Relative)
        self.relative = RelativeBias(position, config.num_heads, causal=causal) if relative else None
        self.layers = nn.ModuleList(Layer(config, context_dim) for _ in range(config.depth))
        self.norm = make_norm(config.norm, config.dim)

    def forward(self, x: Tensor, *, cache: Cache | None = None, pos: int = 0) -> Tensor:
        """x: (b, n, d), whose first row is position `pos` -> (b, n, d)."""
        n = x.shape[1]
        if self.positions is not None:
            x = x + self.positions.weight[pos : pos + n]
        bias = None if self.relative is None else self.relative(n, pos + n)
        for index, layer in enumerate(self.layers):
            x = layer(
                x,
                causal=self.causal,
                rotary=self.rotary,
                bias=bias,
                cache=cache.layers[index] if cache and cache.layers else None,
                pos=pos,
                cross=cache.cross[index] if cache and cache.cross else None,
            )
        return self.norm(x)

    def project_context(self, context: Tensor) -> tuple[KV, ...]:
        """Keys and values of every cross-attention for context (b, m, context_dim), computed once."""
        layers = cast("Iterable[Layer]", self.layers)
        return tuple(layer.cross_attention.project(context) for layer in layers)

    def empty_cache(self, batch: int, capacity: int) -> tuple[KV, ...]:
        """Room for `capacity` positions of every layer's keys and values."""
        shape = (batch, self.config.num_kv_heads, capacity, self.config.head_width)
        like = next(self.parameters())
        with scope(KV_CACHE):
            return tuple(KV(like.new_zeros(shape), like.new_zeros(shape)) for _ in self.layers)


class Encoder(nn.Module):
    """Token embedding and a stack, bidirectional unless `causal`: tokens (b, n) -> features (b, n, d)."""

    def __init__(self, vocab: int, length: int, config: StackConfig, *, causal: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, config.dim)
        self.stack = Stack(config, length, causal=causal)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.stack(self.embedding(tokens))


class Decoder(nn.Module):
    """Token embedding, a causal stack and an untied output head: tokens (b, n) -> logits (b, n, vocab).

    `start` adds one embedding row, the token that opens a sequence.
    """

    def __init__(self, vocab: int, length: int, config: StackConfig, *, context_dim: int | None, start: bool) -> None:
        super().__init__()
        self.vocab = vocab
        self.embedding = nn.Embedding(vocab + start, config.dim)
        self.stack = Stack(config, length, causal=True, context_dim=context_dim)
        self.head = nn.Linear(config.dim, vocab, bias=False)

    def hidden(self, tokens: Tensor, cache: Cache | None = None, pos: int = 0) -> Tensor:
        """Features (b, n, d) before the output head."""
        return self.stack(self.embedding(tokens), cache=cache, pos=pos)

    def forward(self, tokens: Tensor, cache: Cache | None = None, pos: int = 0) -> Tensor:
        return self.head(self.hidden(tokens, cache, pos))


class TextToTokens(nn.Module):
    """Encoder over text, causal decoder over image tokens (Parti).

    Source: Yu et al. 2022, arXiv 2206.10789, section 2 and Table 1.
    """

    def __init__(self, config: EncoderDecoder) -> None:
        super().__init__()
        self.encoder = Encoder(config.text_vocab, config.text_len, config.encoder)
        self.decoder = Decoder(
            config.image_vocab, config.image_tokens, config.decoder, context_dim=config.encoder.dim, start=True
        )

    def forward(self, text: Tensor, tokens: Tensor) -> Tensor:
        """All positions at once: text (b, m), tokens (b, n) beginning with the start token -> (b, n, vocab)."""
        cross = self.decoder.stack.project_context(self.encoder(text))
        return self.decoder(tokens, Cache((), cross))


def language_model(config: DecoderOnly) -> Decoder:
    """A decoder without context (LLaMA-2). Source: the official llama/model.py."""
    return Decoder(config.vocab, config.context_len, config.decoder, context_dim=None, start=False)


def text_encoder(config: TextEncoder) -> Encoder:
    """A text encoder: CLIP's is causal (Radford et al. 2021, arXiv 2103.00020), T5's is not."""
    return Encoder(config.vocab, config.text_len, config.stack, causal=config.causal)


def start_tokens(decoder: Decoder, batch: int, length: int) -> Tensor:
    """A buffer (b, length) of token numbers: the start token, then zeros."""
    tokens = torch.zeros((batch, length), dtype=torch.long, device=decoder.head.weight.device)
    tokens[:, 0].fill_(decoder.vocab)
    return tokens
