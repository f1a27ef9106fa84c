"""Calls of unmask_step: awkward ones to run with given noise, and those of the models to compile."""

from __future__ import annotations

from typing import Any

import torch

from minimodels.kernels import maskgit_step as module
from tests.kernels.matrix_targets import TARGETS

OPERATOR = "minimodels::unmask_step"
NARROW_STORES = True  # one token a row
NARROW = {"aMUSEd, positions together": TARGETS}  # each row gathers a class of columns of its own


def arguments(
    b: int, n: int, vocab: int, masked: int, *, known: float = 0.4, given: bool = True, last: bool = True,
    equal: bool = False, dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
) -> tuple[Any, ...]:  # fmt: skip
    """known: the share of tokens that are not masked; given: noise, not a seed; last: of the logits, the vocabulary
    lies together, else the positions; equal: all logits and all noise are the same."""
    tokens = torch.randint(vocab, (b, n), device=device)
    tokens = tokens.where(torch.rand(b, n, device=device) < known, vocab)
    logits = 3 * torch.randn((b, n, vocab) if last else (b, vocab, n), device=device) * (0 if equal else 1)
    logits = logits.to(dtype) if last else logits.to(dtype).transpose(1, 2)
    noise, choice = torch.empty(b, n, vocab, device=device), torch.empty(b, n, device=device)
    for x in (noise, choice):
        x.fill_(1) if equal else x.exponential_()
    seed = None if given else torch.empty((), dtype=torch.int64, device=device).random_()
    return tokens, logits, noise if given else None, choice if given else None, seed, vocab, masked, 0.9, 4.5


SMALL = {
    "odd": {"b": 2, "n": 7, "vocab": 13, "masked": 2},
    "last step": {"b": 1, "n": 9, "vocab": 300, "masked": 0},
    "one token": {"b": 3, "n": 1, "vocab": 5, "masked": 1, "known": 0.0},
    "nothing to draw": {"b": 2, "n": 5, "vocab": 8, "masked": 3, "known": 1.0},
    "positions together": {"b": 2, "n": 35, "vocab": 200, "masked": 9, "last": False},
    "more than a tile": {"b": 1, "n": 3, "vocab": 4100, "masked": 1, "known": 0.0},
    "more than a block of ranks": {"b": 1, "n": 259, "vocab": 3, "masked": 100},
}
LARGE = {
    "Muse, 256 tokens": arguments(4, 256, 8192, 100, given=False, device="meta"),
    "Muse, 256 tokens, noise given": arguments(4, 256, 8192, 100, device="meta"),
    "Muse, 4096 tokens": arguments(1, 4096, 8192, 100, given=False, device="meta"),
    "aMUSEd, positions together": arguments(1, 1024, 8192, 100, given=False, last=False, device="meta"),
    "positions together, noise given": arguments(1, 1024, 8192, 100, last=False, device="meta"),
    "Phenaki, float16": arguments(1, 1536, 8192, 100, given=False, dtype=torch.float16, device="meta"),
    "float32": arguments(1, 256, 8192, 100, given=False, dtype=torch.float32, device="meta"),
    "beyond 2^31": arguments(128, 4096, 8192, 100, given=False, device="meta"),
}


def small(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case."""
    return arguments(**SMALL[name], dtype=dtype)


__all__ = ["LARGE", "NARROW", "NARROW_STORES", "OPERATOR", "SMALL", "module", "small"]
