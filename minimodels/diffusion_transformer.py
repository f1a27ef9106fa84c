"""The diffusion transformer: patches of latents as tokens, through layers whose norms the time scales and shifts.

Three published networks are settings of it. DiT is told a class beside the time. FLUX has text as a second stream of
tokens, then one sequence of both. Wan takes video, attends to the text, and shares one modulation among all layers.

Shapes: x (b, c, h, w), in video (b, c, f, h, w); tokens (b, n, d), row by row, frame by frame; text (b, m, d); t what
all layers are told, (b, 1, d), or (b, 1, 6 d) where they share the projection of it.

Sources: Peebles and Xie 2022 (DiT), arXiv 2212.09748, and the official code; black-forest-labs/flux, official code;
Wan Team 2025 (Wan), arXiv 2503.20314, and the official code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import Attention, Computed, FeedForward, Heads, Rotation
from minimodels.checks import check_picture, check_told
from minimodels.dit_config import DiffusionTransformer as DiffusionTransformerConfig
from minimodels.dit_config import JointText, ModulatedStack, RotaryAxes, SinusoidalGrid
from minimodels.kernels.activations import ACTIVATIONS
from minimodels.kernels.attention import attention
from minimodels.kernels.fused import layer_norm
from minimodels.kernels.scope import scope
from minimodels.unet_blocks import Embedding, per_sample, timestep_features

GUIDANCE_FACTOR = 1000  # official code of FLUX: guidance is told as the time is, on a scale of a thousand


class GridPositions(Computed):
    """The positions of a square added to tokens x (b, n, d): sines then cosines of the column, then of the row.

    They are a parameter that is not trained, as in the official code, which counts them. Files leave them out.
    """

    def __init__(self, position: SinusoidalGrid, dim: int) -> None:
        super().__init__()
        self.side = position.side
        self.positions = nn.Parameter(torch.empty(position.side**2, dim), requires_grad=False)

    @torch.no_grad()
    def fill(self) -> None:
        dim, device = self.positions.shape[1], self.positions.device
        frequency = 10000.0 ** -(torch.arange(0, dim, 4, device=device, dtype=torch.float64) / dim)
        angle = torch.outer(torch.arange(self.side, device=device, dtype=torch.float64), frequency)
        along = torch.cat([angle.sin(), angle.cos()], dim=-1)
        column, row = (y.expand(self.side, self.side, -1) for y in (along, along[:, None]))
        self.positions.copy_(rearrange(torch.cat([column, row], dim=-1), "h w d -> (h w) d").float())

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.positions):
            raise ValueError(f"{x.shape[1]} tokens are given, this network has positions of {self.side} x {self.side}")
        return x + self.positions

    def _save_to_state_dict(self, destination: object, prefix: str, keep_vars: bool) -> None:
        """Nothing: they are computed."""

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        """Nothing."""


def rotations(position: RotaryAxes, grid: Sequence[int], text_len: int, like: Tensor) -> Rotation:
    """The rotation of every token: `text_len` at position 0 of every axis, then a grid (f, h, w), row by row.

    In float64, rounded once to float32, as the official codes do.
    """
    parts = []
    for axis, (length, width) in enumerate(zip(grid, position.axis_dims, strict=True)):
        exponent = torch.arange(0, width, 2, device=like.device, dtype=torch.float64) / width
        place = torch.arange(length, device=like.device, dtype=torch.float64)
        angle = torch.outer(place, position.theta**-exponent)
        shape = [1, 1, 1, -1]
        shape[axis] = length
        parts.append(angle.view(shape).expand(*grid, -1))
    angle = rearrange(torch.cat(parts, dim=-1), "f h w d -> (f h w) d")
    if text_len:
        angle = torch.cat([angle.new_zeros(text_len, angle.shape[1]), angle])
    cos, sin = angle.cos().float().to(like.dtype), angle.sin().float().to(like.dtype)
    return Rotation(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))


class Modulation(nn.Module):
    """`count` tensors (b, 1, d) of t: by a projection of its own, or t plus a table where the projection is shared."""

    def __init__(self, dim: int, count: int, *, shared: bool) -> None:
        super().__init__()
        self.count = count
        self.project = None if shared else nn.Linear(dim, count * dim)
        self.table = nn.Parameter(torch.empty(count, dim)) if shared else None

    def forward(self, t: Tensor) -> tuple[Tensor, ...]:
        told = self.project(t) if self.project is not None else t + cast(Tensor, self.table).flatten()
        return told.chunk(self.count, dim=-1)


def plain_norm(stack: ModulatedStack) -> nn.LayerNorm:
    """A norm that the modulation scales and shifts."""
    return nn.LayerNorm(stack.dim, stack.norm.eps, elementwise_affine=False)


def make_attention(config: DiffusionTransformerConfig, role: str) -> Attention:
    """An attention of a stack's width, with norms of queries and keys where the network has them."""
    stack, heads = config.stack, Heads.of(config.stack)
    width = heads.dim if config.query_norm == "head" else heads.num * heads.dim
    norm = partial(nn.RMSNorm, width, stack.norm.eps) if config.query_norm else None
    return Attention(stack.dim, stack.dim, heads, role, stack.bias, norm)


class Layer(nn.Module):
    """Self-attention, attention to text where it is `cross`, MLP; the first and the last modulated and gated."""

    def __init__(self, config: DiffusionTransformerConfig, role: str, *, cross: bool) -> None:
        super().__init__()
        stack = config.stack
        self.modulation = Modulation(stack.dim, 6, shared=config.modulation == "shared")
        self.self_norm, self.ff_norm = plain_norm(stack), plain_norm(stack)
        self.self_attention = make_attention(config, role)
        self.cross_norm = nn.LayerNorm(stack.dim, stack.norm.eps) if cross else None
        self.cross_attention = make_attention(config, "cross") if cross else None
        self.feed_forward = FeedForward(stack)

    def forward(self, x: Tensor, t: Tensor, rotation: Rotation | None, frames: int, text: Tensor | None) -> Tensor:
        """x: (b, n, d) of so many frames -> (b, n, d)."""
        shift, scale, *rest = self.modulation(t)
        h = layer_norm(x, self.self_norm, scale, shift)
        if self.self_attention.role in ("spatial", "temporal"):
            h = rearrange(h, "b (f n) d -> b f n d", f=frames)
            delta = rearrange(self.self_attention(h, rotary=rotation), "b f n d -> b (f n) d")
        else:
            delta = self.self_attention(h, rotary=rotation)
        return self.finish(x, delta, rest, text)

    def finish(self, x: Tensor, delta: Tensor, modulation: Sequence[Tensor], text: Tensor | None = None) -> Tensor:
        """What follows self-attention, whose result is `delta`."""
        gate, ff_shift, ff_scale, ff_gate = modulation
        x = torch.addcmul(x, gate, delta)
        if self.cross_attention is not None and self.cross_norm is not None:
            assert text is not None, "checked"
            x = x + self.cross_attention(layer_norm(x, self.cross_norm), self.cross_attention.project(text))
        return torch.addcmul(x, ff_gate, self.feed_forward(layer_norm(x, self.ff_norm, ff_scale, ff_shift)))


class JointLayer(nn.Module):
    """A layer for the image and one for the text, whose tokens all attend to all."""

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.text, self.image = (Layer(config, "joint", cross=False) for _ in range(2))

    def forward(self, text: Tensor, x: Tensor, t: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """text: (b, m, d), x: (b, n, d) -> the same."""
        streams = [(self.text, text, self.text.modulation(t)), (self.image, x, self.image.modulation(t))]
        normed = [layer_norm(y, own.self_norm, told[1], told[0]) for own, y, told in streams]
        with scope("attention", "joint"):
            split = [own.self_attention.qkv(h) for (own, _, _), h in zip(streams, normed, strict=True)]
            q, k, v = (torch.cat(both, dim=-2) for both in zip(*split, strict=True))
            out = attention(*rotation(q, k), v, scale=self.image.self_attention.scale)
            parts = rearrange(out, "b heads n d -> b n (heads d)").split([text.shape[1], x.shape[1]], dim=1)
            deltas = [own.self_attention.to_out(part) for (own, _, _), part in zip(streams, parts, strict=True)]
        text, x = (own.finish(y, d, told[2:]) for (own, y, told), d in zip(streams, deltas, strict=True))
        return text, x


class ParallelLayer(nn.Module):
    """Self-attention and MLP side by side, between one modulated norm and one gated projection."""

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        stack = config.stack
        self.modulation, self.norm = Modulation(stack.dim, 3, shared=False), plain_norm(stack)
        self.attention = make_attention(config, "joint")
        self.attention.to_out = nn.Identity()
        self.up, self.activation = nn.Linear(stack.dim, stack.ff_dim), ACTIVATIONS[stack.activation]
        self.to_out = nn.Linear(stack.num_heads * stack.head_width + stack.ff_dim, stack.dim)

    def forward(self, x: Tensor, t: Tensor, rotation: Rotation) -> Tensor:
        """x: (b, n, d) -> (b, n, d)."""
        shift, scale, gate = self.modulation(t)
        h = layer_norm(x, self.norm, scale, shift)
        out = self.attention(h, rotary=rotation)
        with scope("feed_forward"):
            out = torch.cat([out, self.activation(self.up(h))], dim=-1)
            return torch.addcmul(x, gate, self.to_out(out))


class DiffusionTransformer(nn.Module):
    """Noisy latents x (b, c, *axes), the time t (b,), and what it is told -> (b, out_channels, *axes)."""

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        stack, text, position = config.stack, config.text, config.stack.position
        dim, patch, joint = stack.dim, prod(config.patch), text if isinstance(text, JointText) else None
        self.enter = nn.Linear(config.in_channels * patch, dim)
        self.positions = GridPositions(position, dim) if isinstance(position, SinusoidalGrid) else None
        self.time = Embedding(config.time_dim, dim, "silu")
        self.guidance = Embedding(config.time_dim, dim, "silu") if config.guidance else None
        self.pooled = Embedding(config.pooled_dim, dim, "silu") if config.pooled_dim else None
        self.classes = nn.Embedding(config.classes + 1, dim) if config.classes else None
        self.shared = nn.Linear(dim, 6 * dim) if config.modulation == "shared" else None
        self.text: nn.Module | None = None
        if text is not None:
            self.text = nn.Linear(text.dim, dim) if joint else Embedding(text.dim, dim, "gelu_tanh")
        self.joint_layers = nn.ModuleList(JointLayer(config) for _ in range(0 if joint is None else joint.depth))
        self.layers = nn.ModuleList(
            ParallelLayer(config) if joint else Layer(config, role_of(config, index), cross=text is not None)
            for index in range(stack.depth)
        )
        self.modulation, self.norm = Modulation(dim, 2, shared=self.shared is not None), plain_norm(stack)
        self.leave = nn.Linear(dim, config.out_channels * patch)

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        text: Tensor | None = None,
        *,
        pooled: Tensor | None = None,
        classes: Tensor | None = None,
        guidance: Tensor | float | None = None,
    ) -> Tensor:
        """text: (b, m, text.dim); pooled: (b, pooled_dim); classes: (b,) of integers; guidance: one for each or all."""
        config, video = self.config, len(self.config.patch) == 3
        check_picture("x", x, config.in_channels, video=video)
        check_told("text", text, config.text and config.text.dim)
        vector = rearrange(self.vector(x, t, pooled, classes, guidance), "b d -> b 1 d")
        if any(length % size for length, size in zip(x.shape[2:], config.patch, strict=True)):
            raise ValueError(f"latents of {tuple(x.shape[2:])} cannot be cut into patches of {config.patch}")
        x, patch = (x, config.patch) if video else (rearrange(x, "b c h w -> b c 1 h w"), [1, *config.patch])
        grid = [length // size for length, size in zip(x.shape[2:], patch, strict=True)]
        sizes = dict(zip("tpq", patch, strict=True))
        tokens = self.enter(rearrange(x, "b c (f t) (h p) (w q) -> b (f h w) (c t p q)", **sizes))
        tokens = tokens if self.positions is None else self.positions(tokens)
        tokens = self.mix(tokens, vector, None if text is None or self.text is None else self.text(text), grid)
        told = F.silu(vector) if self.shared is None else torch.cat([vector, vector], dim=-1)
        shift, scale = self.modulation(told)
        out = self.leave(layer_norm(tokens, self.norm, scale, shift))
        out = rearrange(out, "b (f h w) (c t p q) -> b c (f t) (h p) (w q)", f=grid[0], h=grid[1], **sizes)
        return out if video else rearrange(out, "b c 1 h w -> b c h w")

    def vector(
        self,
        x: Tensor,
        t: Tensor | float,
        pooled: Tensor | None,
        classes: Tensor | None,
        guidance: Tensor | float | None,
    ) -> Tensor:
        """What all layers are told, (b, d): the sum of the embedded time, guidance, text and class."""
        check_told("pooled", pooled, self.config.pooled_dim)
        for what, given, known in (("classes", classes, self.classes), ("guidance", guidance, self.guidance)):
            check_told(what, given, None if known is None else 0)
        width = self.config.time_dim
        total = self.time(timestep_features(per_sample(t, x), width).to(x.dtype))
        if self.guidance is not None and guidance is not None:
            features = timestep_features(per_sample(GUIDANCE_FACTOR * guidance, x), width).to(x.dtype)
            total = total + self.guidance(features)
        if self.pooled is not None:
            total = total + self.pooled(pooled)
        return total if self.classes is None else total + self.classes(classes)

    def mix(self, x: Tensor, vector: Tensor, text: Tensor | None, grid: Sequence[int]) -> Tensor:
        """All layers: tokens x (b, n, d) of a grid (f, h, w), vector (b, 1, d), text (b, m, d) -> (b, n, d)."""
        t, position, (frames, *sides) = F.silu(vector), self.config.stack.position, grid
        t = t if self.shared is None else self.shared(t)
        if text is not None and self.joint_layers:
            assert isinstance(position, RotaryAxes), "checked"
            rotation = rotations(position, grid, text.shape[1], x)
            both = text, x
            for layer in self.joint_layers:
                both = layer(*both, t, rotation)
            x = torch.cat(both, dim=1)
            for layer in self.layers:
                x = layer(x, t, rotation)
            return x[:, text.shape[1] :]
        rotation = rotations(position, grid, 0, x) if isinstance(position, RotaryAxes) else None
        place = prod(sides)
        of_role = {}  # the others turn all alike
        if rotation is not None and self.config.attention == "factorised":
            of_role["spatial"] = Rotation(*(table[:place] for table in rotation))
            of_role["temporal"] = Rotation(*(table[::place].contiguous() for table in rotation))
        for layer in cast("Sequence[Layer]", self.layers):
            x = layer(x, t, of_role.get(layer.self_attention.role, rotation), frames, text)
        return x


def role_of(config: DiffusionTransformerConfig, index: int) -> str:
    """What the self-attention of a layer is over: "self" of an image, "joint" of space and time at once, or in turn."""
    if config.attention == "factorised":
        return ("spatial", "temporal")[index % 2]
    return "joint" if len(config.patch) == 3 else "self"
