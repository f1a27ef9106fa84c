"""What thread blocks touch: requests of warps, their lines and sectors, and the order in which they come.

Blocks are given out to compute units in waves, as many at a time as fit; within a wave all blocks take each step
together. A request is a stretch of bytes, at most a few lines long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minimodels.sim.cache.gpu import UNITS
from minimodels.sim.cache.lru import ALL, LINE, SECTOR, Accesses, Ints


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor in memory: sizes and strides in elements, the first byte, bytes of an element."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    base: int
    itemsize: int = 2

    def matrices(self, count: int) -> Ints:
        """The first byte of each of the first `count` matrices (..., rows, columns)."""
        return self._first_bytes(np.arange(count), self.sizes[:-2])

    def rows(self, elements: int, columns: int) -> Ints:
        """The first byte of every stretch of `columns` elements among the first `elements`, in their own order."""
        return self._first_bytes(np.arange(0, elements, columns), self.sizes)

    def _first_bytes(self, index: Ints, sizes: tuple[int, ...]) -> Ints:
        """Of elements of the first dimensions, of these sizes."""
        offset = np.zeros(len(index), np.int64)
        for place in reversed(range(len(sizes))):
            index, along = np.divmod(index, sizes[place])
            offset += along * self.strides[place]
        return self.base + self.itemsize * offset


@dataclass(frozen=True, slots=True)
class Step:
    """What every block asks for at one time: first bytes and lengths (blocks, requests); length 0: nothing."""

    start: Ints
    length: Ints
    store: bool = False


def trace(steps: Sequence[Step], resident: int) -> Accesses:
    """The accesses of all blocks in the order of their waves; resident: blocks of a compute unit at a time."""
    blocks = len(steps[0].start)
    together = UNITS * resident
    block = np.arange(blocks)
    found = []
    for number, step in enumerate(steps):
        line, mask, request = _lines(step)
        where = block[request // step.start.shape[1]]
        order = (where // together) * len(steps) + number
        found.append((order, where % UNITS, line, mask, np.full(len(line), step.store)))
    order, unit, line, mask, store = (np.concatenate(column) for column in zip(*found, strict=True))
    by_time = np.argsort(order, kind="stable")
    return Accesses(unit[by_time], line[by_time], mask[by_time], store[by_time])


def stored(first: Ints, length: int) -> Accesses:
    """Stores of stretches of memory, one after another."""
    return trace([Step(first[:, None], np.full((len(first), 1), length), store=True)], len(first))


def _lines(step: Step) -> tuple[Ints, Ints, Ints]:
    """Lines of all requests, a mask of the sectors of each, and which request (of those of all blocks) it is for."""
    start, length = step.start.reshape(-1), step.length.reshape(-1)
    most = int(-(-length.max(initial=0) // LINE)) + 1
    line = start[:, None] // LINE + np.arange(most)
    low = np.maximum(start[:, None] - line * LINE, 0) // SECTOR
    high = -(-np.minimum((start + length)[:, None] - line * LINE, LINE) // SECTOR)  # past the last sector
    there = (high > low) & (length[:, None] > 0)
    mask = np.where(there, (ALL >> np.clip(4 - (high - low), 0, 4)) << np.clip(low, 0, 4), 0)
    request = np.broadcast_to(np.arange(len(start))[:, None], line.shape)
    return line[there], mask[there], request[there]
