"""Calls of upsample: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch

from minimodels.kernels import upsample as module

OPERATOR = "minimodels::upsample"


def arguments(b: int, c: int, h: int, w: int, dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> tuple[Any]:
    """x channels last."""
    return (torch.randn(b, h, w, c, dtype=torch.float32, device=device).to(dtype).movedim(-1, 1),)


SMALL: dict[str, tuple[int, int, int, int]] = {
    "odd": (2, 5, 3, 7),
    "one pixel": (2, 12, 1, 1),
    "one channel": (1, 1, 4, 3),
    "one row": (1, 16, 1, 9),
    "several programs": (2, 40, 9, 11),
}
LARGE = {
    "SD 1.5, 32 x 32": arguments(2, 1280, 32, 32, device="meta"),
    "video decoder, 240 x 416": arguments(1, 192, 240, 416, device="meta"),
    "Imagen, 640, float16": arguments(2, 640, 64, 64, torch.float16, "meta"),
    "float32": arguments(2, 320, 64, 64, torch.float32, "meta"),
    "beyond 2^31": arguments(76, 320, 256, 256, device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    return arguments(*SMALL[name], dtype=dtype)


__all__ = ["LARGE", "OPERATOR", "SMALL", "module", "small"]
