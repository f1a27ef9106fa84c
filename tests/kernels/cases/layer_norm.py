"""Calls of layer_norm: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import layer_norm as module

OPERATOR = "minimodels::layer_norm"


def arguments(
    *shape: int, rms: bool = False, plain: bool = False, modulated: int = 0, mean: float = 0.5, sum_: bool = False,
    dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """x of `shape`; plain: without weight; modulated: rows of scale and shift; sum_: with something to add."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float32, device=device)

    x, width = (draw(*shape) + mean).to(dtype), shape[-1]
    weight = None if plain else draw(width).to(dtype)
    bias = None if plain or rms else draw(width).to(dtype)
    scale, shift = ((0.3 * draw(modulated, width)).to(dtype) if modulated else None for _ in range(2))
    added = (draw(*shape).to(dtype),) if sum_ else ()
    return x, *added, weight, bias, scale, shift, 1e-5, rms


SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "odd": ((3, 5, 37), {}),
    "one feature": ((4, 1), {"rms": True}),
    "one row": ((1, 320), {}),
    "RMS": ((2, 9, 96), {"rms": True}),
    "no weight, modulated per sample": ((2, 7, 48), {"plain": True, "modulated": 2}),
    "modulated per token": ((2, 3, 40), {"modulated": 6}),
    "far from zero": ((2, 5, 128), {"mean": 1000.0}),
    "wider than is held": ((2, 8200), {}),
    "wider than is held, RMS, modulated": ((2, 9000), {"rms": True, "modulated": 2}),
}
SIZES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "SD 1.5, 4,096 x 320": ((2, 4096, 320), {}),
    "SDXL, 1,024 x 1,280": ((2, 1024, 1280), {}),
    "LLaMA-2, RMS, 2,048 x 4,096": ((2048, 4096), {"rms": True}),
    "LLaMA-2 70B, RMS, one token": ((1, 8192), {"rms": True}),
    "adaLN, 1,152": ((2, 256, 1152), {"plain": True, "modulated": 2}),
    "32,768 features, float32": ((16, 32768), {"dtype": torch.float32}),
    "beyond 2^31": ((1 << 20, 4096), {"rms": True}),
}
LARGE = {name: arguments(*shape, **options, device="meta") for name, (shape, options) in SIZES.items()}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    shape, options = SMALL[name]
    return arguments(*shape, **options, dtype=dtype)


__all__ = ["LARGE", "OPERATOR", "SMALL", "arguments", "module", "small"]
