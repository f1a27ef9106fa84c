"""Dense matrix products as a vendor's library runs them: the fastest of a menu of tiles and splits.

A thread block computes a tile of the output and walks over k. Blocks run in waves of one per compute unit; the last
wave is half hidden behind its neighbours. For each tile and split of the menu

    compute = waves x FLOPs of a whole tile, its prologue included / (efficiency x peak of a compute unit)
    l2      = operands that all tiles load / rate of the L2 cache
    memory  = bytes that miss the L2 cache / (share x bandwidth), or if longer
              those that one block loads / (share x what a block alone gets of the bandwidth)
    seconds = floor + rounded maximum of the three + sum of the partial results of a split

and never faster than the rate that the power limit sustains. What a block alone gets is latency, and belongs to a
compute unit: neither more units nor more bandwidth change it. Every term grows with m, n and k and falls with every
rate, so their minimum does too.
"""

from __future__ import annotations

from functools import cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from minimodels.kernels.work import Work
from minimodels.sim.call import L2State
from minimodels.sim.cost.base import ITEMSIZE, OVERLAP, Cost, origin, rate, state, turning
from minimodels.sim.device import HALF, Device, Family

# Rows and columns of the tiles in use; the thin ones are for few rows. Source: cuBLAS and CUTLASS kernel names.
TILES = (
    (16, 64), (16, 128), (32, 64), (32, 128), (64, 64), (64, 128), (64, 256), (128, 64), (128, 128), (128, 256),
    (256, 128),
)  # fmt: skip
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)  # thread blocks that share a tile's walk over k
STEP = 128  # bytes of k per step of the walk: 64 elements of half precision
PROLOGUE = 256  # bytes of k that filling and draining a tile's pipeline takes as long as; fitted with the split
HIDDEN = 0.5  # of what the last wave leaves idle: blocks of neighbouring waves overlap
SPLIT_SECONDS = 3.5e-6  # a second kernel, or a barrier, that adds up the parts; fitted with PROLOGUE
SETS = 5  # of weights at most
CROWDED = 0.1  # so much more than the L2 cache holds drives all out before it is read again: L40S, rows not fitted to


Menu = tuple[tuple[tuple[int, int], ...], tuple[int, ...]]  # tiles and splits
PRODUCTS: Menu = (TILES, SPLITS)


@cache
def _choices(menu: Menu) -> tuple[NDArray[np.float64], ...]:
    """Rows, columns and splits of every choice."""
    choices = np.array([(rows, columns, split) for rows, columns in menu[0] for split in menu[1]], float)
    return choices[:, 0], choices[:, 1], choices[:, 2]


def price(work: Work, dtype: str, device: Device, l2: L2State = "cold", resident: int = 0) -> Cost:
    """A product (batch, m, n, k); `l2` says whether its operands may lie in the L2 cache from the time before.

    resident: the bytes of them that do, from a kernel before.
    """
    assert work.gemm is not None, work
    moved = work.bytes_read + work.bytes_written
    copied = min(moved, 2 * work.workspace) if work.launches > 1 else 0
    constants = device.constants
    floor, share = constants.gemm_floor, constants.gemm_efficiency
    own = floor, share, constants.gemm_bandwidth
    cost = product(work.gemm, moved - copied, dtype, device, own, l2, "gemm", resident=resident)
    copying = max(copied / rate(constants.memory_bandwidth, device), turning(work, device))
    extra = (work.launches - 1) * constants.memory_floor + copying
    if not extra:
        return cost
    bound = "launch" if 2 * (work.launches - 1) * constants.memory_floor > cost.seconds + extra else cost.bound
    seconds = cost.seconds + extra
    used = cost.utilisation * cost.seconds / seconds
    return cost._replace(seconds=seconds, launches=work.launches, bound=bound, utilisation=used)


def sets(weights: float, l2_bytes: int) -> int:
    """How many sets of so many bytes of weights a product that is timed takes in turn: as many as fill the L2 cache.

    Source: collector/trtllm/collect_gemm.py of aiconfigurator, whose tables the constants are fitted to.
    """
    return min(SETS, ceil(l2_bytes / weights))


def _replayed(weights: float, l2_bytes: int) -> float:
    """The share of a product's operands still in the L2 cache when it runs again, the other sets having run between."""
    taken = sets(weights, l2_bytes) * weights / l2_bytes
    return min(1.0, max(0.0, (1 + CROWDED - taken) / CROWDED))


def product(
    shape: tuple[int, int, int, int], moved: float, dtype: str, device: Device, own: tuple[float, float, float],
    l2: L2State, family: Family, menu: Menu = PRODUCTS, resident: float = 0,
) -> Cost:  # fmt: skip
    """The one kernel that multiplies: `moved` are the bytes it must move once, `own` the family's constants.

    They are the floor, the efficiency of a tile and the share of the bandwidth.
    """
    floor, share, bandwidth = own
    sheet, constants = device.datasheet, device.constants
    units, peak, size = sheet.compute_units, device.peak_flops(dtype), ITEMSIZE[dtype]
    batch, m, n, k = shape
    rows, columns, splits = _choices(menu)
    step = STEP / size
    depth = np.ceil(k / (splits * step)) * step
    tiles = batch * np.ceil(m / rows) * np.ceil(n / columns) * splits
    rounds = tiles / units
    waves = np.maximum(1, HIDDEN * rounds + (1 - HIDDEN) * np.ceil(rounds))
    compute = waves * 2 * rows * columns * (depth + PROLOGUE / size) * units / (share * peak)
    cache_rate = constants.l2_rate * sheet.clock  # of one compute unit
    load = (rows + columns) * depth * size * np.maximum(1, rounds) / cache_rate
    found = _replayed(size * batch * n * k, sheet.l2_bytes) if l2 == "warm" else min(1.0, resident / (moved or 1))
    cold = 1 - found
    missed, alone = cold * moved, cold * np.minimum(moved, (rows + columns) * depth * size)
    assert constants.block_bandwidth is not None, device.name
    streamed, block = missed / rate(bandwidth, device), alone / (bandwidth * constants.block_bandwidth)
    longest = (compute**OVERLAP + load**OVERLAP + np.maximum(streamed, block) ** OVERLAP) ** (1 / OVERLAP)
    parts = np.where(splits > 1, SPLIT_SECONDS + 8 * batch * m * n * splits / (cache_rate * units), 0)
    seconds = floor + longest + parts
    best = int(seconds.argmin())
    flops = 2.0 * batch * m * n * k
    sustained = flops / (constants.gemm_sustained * peak)
    taken = max(float(seconds[best]), sustained)
    times = {"launch": floor, "tensor": float(compute[best]), "l2": float(load[best]), "memory": streamed}
    times["waves" if block[best] > 2 * streamed else "memory"] = max(streamed, float(block[best]))
    bound = "tensor" if sustained == taken else max(times, key=times.__getitem__)
    if bound == "tensor" and float(rounds[best]) < 0.5 * float(np.ceil(rounds[best])):
        bound = "waves"
    used = {
        "memory": missed / (sheet.bandwidth * taken),
        "l2": float(load[best]) / taken,
        "launch": floor / taken,
    }.get(bound, flops / (peak * taken))
    provenance, error = origin(family, device, bound == "memory" or dtype in HALF)
    return Cost(
        taken, 1, bound, provenance, error, min(1.0, used), int(tiles[best]), float(np.ceil(rounds[best])),
        state(missed, moved),
    )  # fmt: skip
