"""What several models share: norms, positions, attention with its projections, the MLP.

Shapes: x (b, n, d) with d the model's width; context (b, m, d') with d' its own width. Video features are
(b, f, n, d): attention in space runs per frame, attention in time per position.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.config import MultiAxis, Norm, Relative, Rotary, Stack
from minimodels.kernels.activations import ACTIVATIONS
from minimodels.kernels.attention import attention, attention_rotated, attention_with_cache
from minimodels.kernels.backend import ours
from minimodels.kernels.fused import gated, layer_norm, rotate
from minimodels.kernels.scope import scope


class KV(NamedTuple):
    """Keys and values, each (b, kv_heads, m, head_dim)."""

    keys: Tensor
    values: Tensor


class Heads(NamedTuple):
    """How attention splits its width: query heads, key and value heads, features per head, and the scores' scale."""

    num: int
    num_kv: int
    dim: int
    scaled: bool = True

    @classmethod
    def of(cls, stack: Stack) -> Heads:
        """The heads of a stack's self-attention."""
        return cls(stack.num_heads, stack.num_kv_heads, stack.head_width, stack.scaled)


def make_norm(norm: Norm, dim: int) -> nn.Module:
    """LayerNorm or RMSNorm over the last dimension of x (..., dim)."""
    return nn.LayerNorm(dim, norm.eps) if norm.kind == "layer" else nn.RMSNorm(dim, norm.eps)


class Computed(nn.Module, ABC):
    """Buffers that are computed, not trained: `fill` is called once they are where they stay."""

    @abstractmethod
    def fill(self) -> None:
        """Compute the buffers, in float32 whatever the model's dtype."""


class RotaryTable(Computed):
    """Cosines and sines of RoPE for positions 0 .. length-1.

    The first half of the head's features pairs with the second half, as in the published checkpoints'
    transformers form; sines carry the sign of the rotation, so that one roll replaces two negations.

    Source: Su et al. 2021, arXiv 2104.09864, section 3.4.2.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, position: Rotary, head_dim: int, length: int) -> None:
        super().__init__()
        self.theta = position.theta
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.empty(length, head_dim), persistent=False)

    def fill(self) -> None:
        length, head_dim = self.cos.shape
        # Rounded as the official code rounds: the reciprocal of the power, not the power of the negative
        frequency = 1 / self.theta ** (torch.arange(0, head_dim, 2, device=self.cos.device).float() / head_dim)
        angle = torch.outer(torch.arange(length, device=self.cos.device).float(), frequency)
        self.cos.copy_(torch.cat([angle.cos(), angle.cos()], -1))
        self.sin.copy_(torch.cat([-angle.sin(), angle.sin()], -1))

    def table(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of `length` positions at least."""
        if length > len(self.cos):
            raise ValueError(f"{length} tokens exceed the {len(self.cos)} that have positions (context_len)")
        return self.cos, self.sin


class Rotation(NamedTuple):
    """Cosines and sines (n, head_dim) of the positions at hand, laid out as in `RotaryTable`."""

    cos: Tensor
    sin: Tensor

    def __call__(self, q: Tensor, k: Tensor, pos: int = 0) -> tuple[Tensor, Tensor]:
        """Rotate q, k (..., n, head_dim), whose first rows are row `pos`."""
        return rotate(q, k, self.cos, self.sin, pos)

    def table(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, of `length` positions at least."""
        return self


class RelativeBias(nn.Module):
    """T5's relative positions: a trained bias per head and bucket, (1, heads, n, m).

    Half the buckets are exact distances, the rest grow logarithmically up to `max_distance`. Where a query
    sees both sides, each side has half of the buckets; where it sees the past alone, that has them all.

    Source: Raffel et al. 2020, arXiv 1910.10683, section 2.1, and the official code.
    """

    def __init__(self, position: Relative, num_heads: int, *, causal: bool) -> None:
        super().__init__()
        self.sides = 1 if causal else 2
        self.buckets, self.max_distance = position.buckets // self.sides, position.max_distance
        self.embedding = nn.Embedding(position.buckets, num_heads)

    def forward(self, n: int, m: int) -> Tensor:
        """The bias of the last n of m positions to all m."""
        device = self.embedding.weight.device
        distance = torch.arange(m, device=device) - torch.arange(m - n, m, device=device)[:, None]
        exact = self.buckets // 2
        far = distance.abs()
        scaled = torch.log(far.float().clamp(min=1) / exact) / math.log(self.max_distance / exact)
        coarse = (exact + (scaled * (self.buckets - exact)).long()).clamp(max=self.buckets - 1)
        bucket = torch.where(far < exact, far, coarse)
        if self.sides == 2:
            bucket = bucket + (distance > 0).long() * self.buckets
        # Contiguous, since the fused kernels of a GPU take no other bias
        return rearrange(self.embedding(bucket), "n m heads -> 1 heads n m").contiguous()


class AxisEmbedding(nn.Module):
    """A trained vector per position of each axis; a token gets the sum of its own, (prod(axes), dim) in all."""

    def __init__(self, axes: Sequence[int], dim: int) -> None:
        super().__init__()
        self.axes = nn.ModuleList(nn.Embedding(length, dim) for length in axes)

    def forward(self, lengths: Sequence[int]) -> Tensor:
        """The vectors of the first `lengths` positions of each axis, row by row: (prod(lengths), dim)."""
        total: Tensor | None = None
        for axis, length in zip(self.axes, lengths, strict=True):
            own = axis.weight[:length]  # type: ignore[index]
            total = own if total is None else rearrange(total[:, None] + own, "a b d -> (a b) d")
        assert total is not None, "there is an axis"
        return total


class Attention(nn.Module):
    """Multi-head attention with its four projections, labelled by what attends to what.

    context_dim: width of what is attended to; role: "self", "cross", "spatial", "temporal" or "joint", of which
    "temporal" attends over f of x (b, f, n, d), the others over n; bias: which projections have one; make_norm: of a
    norm of queries and one of keys, over each head or all of them; None: there is neither.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: Heads,
        role: str,
        bias: Literal["none", "out", "all"] = "none",
        make_norm: Callable[[], nn.RMSNorm] | None = None,
    ) -> None:
        super().__init__()
        self.role, self.head_dim = role, heads.dim
        self.tokens, self.split = "... n (heads d)", "... heads n d"
        if role == "temporal":
            self.tokens, self.split = "b f n (heads d)", "b n heads f d"
        self.scale = heads.dim**-0.5 if heads.scaled else 1.0
        inner, kv_inner = heads.num * heads.dim, heads.num_kv * heads.dim
        self.to_q = nn.Linear(dim, inner, bias=bias == "all")
        self.to_k = nn.Linear(context_dim, kv_inner, bias=bias == "all")
        self.to_v = nn.Linear(context_dim, kv_inner, bias=bias == "all")
        self.to_out: nn.Module = nn.Linear(inner, dim, bias=bias != "none")
        self.q_norm, self.k_norm = (None, None) if make_norm is None else (make_norm(), make_norm())

    def project(self, context: Tensor) -> KV:
        """Keys and values of context (b, m, context_dim)."""
        with scope("attention", self.role):
            return KV(self.heads(self.to_k(context), self.k_norm), self.heads(self.to_v(context)))

    def forward(
        self,
        x: Tensor,
        kv: KV | None = None,
        *,
        cache: KV | None = None,
        pos: int = 0,
        rotary: RotaryTable | Rotation | None = None,
        causal: bool = False,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend from x (b, n, d), or (b, f, n, d), to itself, or to `kv`.

        cache: keys and values (b, kv_heads, capacity, head_dim) of the positions before `pos`; those of x are
        written into it at `pos`, and x attends to all up to its own.
        """
        with scope("attention", self.role):
            if kv is None:
                q, k, v = self.qkv(x)
                if rotary is not None and cache is not None:
                    q, k = rotate(q, k, *rotary.table(pos + q.shape[-2]), pos)
                kv = KV(k, v)
            else:
                q = self.heads(self.to_q(x), self.q_norm)
            if cache is None and rotary is not None:
                out = attention_rotated(q, *kv, *rotary.table(q.shape[-2]), causal=causal, bias=bias, scale=self.scale)
            elif cache is None:
                out = attention(q, *kv, causal=causal, bias=bias, scale=self.scale)
            else:
                out = attention_with_cache(q, *kv, *cache, pos, causal=causal, bias=bias, scale=self.scale)
            return self.to_out(rearrange(out, f"{self.split} -> {self.tokens}"))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x itself, each (b, heads, n, head_dim)."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        return self.heads(q, self.q_norm), self.heads(k, self.k_norm), self.heads(v)

    def heads(self, x: Tensor, norm: nn.RMSNorm | None = None) -> Tensor:
        """Split features, normed where there is a norm, into heads: (b, n, heads * d) -> (b, heads, n, d)."""
        if norm is not None:
            width = norm.normalized_shape[0]
            x = layer_norm(rearrange(x, "... (group width) -> ... group width", width=width), norm)
            x = rearrange(x, "... group width -> ... (group width)")
        return rearrange(x, f"{self.tokens} -> {self.split}", d=self.head_dim)


class MultiAxisAttention(Attention):
    """Self-attention over a square of tokens: half the heads inside its blocks, half between equal places of them.

    Source: Zhao et al. 2021 (HiT), arXiv 2106.07631, section 3.2, which Muse cites.
    """

    def __init__(self, stack: Stack, split: MultiAxis, bias: Literal["none", "out", "all"]) -> None:
        super().__init__(stack.dim, stack.dim, Heads.of(stack), "self", bias)
        self.sizes = {"h": split.side // split.block, "w": split.side // split.block, "p": split.block}

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """x: (b, n, d), n = side * side -> (b, n, d)."""
        with scope("attention", self.role):
            q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
            half = q.shape[-1] // 2
            inside, between = "b (h w) heads (p q) d", "b (p q) heads (h w) d"
            parts = []
            for pattern, features in ((inside, slice(0, half)), (between, slice(half, None))):
                split = [
                    rearrange(
                        y[..., features], f"b (h p w q) (heads d) -> {pattern}", **self.sizes, q=self.sizes["p"],
                        d=self.head_dim,
                    )
                    for y in (q, k, v)
                ]  # fmt: skip
                out = attention(*split, scale=self.scale)
                parts.append(rearrange(out, f"{pattern} -> b (h p w q) (heads d)", **self.sizes, q=self.sizes["p"]))
            return self.to_out(torch.cat(parts, dim=-1))


class FeedForward(nn.Module):
    """The MLP of a transformer layer: two matrices, or three where gated."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.name, self.activation = stack.activation, ACTIVATIONS[stack.activation]
        bias = stack.bias != "none"
        self.up = nn.Linear(stack.dim, stack.ff_dim, bias=bias)
        self.gate = nn.Linear(stack.dim, stack.ff_dim, bias=bias) if stack.gated else None
        self.down = nn.Linear(stack.ff_dim, stack.dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d) -> (..., d)."""
        with scope("feed_forward"):
            if self.gate is None:
                return self.down(self.activation(self.up(x)))
            if ours():
                return self.down(gated(self.gate(x), self.up(x), self.name))
            return self.down(self.activation(self.gate(x)) * self.up(x))


class Geglu(nn.Module):
    """An MLP with a value and a gate of `ff_dim`, 4 x dim where not given, from one projection."""

    def __init__(self, dim: int, ff_dim: int | None = None, *, bias: bool = True) -> None:
        super().__init__()
        ff_dim = ff_dim or 4 * dim
        self.up = nn.Linear(dim, 2 * ff_dim, bias=bias)
        self.down = nn.Linear(ff_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d) -> (..., d)."""
        with scope("feed_forward"):
            value, gate = self.up(x).chunk(2, dim=-1)
            return self.down(gated(gate, value, "gelu"))
