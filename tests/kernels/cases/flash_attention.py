"""Calls of flash_attention: awkward ones to run, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch

from minimodels.kernels import flash_attention as module
from tests.kernels.cases import temporal_attention

OPERATOR = "minimodels::flash_attention"
NARROW = {"Stable Diffusion, 40": ("sm80",), "32": ("sm80",)}  # of 32 keys a thread takes 8 bytes; more have no room


def arguments(*sizes: int, **options: Any) -> tuple[Any, ...]:
    """q, k, v as views of projections (b, n, p, heads d); `sizes`, `options` as for temporal_attention."""
    q, k, v, bias, _, _, causal, scale = temporal_attention.arguments(*sizes, **options)
    return q, k, v, bias, causal, scale


SMALL = {
    "odd everything": {"b": 2, "p": 3, "heads": 3, "n": 7, "d": 24},
    "one query, one key": {"b": 1, "p": 1, "heads": 2, "n": 1, "d": 16},
    "one query, causal": {"b": 1, "p": 2, "heads": 2, "n": 1, "m": 37, "d": 32, "causal": True},
    "40 features, two blocks": {"b": 1, "p": 2, "heads": 2, "n": 130, "m": 33, "d": 40},
    "80 features, causal, fewer queries": {"b": 1, "p": 1, "heads": 2, "n": 70, "m": 150, "d": 80, "causal": True},
    "160 features, grouped keys, bias": {
        "b": 2, "p": 1, "heads": 4, "kv_heads": 2, "n": 17, "m": 77, "d": 160, "bias": (1, 4, 17, 77),
    },
    "192 features": {"b": 1, "p": 1, "heads": 1, "n": 5, "m": 20, "d": 192},
    "72 features, keys of whole tiles, causal": {"b": 1, "p": 1, "heads": 1, "n": 64, "d": 72, "causal": True},
    "bias of positions, causal": {"b": 1, "p": 2, "heads": 2, "n": 140, "d": 32, "bias": (140, 140), "causal": True},
    "strides of no unit": {"b": 1, "p": 1, "heads": 1, "n": 9, "d": 20},
}  # fmt: skip


def _large(*sizes: int, **options: Any) -> tuple[Any, ...]:
    return arguments(*sizes, **options, device="meta")


LARGE = {
    "Stable Diffusion, 40": _large(1, 2, 8, 4096, 40),
    "Stable Diffusion, 80": _large(1, 2, 8, 1024, 80),
    "Stable Diffusion, 160": _large(1, 2, 8, 256, 160),
    "32": _large(1, 2, 16, 4096, 32),
    "96": _large(1, 2, 16, 1024, 96),
    "SDXL, 64": _large(1, 2, 10, 4096, 64),
    "causal, 128, float16": _large(1, 2, 32, 2048, 128, causal=True, dtype=torch.float16),
    "causal, grouped keys, 128": _large(1, 1, 64, 4096, 128, kv_heads=8, causal=True),
    "T5, bias": _large(1, 2, 64, 256, 64, bias=(1, 64, 256, 256)),
    "bias, 160": _large(1, 2, 8, 1024, 160, bias=(1, 8, 1024, 1024)),
    "causal, bias, 192": _large(1, 2, 8, 1024, 192, causal=True, bias=(1, 8, 1024, 1024)),
    "256": _large(1, 2, 8, 1024, 256),
    "128, 64-bit offsets": _large(4, 65536, 8, 256, 128),
    "64, float32": _large(1, 2, 8, 1024, 64, dtype=torch.float32),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    return arguments(**SMALL[name], dtype=dtype)


__all__ = ["LARGE", "NARROW", "OPERATOR", "SMALL", "module", "small"]
