"""Transformers: a stack of pre-norm layers, as encoder, causal decoder with a KV cache, or both.

x + attention(norm(x)), then x + cross_attention(norm(x)) where there is a context, then x + mlp(norm(x)).
Parti and LLaMA-2 are settings of `Stack`; T5 is one more.

Shapes: tokens (b, n) of integers; features (b, n, d); logits (b, n, vocabulary).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import (
    KV,
    Attention,
    AxisEmbedding,
    FeedForward,
    Heads,
    MultiAxisAttention,
    RelativeBias,
    RotaryTable,
    make_norm,
)
from minimodels.checks import check_features, check_fits, check_tokens
from minimodels.config import DecoderOnly, EncoderDecoder, Learned, LearnedAxes, Relative, Rotary
from minimodels.config import Stack as StackConfig
from minimodels.config import TextEncoder as TextEncoderConfig
from minimodels.kernels.fused import add_norm, layer_norm
from minimodels.kernels.scope import KV_CACHE, scope


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of every layer: `layers` of the decoder itself, `cross` of its context."""

    layers: tuple[KV, ...]
    cross: tuple[KV, ...]


class Layer(nn.Module):
    """One pre-norm layer; `context_dim` is the width of what it cross-attends to, None for nothing."""

    def __init__(self, config: StackConfig, context_dim: int | None, role: str) -> None:
        super().__init__()
        bias = config.bias
        self.self_norm = make_norm(config.norm, config.dim)
        self.self_attention = (
            Attention(config.dim, config.dim, Heads.of(config), role, bias)
            if config.multi_axis is None
            else MultiAxisAttention(config, config.multi_axis, bias)
        )
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
        h = layer_norm(x, self.self_norm)
        if isinstance(self.self_attention, MultiAxisAttention):
            delta = self.self_attention(h)
        else:
            delta = self.self_attention(h, cache=cache, pos=pos, rotary=rotary, causal=causal, bias=bias)
        if cross is not None:
            x, h = add_norm(x, delta, self.cross_norm)
            delta = self.cross_attention(h, cross)
        x, h = add_norm(x, delta, self.ff_norm)
        return x + self.feed_forward(h)


class Stack(nn.Module):
    """Positions, layers and the final norm; `axes` are the largest numbers of positions, one for plain sequences.

    role: of the self-attention; "temporal" takes x (b, f, n, d) and attends over f.
    """

    def __init__(
        self,
        config: StackConfig,
        *axes: int,
        causal: bool,
        context_dim: int | None = None,
        role: str = "self",
    ) -> None:
        super().__init__()
        self.config, self.causal, self.role = config, causal, role
        position, length = config.position, prod(axes)
        self.positions = nn.Embedding(length, config.dim) if isinstance(position, Learned) else None
        self.axes = AxisEmbedding(axes, config.dim) if isinstance(position, LearnedAxes) else None
        self.rotary = RotaryTable(position, config.head_width, length) if isinstance(position, Rotary) else None
        self.relative, self.relatives = None, None
        if isinstance(position, Relative):
            biases = (RelativeBias(position, config.num_heads, causal=causal) for _ in range(config.depth))
            self.relative, self.relatives = (next(biases), None) if position.shared else (None, nn.ModuleList(biases))
        self.layers = nn.ModuleList(Layer(config, context_dim, role) for _ in range(config.depth))
        self.norm = make_norm(config.norm, config.dim)

    def forward(self, x: Tensor, *, cache: Cache | None = None, pos: int = 0, mask: Tensor | None = None) -> Tensor:
        """x: (b, n, d), whose first row is position `pos` -> (b, n, d).

        mask: (b, n), true or 1 where a token may be attended to; all may where it is None. A query that it leaves
        with nothing attends to all that it could without it.
        """
        return layer_norm(self.last_two(x, cache=cache, pos=pos, mask=mask)[1], self.norm)

    def last_two(
        self, x: Tensor, *, cache: Cache | None = None, pos: int = 0, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the last layer is given, and what it returns, both before the final norm."""
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"mask is {tuple(mask.shape)}, the text {tuple(x.shape[:2])}")
        if cache is not None and cache.layers:
            check_fits("tokens", pos + x.shape[1], cache.layers[0].keys.shape[2], "that the cache has room for")
        x, given, bias = self._placed(x, pos), x, None
        for index, layer in enumerate(self.layers):
            given = x
            if index == 0 or self.relatives is not None:
                relative = self.relative if self.relatives is None else self.relatives[index]
                bias = self._bias(relative, x.shape[1], pos, mask, x.dtype)
            x = layer(
                x,
                causal=self.causal,
                rotary=self.rotary,
                bias=bias,
                cache=cache.layers[index] if cache and cache.layers else None,
                pos=pos,
                cross=cache.cross[index] if cache and cache.cross else None,
            )
        return given, x

    def _placed(self, x: Tensor, pos: int) -> Tensor:
        """x with the vectors of its positions added, where they are trained."""
        n = x.shape[1]
        if self.positions is not None:
            over_frames, room = self.role == "temporal", len(self.positions.weight)
            n = n if over_frames else x.shape[-2]
            check_fits("frames" if over_frames else "tokens", pos + n, room, "that have positions")
            if over_frames:
                return x + self.positions.weight[:n, None]
            return x + self.positions.weight[pos : pos + n]
        if self.axes is not None:
            first, *rest = (len(axis.weight) for axis in self.axes.axes)  # type: ignore[arg-type]
            check_fits("tokens", n, first * prod(rest), "that have positions")
            first = n // prod(rest) if rest else first  # a video may have fewer frames than positions
            return x + self.axes((first, *rest))
        return x

    def _bias(
        self, relative: nn.Module | None, n: int, pos: int, mask: Tensor | None, dtype: torch.dtype
    ) -> Tensor | None:
        """What is added to the scores: relative positions, and the lowest number where the mask is false."""
        bias = None if relative is None else relative(n, pos + n)
        if mask is None:
            return bias
        seen = _seen(mask, self.causal)
        hidden = torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, float("-inf"))
        hidden = rearrange(hidden, "b n m -> b 1 n m")
        return hidden.expand(-1, -1, n, -1) if bias is None else bias + hidden

    def project_context(self, context: Tensor) -> tuple[KV, ...]:
        """Keys and values of every cross-attention for context (b, m, context_dim), computed once."""
        layers = cast("Sequence[Layer]", self.layers)
        check_features("context", context, layers[0].cross_attention.to_k.in_features)
        return tuple(layer.cross_attention.project(context) for layer in layers)

    def empty_cache(self, batch: int, capacity: int) -> tuple[KV, ...]:
        """Room for `capacity` positions of every layer's keys and values."""
        shape = (batch, self.config.num_kv_heads, capacity, self.config.head_width)
        like = next(self.parameters())
        with scope(KV_CACHE):
            return tuple(KV(like.new_zeros(shape), like.new_zeros(shape)) for _ in self.layers)


def _seen(mask: Tensor, causal: bool) -> Tensor:
    """The keys that a mask (b, m) leaves to each query, (b, n, m); n is 1 where it is the same for all.

    A row without any would be NaN in a softmax, or zero, by the kernel: its query sees all instead, as in transformers.
    """
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(f"mask must be of booleans or integers, 0 and 1, not {str(mask.dtype).removeprefix('torch.')}")
    mask = mask != 0
    if not causal:
        return rearrange(mask | ~mask.any(dim=1, keepdim=True), "b m -> b 1 m")
    return rearrange(mask, "b m -> b 1 m") | rearrange(mask.cumsum(dim=1) == 0, "b n -> b n 1")


class Encoder(nn.Module):
    """Token embedding and a stack, bidirectional unless `causal`: tokens (b, n) -> features (b, n, d)."""

    def __init__(self, vocab: int, length: int, config: StackConfig, *, causal: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, config.dim)
        self.stack = Stack(config, length, causal=causal)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (b, n), true or 1 where there is text; all is text where it is None."""
        check_tokens(tokens)
        return self.stack(self.embedding(tokens), mask=mask)


class TextEncoder(Encoder):
    """A text encoder: CLIP's is causal (Radford et al. 2021, arXiv 2103.00020), T5's is not.

    The features of the token that ends a text, projected, stand for the whole (`pooled`).
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__(config.vocab, config.text_len, config.stack, causal=config.causal)
        self.penultimate, self.end = config.features == "penultimate", config.end
        width = config.projection
        self.project = nn.Linear(config.stack.dim, width, bias=False) if width else None

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features (b, n, d) of tokens (b, n); mask: (b, n), true or 1 where there is text."""
        check_tokens(tokens)
        before, last = self.stack.last_two(self.embedding(tokens), mask=mask)
        return before if self.penultimate else layer_norm(last, self.stack.norm)

    def pooled(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features (b, n, d), and the vector (b, projection) that stands for the text.

        Raises:
            ValueError: this encoder has no projection.
        """
        if self.project is None:
            raise ValueError("this text encoder has no projection (in transformers CLIPTextModelWithProjection has)")
        features, end = self.ending(tokens, mask)
        return features, self.project(end)

    def ending(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features (b, n, d), and those of the token that ends the text after the final norm, (b, d)."""
        check_tokens(tokens)
        before, last = self.stack.last_two(self.embedding(tokens), mask=mask)
        normed = layer_norm(last, self.stack.norm)
        ends = tokens if self.end is None else (tokens == self.end).int()
        end = normed[torch.arange(len(tokens), device=tokens.device), ends.argmax(dim=-1)]
        return before if self.penultimate else normed, end


class Decoder(nn.Module):
    """Token embedding, a causal stack and an output head: tokens (b, n) -> logits (b, n, vocab).

    start: the token that opens a sequence has an embedding row of its own; it is token 0 where it has none.
    embedding: one that others use too. tied: the embedding is the head, and sees features times `head_scale`.
    """

    def __init__(
        self,
        vocab: int,
        length: int,
        config: StackConfig,
        *,
        context_dim: int | None,
        start: bool,
        embedding: nn.Embedding | None = None,
        tied: bool = False,
        head_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.start_token, self.head_scale = vocab if start else 0, head_scale
        self.embedding = nn.Embedding(vocab + start, config.dim) if embedding is None else embedding
        self.stack = Stack(config, length, causal=True, context_dim=context_dim)
        self.head = None if tied else nn.Linear(config.dim, vocab, bias=False)

    def empty_cache(self, batch: int, length: int, context: Tensor | None = None) -> Cache:
        """Room for keys and values of `length` tokens, and those of the context (b, m, context_dim) it attends to."""
        layers = self.stack.empty_cache(batch, length)
        return Cache(layers, () if context is None else self.stack.project_context(context))

    def hidden(self, tokens: Tensor, cache: Cache | None = None, pos: int = 0) -> Tensor:
        """Features (b, n, d) before the output head."""
        check_tokens(tokens)
        return self.stack(self.embedding(tokens), cache=cache, pos=pos)

    def logits(self, x: Tensor) -> Tensor:
        """The output head: (..., d) -> (..., vocab)."""
        if self.head is None:
            return F.linear(x if self.head_scale == 1 else x * self.head_scale, self.embedding.weight)
        return self.head(x)

    def forward(self, tokens: Tensor, cache: Cache | None = None, pos: int = 0) -> Tensor:
        """cache: of `empty_cache`, with the keys and values of the positions before `pos`; those of tokens are added.

        Raises:
            ValueError: more tokens than have positions, or than the cache has room for.
        """
        return self.logits(self.hidden(tokens, cache, pos))


class TextToTokens(nn.Module):
    """Encoder over text, causal decoder over image tokens (Parti), or over text (T5).

    Source: Yu et al. 2022, arXiv 2206.10789, section 2 and Table 1; Raffel et al. 2020, arXiv 1910.10683.
    """

    def __init__(self, config: EncoderDecoder) -> None:
        super().__init__()
        self.encoder = Encoder(config.text_vocab, config.text_len, config.encoder)
        shared, tied = config.shared is not None, config.shared == "all"
        self.decoder = Decoder(
            config.image_vocab,
            config.image_tokens,
            config.decoder,
            context_dim=config.encoder.dim,
            start=not shared,
            embedding=self.encoder.embedding if shared else None,
            tied=tied,
            head_scale=config.decoder.dim**-0.5 if tied else 1.0,
        )

    def forward(self, text: Tensor, tokens: Tensor) -> Tensor:
        """All positions at once: text (b, m), tokens (b, n) beginning with the start token -> (b, n, vocab)."""
        cross = self.decoder.stack.project_context(self.encoder(text))
        return self.decoder(tokens, Cache((), cross))


def language_model(config: DecoderOnly) -> Decoder:
    """A decoder without context (LLaMA-2). Source: the official llama/model.py."""
    return Decoder(config.vocab, config.context_len, config.decoder, context_dim=None, start=False, tied=config.tied)


def start_tokens(decoder: Decoder, batch: int, length: int) -> Tensor:
    """A buffer (b, length) of token numbers: the start token, then zeros."""
    tokens = torch.zeros((batch, length), dtype=torch.long, device=decoder.embedding.weight.device)
    tokens[:, 0].fill_(decoder.start_token)
    return tokens
