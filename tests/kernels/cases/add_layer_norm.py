"""Calls of add_layer_norm: those of layer_norm, with something to add."""

from __future__ import annotations

from typing import Any

import torch

from tests.kernels.cases import layer_norm
from tests.kernels.cases.layer_norm import SIZES, SMALL, arguments, module

OPERATOR = "minimodels::add_layer_norm"
LARGE = {name: arguments(*shape, **options, sum_=True, device="meta") for name, (shape, options) in SIZES.items()}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    shape, options = layer_norm.SMALL[name]
    return arguments(*shape, **options, sum_=True, dtype=dtype)


__all__ = ["LARGE", "OPERATOR", "SMALL", "module", "small"]
