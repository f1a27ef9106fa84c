"""Calls of cross_attention: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch

from minimodels.kernels import cross_attention as module
from tests.kernels.cases import temporal_attention

OPERATOR = "minimodels::cross_attention"


def arguments(*sizes: int, **options: Any) -> tuple[Any, ...]:
    """q, k, v as views of projections (b, n, p, heads d); `sizes`, `options` as for temporal_attention."""
    q, k, v, *_, scale = temporal_attention.arguments(*sizes, **options)
    return q, k, v, scale


SMALL = {
    "odd everything": {"b": 2, "p": 3, "heads": 3, "n": 7, "m": 5, "d": 24},
    "one query, one key": {"b": 1, "p": 1, "heads": 2, "n": 1, "d": 16},
    "77 keys, 40 features, many blocks": {"b": 1, "p": 1, "heads": 2, "n": 330, "m": 77, "d": 40},
    "77 keys, 80 features": {"b": 1, "p": 2, "heads": 2, "n": 65, "m": 77, "d": 80},
    "65 keys, 160 features": {"b": 2, "p": 1, "heads": 1, "n": 33, "m": 65, "d": 160},
    "128 keys, 64 features": {"b": 1, "p": 1, "heads": 1, "n": 64, "m": 128, "d": 64},
    "strides of no unit": {"b": 1, "p": 1, "heads": 1, "n": 9, "m": 33, "d": 20},
}


def _large(*sizes: int, **options: Any) -> tuple[Any, ...]:
    return arguments(*sizes, **options, device="meta")


LARGE = {
    "77 keys, 40": _large(1, 2, 8, 4096, 40, m=77),
    "77 keys, 80": _large(1, 2, 8, 1024, 80, m=77),
    "77 keys, 160": _large(1, 2, 8, 256, 160, m=77),
    "77 keys, 64, float16": _large(1, 2, 10, 4096, 64, m=77, dtype=torch.float16),
    "128 keys, 64": _large(1, 2, 16, 1024, 64, m=128),
    "128 keys, 128": _large(1, 2, 16, 1024, 128, m=128),
    "77 keys, 64, 64-bit offsets": _large(4, 16384, 8, 1024, 64, m=77),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    return arguments(**SMALL[name], dtype=dtype)


__all__ = ["LARGE", "OPERATOR", "SMALL", "module", "small"]
