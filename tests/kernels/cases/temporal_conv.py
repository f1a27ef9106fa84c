"""Calls of temporal_conv: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import temporal_conv as module
from tests.kernels.matrix_targets import TARGETS

OPERATOR = "minimodels::temporal_conv"
NARROW = {"500 channels": TARGETS}


def arguments(
    *shape: int, channels: int | None = None, taps: int = 3, bias: bool = True, residual: bool = False,
    biased: bool = False,
    dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """x of shape (b, c, f, h, w), channels last as all; biased: the residual lacks its bias."""

    def draw(*sizes: int) -> Tensor:
        made = torch.randn(*sizes[:1], *sizes[2:], sizes[1], dtype=torch.float32, device=device).to(dtype)
        return made.movedim(-1, 1)

    features = shape[1]
    channels = channels or features
    weight = draw(channels, features, taps, 1, 1) * (taps * features) ** -0.5
    added = draw(shape[0], channels, *shape[2:]) if residual else None
    own, others = (draw(channels, 1).flatten() if asked else None for asked in (bias, biased))
    return draw(*shape), weight.to(dtype), own, added, others


SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "odd everything": ((2, 7, 5, 3, 5), {"channels": 9, "residual": True}),
    "one frame": ((2, 16, 1, 2, 3), {"bias": False}),
    "two frames, five taps": ((1, 24, 2, 3, 3), {"taps": 5}),
    "one tap": ((1, 8, 3, 2, 2), {"taps": 1, "residual": True, "biased": True}),
    "one pixel": ((1, 16, 6, 1, 1), {"channels": 20}),
    "one feature": ((1, 1, 4, 3, 3), {"channels": 2}),
    "features of two steps, several tiles": ((1, 80, 4, 5, 7), {"channels": 72, "residual": True}),
}
LARGE = {
    "Make-A-Video decoder, 512": arguments(2, 512, 16, 64, 64, residual=True, device="meta"),
    "Make-A-Video decoder, 1536, 16 x 16": arguments(2, 1536, 16, 16, 16, device="meta"),
    "ModelScope, 320": arguments(2, 320, 16, 32, 32, device="meta"),
    "Make-A-Video decoder, 1024, shortcut with its bias": arguments(
        2, 1024, 16, 32, 32, residual=True, biased=True, device="meta"
    ),
    "ModelScope, 1280, 4 x 4": arguments(2, 1280, 16, 4, 4, residual=True, device="meta"),
    "seven taps, float16": arguments(1, 640, 24, 32, 32, taps=7, dtype=torch.float16, device="meta"),
    "500 channels": arguments(2, 500, 16, 64, 64, residual=True, biased=True, device="meta"),
    "float32": arguments(2, 512, 16, 32, 32, residual=True, biased=True, dtype=torch.float32, device="meta"),
    "beyond 2^31": arguments(4, 512, 76, 128, 128, residual=True, biased=True, device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    shape, options = SMALL[name]
    return arguments(*shape, **options, dtype=dtype)


__all__ = ["LARGE", "NARROW", "OPERATOR", "SMALL", "module", "small"]
