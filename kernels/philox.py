"""Random numbers by counter: the same in a kernel and in plain torch, so that a draw can be checked.

Philox 4 x 32 with 10 rounds: four numbers of 32 bits of a 64-bit seed and a counter. `exponentials` are of a counter
(index // 4, row, stream, 0), the index % 4-th of its numbers: neighbours share a counter.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import torch
from torch import Tensor

from minimodels.kernels.launch import jit, tl

ROUNDS, MASK = 10, 0xFFFFFFFF


@jit
def exponential(bits):
    """Exponential numbers of 32 random bits: -log(1 - w), as a series where w is small, since those decide a race."""
    uniform = tl.minimum(bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10, 0.99999994)
    small = uniform * (1.0 + uniform * (0.5 + uniform * 0.3333333333333333))
    return tl.where(uniform < 0.0078125, small, -tl.log(1.0 - uniform))


@jit
def exponential_tile(seed, row, first, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Numbers (ROWS, COLUMNS) of rows `row` and indices from `first` on, which 4 divides; stream 0."""
    counter = (first // 4 + tl.arange(0, COLUMNS // 4)[None, :] + row * 0).to(tl.int32)
    nothing = counter * 0
    a, b, c, d = tl.philox(seed, counter, row.to(tl.int32) + nothing, nothing, nothing)  # type: ignore[misc]
    bits = tl.join(tl.join(a, c), tl.join(b, d))
    return exponential(tl.reshape(bits, (ROWS, COLUMNS)))


@jit
def exponential_row(seed, row):
    """A number for each row: index 0 of stream 1."""
    nothing = (row * 0).to(tl.int32)
    return exponential(tl.philox(seed, nothing, row.to(tl.int32), nothing + 1, nothing)[0])


def exponentials(seed: Tensor, rows: int, count: int, stream: int) -> Tensor:
    """Float32 numbers (rows, count) of a seed (), in plain torch."""
    device = seed.device
    index = torch.arange(-(-count // 4), device=device)
    row = torch.arange(rows, device=device)[:, None]
    nothing = torch.zeros_like(row + index)
    numbers = _philox(seed, [index + nothing, row + nothing, nothing + stream, nothing])
    bits = torch.stack(numbers, -1).flatten(1)[:, :count]
    uniform = (bits.to(torch.float32) * 2.0**-32 + 2.0**-33).clamp(max=0.99999994)
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
