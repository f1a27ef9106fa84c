"""aMUSEd's network: fills in masked tokens by a transformer between two stages of convolutions.

Every stage alternates ConvNeXt blocks and two cross-attentions to the text; with `resample`, the first halves and
the second doubles the side of the grid. Norms of the transformer are scaled and shifted by a vector: the pooled
text beside sinusoids of sizes, crop and aesthetic score.

Shapes: tokens (b, h, w); x (b, c, h, w) in the stages, (b, n, d) in the transformer; t the vector (b, d),
with ones between for the grid or the tokens.

Source: Patil et al. 2024, aMUSEd, arXiv 2401.01808, section 3; blocks of Woo et al. 2023, ConvNeXt V2, arXiv
2301.00808. The constant 1e-6 of the stages' norms: official code.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import KV, Attention, Geglu, Heads
from minimodels.checks import check_count, check_features, check_tokens
from minimodels.kernels.fused import layer_norm
from minimodels.kernels.layout import laid_like
from minimodels.kernels.scope import scope
from minimodels.token_config import UVit as UVitConfig
from minimodels.unet_blocks import timestep_features, to_pixels

EPS = 1e-6


class UVitContext(NamedTuple):
    """What tokens are to show, computed once for all steps: the vector, keys and values of each cross-attention."""

    vector: Tensor
    down: tuple[KV, ...]
    layers: tuple[KV, ...]
    up: tuple[KV, ...]


class Modulation(nn.Linear):
    """Scales and shifts x (b, ..., channels) by a projection of the activated vector t (b, 1.., dim)."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__(dim, 2 * channels, bias=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        scale, shift = super().forward(F.silu(t)).chunk(2, dim=-1)
        return x * (1 + scale) + shift


class ResponseNorm(nn.Module):
    """Scales channels by their norm over the grid, in proportion to its mean: (b, h, w, c) -> (b, h, w, c).

    Source: ConvNeXt V2, section 3.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        return torch.addcmul(self.bias, self.weight, x * (size / (size.mean(dim=-1, keepdim=True) + EPS))) + x


class ConvNextBlock(nn.Module):
    """Depthwise convolution, norm, an MLP over channels, added to x and modulated: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, config: UVitConfig) -> None:
        super().__init__()
        channels = config.channels
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.RMSNorm(channels, config.norm_eps)
        self.up, self.down = (
            nn.Linear(channels, 4 * channels, bias=False),
            nn.Linear(4 * channels, channels, bias=False),
        )
        self.response = ResponseNorm(4 * channels)
        self.modulation = Modulation(config.dim, channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: (b, c, h, w), t: (b, 1, 1, d) -> (b, c, h, w)."""
        with scope("res_block"):
            h = layer_norm(rearrange(self.depthwise(x), "b c h w -> b h w c"), self.norm)
            h = self.down(self.response(F.gelu(self.up(h))))
            h = self.modulation(h + rearrange(x, "b c h w -> b h w c"), t)
            return laid_like(rearrange(h, "b h w c -> b c h w"), x)


class TextBlock(nn.Module):
    """Two cross-attentions to the text, each added to its input: (b, n, channels) -> (b, n, channels)."""

    def __init__(self, config: UVitConfig) -> None:
        super().__init__()
        channels, heads = config.channels, config.stage_heads
        self.text = nn.Linear(config.dim, channels, bias=False) if config.dim != channels else None
        split = Heads(heads, heads, channels // heads)
        self.norms = nn.ModuleList(nn.RMSNorm(channels, EPS) for _ in range(2))
        self.attentions = nn.ModuleList(Attention(channels, channels, split, "cross") for _ in range(2))

    def context(self, text: Tensor) -> list[KV]:
        """Keys and values of both attentions for text (b, m, dim)."""
        text = text if self.text is None else self.text(F.silu(text))
        return [cast(Attention, attention).project(text) for attention in self.attentions]

    def forward(self, x: Tensor, first: KV, second: KV) -> Tensor:
        for norm, attention, kv in zip(self.norms, self.attentions, (first, second), strict=True):
            x = x + attention(layer_norm(x, norm), kv)
        return x


class Resample(nn.Module):
    """A norm and a convolution that halves the side, or doubles it: (b, c, h, w) -> (b, c, h', w')."""

    def __init__(self, config: UVitConfig, kind: type[nn.Conv2d | nn.ConvTranspose2d]) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.channels, config.norm_eps)
        self.conv = kind(config.channels, config.channels, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with scope("resample"):
            h = rearrange(layer_norm(rearrange(x, "b c h w -> b h w c"), self.norm), "b h w c -> b c h w")
            return self.conv(laid_like(h, x))


class UVitStage(nn.Module):
    """Convolution blocks and attention to the text in turn: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, config: UVitConfig) -> None:
        super().__init__()
        self.conv_blocks = nn.ModuleList(ConvNextBlock(config) for _ in range(config.res_blocks))
        self.text_blocks = nn.ModuleList(TextBlock(config) for _ in range(config.res_blocks))

    def context(self, text: Tensor) -> tuple[KV, ...]:
        """Keys and values of all its attentions."""
        return tuple(kv for block in self.text_blocks for kv in cast(TextBlock, block).context(text))

    def forward(self, x: Tensor, t: Tensor, cross: tuple[KV, ...]) -> Tensor:
        for index, (conv, text) in enumerate(zip(self.conv_blocks, self.text_blocks, strict=True)):
            x = conv(x, t)
            tokens = text(rearrange(x, "b c h w -> b (h w) c"), *cross[2 * index : 2 * index + 2])
            x = to_pixels(tokens, x)
        return x


class UVitLayer(nn.Module):
    """Self-attention, cross-attention to the text, GEGLU, each after a modulated norm and added to its input."""

    def __init__(self, config: UVitConfig) -> None:
        super().__init__()
        dim, heads = config.dim, Heads(config.num_heads, config.num_heads, config.dim // config.num_heads)
        self.self_norm, self.cross_norm = (nn.RMSNorm(dim, config.norm_eps) for _ in range(2))
        self.ff_norm = nn.LayerNorm(dim, config.norm_eps, bias=False)
        self.self_modulation, self.cross_modulation, self.ff_modulation = (Modulation(dim, dim) for _ in range(3))
        self.self_attention = Attention(dim, dim, heads, "self")
        self.cross_attention = Attention(dim, dim, heads, "cross")
        self.feed_forward = Geglu(dim, config.ff_dim, bias=False)

    def forward(self, x: Tensor, t: Tensor, cross: KV) -> Tensor:
        """x: (b, n, d), t: (b, 1, d) -> (b, n, d)."""
        x = x + self.self_attention(self.self_modulation(layer_norm(x, self.self_norm), t))
        x = x + self.cross_attention(self.cross_modulation(layer_norm(x, self.cross_norm), t), cross)
        return x + self.feed_forward(self.ff_modulation(layer_norm(x, self.ff_norm), t))


class UVit(nn.Module):
    """Tokens (b, h, w), the mask among them, and what they are to show -> logits (b, codebook_size, h, w)."""

    def __init__(self, config: UVitConfig) -> None:
        super().__init__()
        self.told, self.resample = config.vector, config.resample
        dim, channels, eps = config.dim, config.channels, config.norm_eps
        self.text, self.text_norm = nn.Linear(config.text_dim, dim, bias=False), nn.RMSNorm(dim, eps)
        self.vector = nn.Sequential(
            nn.Linear(config.vector.dim, dim, bias=False), nn.SiLU(), nn.Linear(dim, dim, bias=False)
        )
        self.embedding = nn.Embedding(config.vocab, config.embedding_dim)
        self.enter_norm = nn.RMSNorm(config.embedding_dim, eps)
        self.enter = nn.Conv2d(config.embedding_dim, channels, 1, bias=False)
        self.shrink = Resample(config, nn.Conv2d) if config.resample else nn.Identity()
        self.down = UVitStage(config)
        self.to_layers_norm, self.to_layers = nn.RMSNorm(channels, eps), nn.Linear(channels, dim, bias=False)
        self.layers = nn.ModuleList(UVitLayer(config) for _ in range(config.depth))
        self.from_layers_norm, self.from_layers = nn.RMSNorm(dim, eps), nn.Linear(dim, channels, bias=False)
        self.up = UVitStage(config)
        self.grow = Resample(config, nn.ConvTranspose2d) if config.resample else nn.Identity()
        self.leave = nn.Conv2d(channels, config.embedding_dim, 1, bias=False)
        self.leave_norm = nn.RMSNorm(config.embedding_dim, eps)
        self.head = nn.Conv2d(config.embedding_dim, config.codebook_size, 1, bias=False)

    def context(self, text: Tensor, pooled: Tensor, numbers: Tensor) -> UVitContext:
        """Text features (b, m, text_dim), pooled text (b, pooled_dim), sizes, crop and score (b, numbers)."""
        check_features("text", text, self.text.in_features)
        check_features("pooled", pooled, self.told.pooled_dim)
        check_features("numbers", numbers, self.told.numbers)
        features = rearrange(
            timestep_features(numbers.flatten(), self.told.number_dim), "(b n) d -> b (n d)", b=len(text)
        )
        vector = self.vector(torch.cat([pooled, features.to(pooled.dtype)], dim=1))
        text = layer_norm(self.text(text), self.text_norm)
        layers = tuple(cast(UVitLayer, layer).cross_attention.project(text) for layer in self.layers)
        return UVitContext(vector, self.down.context(text), layers, self.up.context(text))

    def forward(self, tokens: Tensor, context: UVitContext) -> Tensor:
        """context: what `context` makes of a text, once for all steps."""
        check_tokens(tokens, "(b, h, w)")
        check_count("samples", len(tokens), len(context.vector), "as many as the context is of")
        if self.resample and (tokens.shape[1] % 2 or tokens.shape[2] % 2):
            raise ValueError(f"tokens are {tokens.shape[1]} x {tokens.shape[2]}: both sides must be even")
        t = rearrange(context.vector, "b d -> b 1 d")
        place = rearrange(t, "b 1 d -> b 1 1 d")
        x = rearrange(layer_norm(self.embedding(tokens), self.enter_norm), "b h w c -> b c h w")
        x = self.enter(laid_like(x, self.enter.weight))
        x = self.down(self.shrink(x), place, context.down)
        height = x.shape[2]
        with scope("transformer"):
            x = self.to_layers(layer_norm(rearrange(x, "b c h w -> b (h w) c"), self.to_layers_norm))
            for layer, cross in zip(self.layers, context.layers, strict=True):
                x = layer(x, t, cross)
            x = self.from_layers(layer_norm(x, self.from_layers_norm))
        x = laid_like(rearrange(x, "b (h w) c -> b c h w", h=height), self.leave.weight)
        x = self.up(x, place, context.up)
        x = rearrange(self.leave(self.grow(x)), "b c h w -> b h w c")
        return self.head(laid_like(rearrange(layer_norm(x, self.leave_norm), "b h w c -> b c h w"), self.head.weight))
