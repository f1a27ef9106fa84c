"""Calls of gated: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import glu as module

OPERATOR = "minimodels::gated"


def arguments(
    *shape: int, activation: str, halves: bool = True, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> tuple[Any, ...]:
    """Gate and value of `shape`, halves of one projection or two."""

    def draw(*sizes: int) -> Tensor:
        return (2 * torch.randn(sizes, dtype=torch.float32, device=device)).to(dtype)

    if halves:
        value, gate = draw(*shape[:-1], 2 * shape[-1]).chunk(2, dim=-1)
    else:
        value, gate = draw(*shape), draw(*shape)
    return gate, value, activation


SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "odd": ((3, 7, 37), {"activation": "gelu"}),
    "one row": ((1, 1, 24), {"activation": "silu"}),
    "one feature": ((5, 1), {"activation": "gelu_tanh"}),
    "wider than a tile, two projections": ((2, 3, 300), {"activation": "gelu_tanh", "halves": False}),
    "video": ((2, 3, 5, 16), {"activation": "gelu_quick"}),
    "relu, no batch": ((33,), {"activation": "relu"}),
}
LARGE = {
    "SD 1.5, 64 x 64": arguments(2, 4096, 1280, activation="gelu", device="meta"),
    "LLaMA 7B, decode": arguments(1, 1, 11008, activation="silu", halves=False, device="meta"),
    "Parti 20B, text": arguments(2, 128, 16384, activation="gelu_tanh", halves=False, device="meta"),
    "Make-A-Video, float16": arguments(2, 16, 4096, 1280, activation="gelu", dtype=torch.float16, device="meta"),
    "float32": arguments(2, 1024, 2560, activation="gelu_quick", dtype=torch.float32, device="meta"),
    "beyond 2^31": arguments(16, 65536, 1280, activation="gelu", device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    shape, options = SMALL[name]
    return arguments(*shape, **options, dtype=dtype)


__all__ = ["LARGE", "OPERATOR", "SMALL", "module", "small"]
