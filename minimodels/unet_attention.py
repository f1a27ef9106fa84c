"""Attention in a UNet: pixels as tokens through transformer blocks, to themselves and to text; texts pooled.

Shapes: x (b, c, h, w) features; context (b, m, context_dim) text features; tokens (b, h w, c).

Source: Rombach et al. 2022, arXiv 2112.10752 (`SpatialTransformer`); Saharia et al. 2022, arXiv 2205.11487.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import KV, Attention, Geglu, Heads
from minimodels.kernels.attention import attention
from minimodels.kernels.fused import Residual, add_norm, group_norm, layer_norm
from minimodels.kernels.scope import scope
from minimodels.unet_blocks import PointConv, to_pixels
from minimodels.unet_config import (
    AppendedAttention,
    LayerTextNorm,
    LevelAttention,
    TransformerAttention,
    UNet,
)


class TextPooling(nn.Module):
    """Text features pooled by attention of their mean over them: (b, m, text_dim) -> (b, time_dim).

    Source: Imagen, appendix F.1 ("attention pooling"), in the form DeepFloyd IF published.
    """

    def __init__(self, text_dim: int, time_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_in = nn.LayerNorm(text_dim)
        self.position = nn.Parameter(torch.empty(1, text_dim))
        self.to_q, self.to_k, self.to_v = (nn.Linear(text_dim, text_dim) for _ in range(3))
        self.project = nn.Linear(text_dim, time_dim)
        self.norm_out = nn.LayerNorm(time_dim)

    def forward(self, text: Tensor) -> Tensor:
        with scope("attention", "cross"):
            text = layer_norm(text, self.norm_in)
            mean = text.mean(dim=1, keepdim=True) + self.position
            text = torch.cat([mean, text], dim=1)
            heads = "b n (heads d) -> b heads n d"
            q, k, v = (
                rearrange(to(x), heads, heads=self.num_heads)
                for to, x in ((self.to_q, mean), (self.to_k, text), (self.to_v, text))
            )
            pooled = rearrange(attention(q, k, v), "b heads 1 d -> b (heads d)")
        return layer_norm(self.project(pooled), self.norm_out)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, GEGLU, each after a LayerNorm and added to its input.

    A second text is attended to by the same queries, its keys and values beside those of the first.
    """

    def __init__(self, dim: int, num_heads: int, config: UNet) -> None:
        super().__init__()
        assert config.context_dim is not None, "checked by the config"
        heads, second = Heads(num_heads, num_heads, dim // num_heads), config.second_context_dim
        self.self_norm, self.cross_norm, self.ff_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.self_attention = Attention(dim, dim, heads, own_role(config), bias="out")
        self.cross_attention = Attention(dim, config.context_dim, heads, "cross", bias="out")
        self.second_k, self.second_v = (nn.Linear(second, dim, bias=False) if second else None for _ in range(2))
        self.feed_forward = Geglu(dim)

    def forward(self, x: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """x: (b, n, d), context: one or two texts (b, m, context_dim) -> (b, n, d)."""
        x, h = add_norm(x, self.self_attention(layer_norm(x, self.self_norm)), self.cross_norm)
        x, h = add_norm(x, self.cross_attention(h, self._texts(context)), self.ff_norm)
        return x + self.feed_forward(h)

    def _texts(self, context: tuple[Tensor, ...]) -> KV:
        attention = self.cross_attention
        kv = attention.project(context[0])
        if self.second_k is None or self.second_v is None:
            return kv
        with scope("attention", "cross"):
            k, v = attention.heads(self.second_k(context[1])), attention.heads(self.second_v(context[1]))
            return KV(torch.cat([kv.keys, k], dim=2), torch.cat([kv.values, v], dim=2))


class SpatialTransformer(nn.Module):
    """Pixels as tokens through transformer blocks (latent diffusion): (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, config: UNet, channels: int, attention: TransformerAttention) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, channels, 1e-6)
        make = nn.Linear if config.projection == "linear" else PointConv
        self.enter, self.leave = make(channels, channels), make(channels, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, attention.num_heads, config) for _ in range(attention.depth)
        )

    def forward(self, x: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        residual, to_tokens = x, "b c h w -> b (h w) c"
        with scope("transformer"):
            x = group_norm(x, self.norm)
            if isinstance(self.enter, PointConv):
                x = rearrange(self.enter(x), to_tokens).contiguous()  # once, not in every norm
            else:
                x = self.enter(rearrange(x, to_tokens))
            for block in self.blocks:
                x = block(x, context)
            if isinstance(self.leave, PointConv):
                return self.leave(to_pixels(x, residual), Residual(residual))
            return residual + to_pixels(self.leave(x), residual)


class TextAppendedAttention(nn.Module):
    """Self-attention over pixels, to whose keys and values those of the text, if there is one, are prepended.

    Where it is `only_text`, pixels attend to the text alone.

    Source: Imagen, section 2.4 and appendix D.3.1; GLIDE's and DeepFloyd IF's code.
    """

    def __init__(self, config: UNet, channels: int, attention: AppendedAttention) -> None:
        super().__init__()
        heads = Heads(attention.num_heads, attention.num_heads, channels // attention.num_heads)
        width, self.only_text = config.context_dim, attention.only_text
        self.role = "cross" if self.only_text else own_role(config)
        self.norm = nn.GroupNorm(config.norm_groups, channels, config.norm_eps)
        self.text_norm = _text_norm(attention, width, config.norm_eps) if width else None
        source = width if self.only_text and width else channels
        self.attention = Attention(channels, source, heads, self.role, bias="all")
        appended = None if self.only_text else width
        self.text_k, self.text_v = (nn.Linear(appended, channels) if appended else None for _ in range(2))

    def forward(self, x: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        tokens = rearrange(group_norm(x, self.norm), "b c h w -> b (h w) c")
        tokens = tokens.contiguous()  # once, not in every projection
        return x + to_pixels(self.attention(tokens, self._keys(tokens, context)), x)

    def _keys(self, tokens: Tensor, context: tuple[Tensor, ...]) -> KV | None:
        with scope("attention", self.role):
            if self.only_text:
                return self.attention.project(self._normed(context[0]))
            if self.text_k is None or self.text_v is None:
                return None
            own, text = self.attention.project(tokens), self._normed(context[0])
            k, v = self.attention.heads(self.text_k(text)), self.attention.heads(self.text_v(text))
            return KV(torch.cat([k, own.keys], dim=2), torch.cat([v, own.values], dim=2))

    def _normed(self, text: Tensor) -> Tensor:
        if self.text_norm is None:
            return text
        if isinstance(self.text_norm, nn.LayerNorm):
            return layer_norm(text, self.text_norm)
        return rearrange(self.text_norm(rearrange(text, "b m d -> b d m")), "b d m -> b m d")


def _text_norm(attention: AppendedAttention, width: int, eps: float) -> nn.Module | None:
    """The norm of a text (b, m, width), where the attention has one."""
    if isinstance(attention.text_norm, LayerTextNorm):
        return nn.LayerNorm(width, eps)
    return None if attention.text_norm is None else nn.GroupNorm(attention.text_norm.groups, width, eps)


def own_role(config: UNet) -> str:
    """What attention of pixels to pixels is called: "self", in a video "spatial"."""
    return "self" if config.temporal is None else "spatial"


def make_attention(config: UNet, channels: int, attention: LevelAttention) -> nn.Module:
    """The attention of a level: (b, c, h, w), context -> (b, c, h, w)."""
    if isinstance(attention, AppendedAttention):
        return TextAppendedAttention(config, channels, attention)
    return SpatialTransformer(config, channels, attention)
