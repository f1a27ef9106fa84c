"""Calls of guided_step: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import guided_step as module
from tests.kernels.matrix_targets import TARGETS

OPERATOR = "minimodels::guided_step"


def arguments(
    *shape: int, scale: float | None = 7.5, noise: bool = False, channels: int | None = None, last: str = "",
    repeated: bool = False, dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """x of `shape`; channels: of the prediction, the first taken; last: "x", "predicted" or both, channels last.

    repeated: the prediction is one number a channel, repeated over its pixels.
    """

    def draw(batch: int, count: int, name: str) -> Tensor:
        made = torch.randn((batch, count, *shape[2:]), dtype=torch.float32, device=device).to(dtype)
        return made.contiguous(memory_format=torch.channels_last) if name in last.split() else made

    x = draw(shape[0], shape[1], "x")
    predicted = draw(shape[0] * (1 if scale is None else 2), channels or shape[1], "predicted")[:, : shape[1]]
    predicted = predicted[(..., *(slice(1),) * len(shape[2:]))].expand(predicted.shape) if repeated else predicted
    return x, predicted, draw(shape[0], shape[1], "x") if noise else None, scale, 0.9, -0.3, 0.1 if noise else 0.0


SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "odd": ((3, 3, 5, 7), {}),
    "not guided, new noise": ((2, 4, 9, 33), {"scale": None, "noise": True}),
    "an embedding": ((2, 19), {"noise": True}),
    "one element": ((1, 1, 1, 1), {}),
    "variance learned": ((2, 3, 4, 5), {"channels": 6}),
    "prediction channels last, variance learned": ((2, 3, 4, 5), {"channels": 6, "last": "predicted"}),
    "all channels last": ((2, 3, 4, 5), {"last": "x predicted", "noise": True}),
    "one number a channel": ((2, 3, 5, 4), {"repeated": True}),
    "video": ((2, 3, 2, 20, 21), {"channels": 6}),
}
LARGE = {
    "SD 1.5": arguments(1, 4, 64, 64, device="meta"),
    "SD 1.5, prediction channels last": arguments(1, 4, 64, 64, last="predicted", device="meta"),
    "Imagen, 1024 x 1024, new noise": arguments(1, 3, 1024, 1024, noise=True, device="meta"),
    "Make-A-Video, float16": arguments(1, 3, 16, 256, 256, noise=True, dtype=torch.float16, device="meta"),
    "float32, not guided": arguments(2, 3, 256, 256, scale=None, dtype=torch.float32, device="meta"),
    "beyond 2^31": arguments(16, 3, 76, 768, 768, device="meta"),
}
NARROW = {"SD 1.5, prediction channels last": TARGETS}  # 4 channels side by side, of which a thread takes one at a time


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    shape, options = SMALL[name]
    return arguments(*shape, **options, dtype=dtype)


__all__ = ["LARGE", "NARROW", "OPERATOR", "SMALL", "module", "small"]
