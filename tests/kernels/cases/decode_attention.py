"""Calls of decode_attention: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import decode_attention as module
from tests.kernels.matrix_targets import TARGETS

OPERATOR = "minimodels::decode_attention"
NARROW = {  # a bias goes where its scores are; of few float32 keys a lane takes 8 bytes
    "64 queries a head, bias, 96": TARGETS, "32 queries a head, bias, 64, float32": ("gfx942",),
    "64, float32": ("gfx942",),
}  # fmt: skip


def arguments(
    b: int, heads: int, d: int, pos: int, capacity: int, *, n: int = 1, kv_heads: int | None = None,
    bias: tuple[int, ...] | None = None, position: int | None = None, dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """q, k, v as views of projections (b, n, heads d), caches (b, kv_heads, capacity, d); bias: its shape."""
    kv_heads = kv_heads or heads

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float32, device=device).to(dtype)

    q, k, v = (draw(b, n, count * d).unflatten(-1, (count, d)).transpose(1, 2) for count in (heads, kv_heads, kv_heads))
    caches = [draw(b, kv_heads, capacity, d) for _ in range(2)]
    at = None if position is None else torch.tensor([position], device=device)
    return q, k, v, *caches, None if bias is None else draw(*bias), at, pos, d**-0.5


SMALL = {
    "first token": {"b": 2, "heads": 3, "d": 24, "pos": 0, "capacity": 5},
    "last token, one tile": {"b": 1, "heads": 2, "d": 64, "pos": 30, "capacity": 31},
    "two shares": {"b": 1, "heads": 2, "d": 40, "pos": 270, "capacity": 300},
    "grouped keys, many shares": {"b": 1, "heads": 6, "kv_heads": 1, "d": 128, "pos": 200, "capacity": 210},
    "three queries, grouped keys": {"b": 1, "heads": 4, "kv_heads": 2, "n": 3, "d": 80, "pos": 150, "capacity": 200},
    "many queries": {"b": 2, "heads": 2, "n": 20, "d": 16, "pos": 7, "capacity": 40},
    "bias of heads, 160 features": {"b": 2, "heads": 2, "d": 160, "pos": 100, "capacity": 110, "bias": (1, 2, 1, 101)},
    "position on the device": {"b": 1, "heads": 2, "d": 128, "pos": 150, "capacity": 160, "position": 150},
    "position far below the largest": {"b": 1, "heads": 2, "d": 128, "pos": 150, "capacity": 160, "position": 3},
    "position beyond the largest": {"b": 1, "heads": 2, "d": 24, "pos": 20, "capacity": 31, "position": 25},
    "position zero, queries": {"b": 1, "heads": 2, "n": 2, "d": 20, "pos": 9, "capacity": 11, "position": 0},
}  # fmt: skip


def _large(*sizes: int, **options: Any) -> tuple[Any, ...]:
    return arguments(*sizes, **options, device="meta")


LARGE = {
    "Parti, 64": _large(2, 64, 64, 1000, 1024),
    "LLaMA-2 7B, 128": _large(1, 32, 128, 2000, 4096),
    "LLaMA-2 70B, grouped keys, 128, float16": _large(1, 64, 128, 4000, 4096, kv_heads=8, dtype=torch.float16),
    "four queries, grouped keys, position on the device": _large(1, 64, 128, 4000, 4096, n=4, kv_heads=8, position=0),
    "bias, 80": _large(2, 8, 80, 2000, 4096, bias=(1, 8, 1, 2001)),
    "160": _large(2, 8, 160, 2000, 4096),
    "256": _large(2, 8, 256, 2000, 4096),
    "128, 64-bit offsets": _large(256, 32, 128, 4000, 4096),
    "64 queries a head, bias, 96": _large(1, 8, 96, 2000, 4096, n=64, bias=(1, 8, 64, 2064), position=0),
    "32 queries a head, bias, 128, 64-bit offsets": _large(
        256, 32, 128, 4000, 4096, n=32, bias=(1, 32, 32, 4032), position=0
    ),
    "32 queries a head, bias, 192": _large(1, 8, 192, 2000, 4096, n=32, bias=(1, 8, 32, 2032), position=0),
    "16 queries a head, bias, 256": _large(1, 8, 256, 2000, 4096, n=16, bias=(1, 8, 16, 2016), position=0),
    "32 queries a head, bias, 64, float32": _large(
        1, 8, 64, 2000, 4096, n=32, bias=(1, 8, 32, 2032), position=0, dtype=torch.float32
    ),
    "64, float32": _large(2, 64, 64, 1000, 1024, dtype=torch.float32),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    return arguments(**SMALL[name], dtype=dtype)


__all__ = ["LARGE", "NARROW", "OPERATOR", "SMALL", "module", "small"]
