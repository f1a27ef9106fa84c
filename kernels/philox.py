"""Random numbers by counter: the same in a kernel and in plain torch, so that a draw can be checked.

Philox 4 x 32 with 10 rounds: four numbers of 32 bits of a 64-bit seed and a counter, which is (0, row, 0, 0).
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import torch
from torch import Tensor

from minimodels.kernels.launch import jit, tl

ROUNDS, MASK = 10, 0xFFFFFFFF


@jit
def _uniform(bits):
    return tl.minimum(bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10, 0.99999994)


@jit
def uniforms_row(seed, row):
    """The first three of four numbers in (0, 1) for each row."""
    nothing = (row * 0).to(tl.int32)
    a, b, c, _ = tl.philox(seed, nothing, row.to(tl.int32), nothing, nothing)  # type: ignore[misc]
    return _uniform(a), _uniform(b), _uniform(c)


@jit
def exponential_row(uniform):
    """-log(1 - uniform), exponentially distributed, as a series where small, since the smallest decide."""
    small = uniform * (1.0 + uniform * (0.5 + uniform * 0.3333333333333333))
    return tl.where(uniform < 0.0078125, small, -tl.log(1.0 - uniform))


def uniforms(seed: Tensor, rows: int) -> Tensor:
    """Float32 numbers (rows, 4) in (0, 1) of a seed (), in plain torch."""
    row = torch.arange(rows, device=seed.device)
    nothing = torch.zeros_like(row)
    bits = torch.stack(_philox(seed, [nothing, row, nothing, nothing]), -1)
    return (bits.to(torch.float32) * 2.0**-32 + 2.0**-33).clamp(max=0.99999994)


def exponentials(uniform: Tensor) -> Tensor:
    """-log(1 - uniform) as in `exponential_row`, in plain torch."""
    small = uniform * (1.0 + uniform * (0.5 + uniform * 0.3333333333333333))
    return torch.where(uniform < 0.0078125, small, -(1.0 - uniform).log())


def _philox(seed: Tensor, counter: list[Tensor]) -> list[Tensor]:
    """Four numbers of 32 bits, held in int64: a product that wraps around keeps all of its 64 bits."""
    a, b, c, d = counter
    low, high = seed & MASK, (seed >> 32) & MASK
    for _ in range(ROUNDS):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = ((right >> 32) & MASK) ^ b ^ low, right & MASK, ((left >> 32) & MASK) ^ d ^ high, left & MASK
        low, high = (low + 0x9E3779B9) & MASK, (high + 0xBB67AE85) & MASK
    return [a, b, c, d]
