"""Calls of temporal_attention: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import temporal_attention as module

OPERATOR = "minimodels::temporal_attention"
NARROW = {"16 frames, 128, causal, bias, rotary": ("gfx942",)}  # loaded as matrix instructions take it
UNTRAINED = (4, 5)  # rotary tables: asking for their gradient is an error


def arguments(
    b: int, p: int, heads: int, n: int, d: int, *, m: int | None = None, kv_heads: int | None = None,
    causal: bool = False, bias: tuple[int, ...] | None = None, rotary: bool = False,
    dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """q, k, v as views of projections (b, f, p, heads d); bias: its shape."""
    m, kv_heads = m or n, kv_heads or heads

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float32, device=device).to(dtype)

    q, k, v = (
        draw(b, length, p, count * d).unflatten(-1, (count, d)).permute(0, 2, 3, 1, 4)
        for count, length in ((heads, n), (kv_heads, m), (kv_heads, m))
    )
    cos, sin = (draw(m + 2, d), draw(m + 3, d)) if rotary else (None, None)
    return q, k, v, None if bias is None else draw(*bias), cos, sin, causal, d**-0.5


SMALL = {
    "odd everything": {"b": 2, "p": 5, "heads": 3, "n": 7, "d": 24},
    "one frame": {"b": 2, "p": 3, "heads": 2, "n": 1, "d": 16},
    "one position": {"b": 1, "p": 1, "heads": 2, "n": 16, "d": 64},
    "40 features, causal": {"b": 1, "p": 6, "heads": 2, "n": 16, "d": 40, "causal": True},
    "80 features, bias": {"b": 1, "p": 3, "heads": 2, "n": 9, "d": 80, "bias": (2, 9, 9)},
    "160 features": {"b": 1, "p": 2, "heads": 2, "n": 5, "d": 160},
    "100 features, two blocks of queries, rotary": {"b": 1, "p": 2, "heads": 2, "n": 29, "d": 100, "rotary": True},
    "rotary, causal, fewer queries": {"b": 2, "p": 3, "heads": 2, "n": 3, "m": 11, "d": 20, "rotary": True,
        "causal": True},
    "bias of every position, causal": {"b": 2, "p": 3, "heads": 2, "n": 6, "d": 32, "bias": (2, 3, 2, 6, 6),
        "causal": True},
    "grouped keys": {"b": 1, "p": 3, "heads": 6, "kv_heads": 2, "n": 5, "d": 16},
    "33 frames": {"b": 1, "p": 2, "heads": 2, "n": 33, "d": 32, "causal": True},
    "76 frames": {"b": 1, "p": 2, "heads": 1, "n": 76, "d": 64, "bias": (1, 76, 76)},
    "128 keys, 100 queries, rotary": {"b": 1, "p": 1, "heads": 2, "n": 100, "m": 128, "d": 48, "rotary": True,
        "causal": True},
}  # fmt: skip
LARGE = {
    "16 frames, 64": arguments(2, 4096, 8, 16, 64, device="meta"),
    "16 frames, 64, float16, causal, bias, rotary": arguments(
        2, 4096, 8, 16, 64, causal=True, bias=(8, 16, 16), rotary=True, dtype=torch.float16, device="meta"
    ),
    "16 frames, 128, causal, bias, rotary": arguments(
        2, 1024, 8, 16, 128, causal=True, bias=(8, 16, 16), rotary=True, device="meta"
    ),
    "32 frames, 128, causal, bias, rotary": arguments(
        2, 1024, 8, 32, 128, causal=True, bias=(8, 32, 32), rotary=True, device="meta"
    ),
    "76 frames, 64, causal, bias, rotary": arguments(
        1, 4096, 8, 76, 64, causal=True, bias=(8, 76, 76), rotary=True, device="meta"
    ),
    "64 frames, 128, causal, bias, rotary": arguments(
        1, 1024, 8, 64, 128, causal=True, bias=(8, 64, 64), rotary=True, device="meta"
    ),
    "24 frames, 64, float32, causal, bias, rotary": arguments(
        1, 1024, 8, 24, 64, causal=True, bias=(8, 24, 24), rotary=True, dtype=torch.float32, device="meta"
    ),
    "16 frames, 40": arguments(2, 4096, 8, 16, 40, device="meta"),
    "16 frames, 80": arguments(2, 1024, 8, 16, 80, device="meta"),
    "16 frames, 160": arguments(2, 256, 8, 16, 160, device="meta"),
    "24 frames, 64": arguments(2, 4096, 5, 24, 64, device="meta"),
    "76 frames, 64": arguments(1, 4096, 8, 76, 64, device="meta"),
    "76 frames, 128, 64-bit offsets": arguments(4, 65536, 8, 76, 128, device="meta"),
    "16 frames, 64, float32": arguments(2, 4096, 8, 16, 64, dtype=torch.float32, device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    return arguments(**SMALL[name], dtype=dtype)


__all__ = ["LARGE", "NARROW", "OPERATOR", "SMALL", "UNTRAINED", "module", "small"]
