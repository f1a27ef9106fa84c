"""Calls of draw_token: awkward ones to run with given noise, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch

from minimodels.kernels import maskgit_step as module

OPERATOR = "minimodels::draw_token"
NARROW_STORES = True  # one token a row


def arguments(
    b: int, vocab: int, *, given: bool = True, rows: int = 1, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> tuple[Any, ...]:
    """Logits of the last of `rows` positions; given: noise, not a seed."""
    logits = (3 * torch.randn(b, rows, vocab, device=device)).to(dtype)[:, -1]
    noise = torch.empty(b, vocab, device=device).exponential_() if given else None
    return logits, noise, None if given else torch.empty((), dtype=torch.int64, device=device).random_(), 0.7


SMALL = {
    "odd": {"b": 3, "vocab": 37},
    "one row of several": {"b": 2, "vocab": 260, "rows": 3},
    "one token": {"b": 1, "vocab": 1},
    "more than a tile": {"b": 1, "vocab": 4500},
}
LARGE = {
    "LLaMA": arguments(1, 32000, given=False, device="meta"),
    "LLaMA, noise given": arguments(1, 32000, device="meta"),
    "Parti, float16": arguments(4, 8192, given=False, dtype=torch.float16, device="meta"),
    "a batch of 256": arguments(256, 32000, given=False, device="meta"),
    "float32": arguments(1, 32000, given=False, dtype=torch.float32, device="meta"),
    "beyond 2^31": arguments(65536, 32000, rows=2, given=False, device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    sizes = SMALL[name]
    return arguments(sizes["b"], sizes["vocab"], rows=sizes.get("rows", 1), dtype=dtype)


__all__ = ["LARGE", "NARROW_STORES", "OPERATOR", "SMALL", "module", "small"]
