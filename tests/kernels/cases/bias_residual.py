"""Calls of bias_residual: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import bias_residual as module

OPERATOR = "minimodels::bias_residual"


def arguments(
    *shape: int, residual: bool = False, biased: bool = False, divisor: float | None = None,
    dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """x of shape (b, c, *pixels) channels last; biased: the residual lacks its bias, too."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float32, device=device).to(dtype)

    def pixels() -> Tensor:
        return draw(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

    channels = shape[1]
    more = draw(channels) if biased else None
    return pixels(), draw(channels), pixels() if residual else None, more, divisor


SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "odd": ((2, 5, 3, 7), {"residual": True}),
    "one pixel": ((3, 12, 1, 1), {}),
    "one channel": ((1, 1, 5, 3), {"residual": True, "divisor": 2.0}),
    "shortcut with its bias, several programs": ((2, 40, 9, 11), {"residual": True, "biased": True, "divisor": 2**0.5}),
    "video": ((1, 24, 3, 4, 5), {"residual": True}),
}
LARGE = {
    "SD 1.5, bias": arguments(2, 320, 64, 64, device="meta"),
    "SD 1.5, residual": arguments(2, 1280, 16, 16, residual=True, device="meta"),
    "SD 1.5, shortcut with its bias": arguments(2, 640, 32, 32, residual=True, biased=True, device="meta"),
    "KL decoder, float16": arguments(1, 128, 512, 512, residual=True, dtype=torch.float16, device="meta"),
    "divided, float32": arguments(2, 512, 32, 32, residual=True, divisor=2**0.5, dtype=torch.float32, device="meta"),
    "beyond 2^31": arguments(76, 640, 256, 256, residual=True, biased=True, device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    shape, options = SMALL[name]
    return arguments(*shape, **options, dtype=dtype)


__all__ = ["LARGE", "OPERATOR", "SMALL", "module", "small"]
