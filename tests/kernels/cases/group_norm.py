"""Calls of group_norm: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import group_norm as module

OPERATOR = "minimodels::group_norm"
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def arguments(
    *shape: int, groups: int, last: bool = False, told: bool = False, silu: bool = True, mean: float = 0.5,
    dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """x of `shape` with some mean; told: with scale and shift, the halves of one tensor."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float32, device=device)

    x = (draw(*shape) + mean).to(dtype)
    if last:
        x = x.contiguous(memory_format=FORMATS[len(shape)])
    channels = shape[1]
    weight, bias = draw(channels).to(dtype), draw(channels).to(dtype)
    scale = shift = None
    if told:
        ones = (1,) * (len(shape) - 2)
        scale, shift = (0.3 * draw(shape[0], 2 * channels)).to(dtype).view(shape[0], -1, *ones).chunk(2, dim=1)
    return x, groups, weight, bias, 1e-5, scale, shift, silu


SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "odd": ((2, 12, 5, 7), {"groups": 3}),
    "one group, no activation": ((1, 6, 3, 3), {"groups": 1, "silu": False}),
    "a group per channel, scale and shift": ((3, 5, 4, 4), {"groups": 5, "told": True}),
    "one pixel": ((2, 8, 1, 1), {"groups": 2}),
    "one frame": ((1, 8, 1, 3, 5), {"groups": 2}),
    "three launches": ((2, 20, 33, 31), {"groups": 2, "told": True}),
    "three launches, video": ((1, 6, 5, 37, 41), {"groups": 2}),
    "channels last": ((2, 20, 9, 7), {"groups": 4, "last": True, "told": True}),
    "channels last, odd channels": ((1, 75, 6, 5), {"groups": 5, "last": True, "silu": False}),
    "channels last, video, many chunks": ((1, 12, 3, 33, 35), {"groups": 3, "last": True}),
    "far from zero": ((1, 8, 40, 40), {"groups": 2, "mean": 1000.0, "silu": False}),
    "far from zero, channels last": ((1, 8, 40, 40), {"groups": 2, "mean": 1000.0, "silu": False, "last": True}),
}
LARGE = {
    "SD 1.5, 64 x 64": arguments(2, 320, 64, 64, groups=32, device="meta"),
    "SD 1.5, 32 x 32": arguments(2, 640, 32, 32, groups=32, device="meta"),
    "SD 1.5, 8 x 8, one launch": arguments(2, 1280, 8, 8, groups=32, device="meta"),
    "SD 1.5, 64 x 64, channels last": arguments(2, 320, 64, 64, groups=32, last=True, device="meta"),
    "Imagen, scale and shift": arguments(2, 512, 32, 32, groups=32, told=True, device="meta"),
    "KL decoder, float16": arguments(1, 128, 512, 512, groups=32, dtype=torch.float16, device="meta"),
    "video decoder": arguments(1, 128, 20, 256, 256, groups=32, device="meta"),
    "video decoder, channels last": arguments(1, 128, 20, 256, 256, groups=32, last=True, device="meta"),
    "beyond 2^31": arguments(16, 128, 20, 256, 256, groups=32, device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    shape, options = SMALL[name]
    return arguments(*shape, **options, dtype=dtype)


__all__ = ["LARGE", "OPERATOR", "SMALL", "module", "small"]
