"""The caches of an A100, a slice of it that stands for the whole, and what its memory answers in.

A slice has a few compute units and as much less of the L2 cache; kernels run on as small a share of their batch. Both
caches then see the same traffic per set as on the whole GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minimodels.sim.cache.lru import LINE, SECTOR, Accesses, Caches, sectors
from minimodels.sim.device import Device


@dataclass(frozen=True, slots=True)
class Latencies:
    """Clocks until data is there: found in the L1 cache, in the L2 cache, in memory."""

    source: str
    l1: float
    l2: float
    memory: float


LATENCIES = (  # measured on an A100, one load after the other
    Latencies("Abdelkhalik et al. 2022", 33, 200, 290),  # arXiv 2208.11174, table of memory latencies
    Latencies("Luo et al. 2024", 37.9, 261.5, 466),  # arXiv 2402.13499, table of memory latencies
)
L1_BYTES = 192 * 1024  # NVIDIA Ampere whitepaper: L1 and shared memory of a compute unit
L1_SETS = 4  # Accel-Sim, configs/tested-cfgs/SM80_A100
L2_WAYS = 16  # Accel-Sim, the same file
L2_BYTES = 40 * 1024 * 1024  # the same file: 160 slices of 128 sets of 16 lines
THREADS = 2048  # NVIDIA Ampere whitepaper: threads of a compute unit
UNITS = 4  # compute units of the slice
ARCHITECTURE = "sm80"  # all numbers here are those of A100s


def modelled(device: Device) -> bool:
    """Whether the caches here are those of a device."""
    return device.arch == ARCHITECTURE


@dataclass(slots=True)
class Counts:
    """What counters would show of some kernels: warp instructions, and sectors of 32 bytes."""

    instructions: float = 0.0
    loads: float = 0.0
    l1_misses: float = 0.0
    l2_misses: float = 0.0
    stores: float = 0.0
    memory_writes: float = 0.0

    def add(self, other: Counts, times: float = 1.0) -> None:
        """Count others too, so many times."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + times * getattr(other, name))

    @property
    def l1_mpki(self) -> float:
        """Sectors that the L1 cache did not have, per thousand instructions."""
        return 1000 * self.l1_misses / self.instructions

    @property
    def l2_mpki(self) -> float:
        """Sectors that were read from memory, per thousand instructions."""
        return 1000 * self.l2_misses / self.instructions

    @property
    def memory_bytes(self) -> float:
        """Bytes read from memory and written to it."""
        return SECTOR * (self.l2_misses + self.memory_writes)

    def access_time(self, latencies: Latencies) -> float:
        """Mean clocks until a sector that is loaded is there."""
        found_l1, found_l2 = self.loads - self.l1_misses, self.l1_misses - self.l2_misses
        waited = found_l1 * latencies.l1 + found_l2 * latencies.l2 + self.l2_misses * latencies.memory
        return waited / self.loads


class Slice:
    """A slice of an A100 that runs kernels one after another; its L2 cache keeps what they leave."""

    def __init__(self, device: Device) -> None:
        assert modelled(device), f"the caches of {device.title} are not described"
        self.share = UNITS / device.datasheet.compute_units
        self.l2 = Caches(round(L2_BYTES * self.share / LINE / L2_WAYS), L2_WAYS)
        self.l2_bytes = self.l2.sets * L2_WAYS * LINE

    def run(self, accesses: Accesses, instructions: float, through_l1: bool = True) -> Counts:
        """What one kernel finds. Its loads go through an L1 cache that is empty at first, or past it; stores past it.

        through_l1: False where loads are copied to shared memory asynchronously, which leaves the L1 cache out.
        """
        loads = ~accesses.store
        missing = accesses.mask.copy()
        if through_l1:
            l1 = Caches(L1_SETS, L1_BYTES // LINE // L1_SETS, UNITS)
            missing[loads] = l1.access(accesses.only(loads))
        below = Accesses(np.zeros_like(accesses.cache), accesses.line, missing, accesses.store).only(missing > 0)
        before = self.l2.written_back
        absent = self.l2.access(below)
        return Counts(
            instructions=instructions,
            loads=sectors(accesses.mask[loads]),
            l1_misses=sectors(missing[loads]),
            l2_misses=sectors(absent[~below.store]),
            stores=sectors(accesses.mask[~loads]),
            memory_writes=self.l2.written_back - before,
        )
