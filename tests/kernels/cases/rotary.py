"""Calls of rotate: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import rotary as module
from tests.kernels.matrix_targets import TARGETS

OPERATOR = "minimodels::rotate"
NARROW = {"40 features": TARGETS}  # halves of 20 begin 40 bytes apart


def arguments(
    b: int, heads: int, kv_heads: int, n: int, d: int, *, split: bool = True, pos: int = 0,
    dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """q, k as heads of projections (b, n, heads d), or of tensors of their own; the table from position `pos`."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float32, device=device).to(dtype)

    if split:
        q, k = (draw(b, n, count * d).unflatten(-1, (count, d)).transpose(1, 2) for count in (heads, kv_heads))
    else:
        q, k = draw(b, heads, n, d), draw(b, kv_heads, n, d)
    cos, sin = (draw(pos + n, d)[pos:] for _ in range(2))
    return q, k, cos, sin


SMALL = {
    "odd": {"b": 2, "heads": 3, "kv_heads": 3, "n": 7, "d": 24},
    "one token, later position": {"b": 1, "heads": 4, "kv_heads": 2, "n": 1, "d": 16, "pos": 5},
    "40 features, batch 1": {"b": 1, "heads": 2, "kv_heads": 1, "n": 9, "d": 40},
    "two features": {"b": 3, "heads": 1, "kv_heads": 1, "n": 5, "d": 2},
    "160 features, heads apart": {"b": 2, "heads": 2, "kv_heads": 1, "n": 3, "d": 160, "split": False},
}
LARGE = {
    "LLaMA 7B, prefill": arguments(1, 32, 32, 2048, 128, device="meta"),
    "LLaMA 70B, decode": arguments(1, 64, 8, 1, 128, device="meta"),
    "80 features, float16": arguments(2, 16, 16, 1024, 80, dtype=torch.float16, device="meta"),
    "40 features": arguments(2, 8, 8, 4096, 40, device="meta"),
    "float32": arguments(2, 12, 12, 1024, 64, dtype=torch.float32, device="meta"),
    "beyond 2^31": arguments(128, 64, 64, 4096, 128, device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    return arguments(**SMALL[name], dtype=dtype)


__all__ = ["LARGE", "NARROW", "OPERATOR", "SMALL", "module", "small"]
