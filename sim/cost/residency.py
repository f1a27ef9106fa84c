"""What a kernel reads that still lies in the L2 cache, since a kernel shortly before it has read or written it.

A cache that drops what was used longest ago holds what was used again before it has moved as much as it holds. Caches
are not quite like that: from there on ever less is found, nothing once twice as much was moved (`base.within`). Writes
reach memory in the end and are not spared.
"""

from __future__ import annotations

from collections.abc import Sequence

from minimodels.kernels.work import Work
from minimodels.sim.call import Call, stretches
from minimodels.sim.cost.base import REPLAYED, within
from minimodels.sim.device import Device
from minimodels.sim.fusion import Fused, read_bytes


def resident(calls: Sequence[Call], fused: Fused, device: Device) -> list[int]:
    """The bytes in the L2 cache of what each call reads; in a loop, what its steps find that come after the first."""
    cache, found = _Cache(REPLAYED * device.datasheet.l2_bytes), [0] * len(calls)
    for start, stop in stretches(calls):
        for _ in range(1 if calls[start].weight <= 1 else 2):
            for index in range(start, stop):
                found[index] = cache.run(calls[index], fused.works[index], fused.read[index])
    return found


class _Cache:
    """A cache of so many bytes: how much was moved until each storage was used last, and how much of it then."""

    def __init__(self, capacity: float) -> None:
        self.capacity, self.moved = capacity, 0
        self.used: dict[int, tuple[int, int]] = {}

    def run(self, call: Call, work: Work, read: Sequence[int]) -> int:
        """The bytes that a call finds; it leaves what it uses as used. read: bytes of each argument that it reads."""
        if work.kernel == "none":
            return 0
        found = 0.0
        for storage, size in zip(call.reads, read, strict=True):
            if not (work.kernel == "gather" and storage < 0):  # other rows of a table of weights
                found += self._left(storage, size)
        self.moved += work.bytes_read + work.bytes_written
        for storage, size in zip(call.reads, read_bytes(call), strict=True):  # a chain has read them, sooner or now
            self._use(storage, size)
        for storage in call.writes:
            self._use(storage, call.work.bytes_written // len(call.writes))
        return min(int(found), work.bytes_read)

    def _left(self, storage: int, size: int) -> float:
        before, amount = self.used.get(storage, (0, 0))
        return min(size, amount) * within(self.moved - before + size, self.capacity) if amount else 0.0

    def _use(self, storage: int, size: int) -> None:
        """Note a use; a part of a storage leaves the rest of it where it was, as long as that is there at all."""
        before, amount = self.used.get(storage, (0, 0))
        if amount > size and self.moved - before + amount > self.capacity:
            amount = 0
        self.used[storage] = self.moved, max(size, amount)
