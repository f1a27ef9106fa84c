"""A set-associative cache of lines in four sectors, with LRU replacement, over whole arrays of accesses.

A line is looked up and replaced as one; its sectors are filled one by one, as on NVIDIA's GPUs. A store marks its
sectors without fetching them. Sets do not see each other, so that one numpy step serves the next access of every set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LINE, SECTOR = 128, 32  # bytes
SECTORS = LINE // SECTOR
ALL = (1 << SECTORS) - 1
COUNT = np.array([mask.bit_count() for mask in range(ALL + 1)])  # sectors of a mask
EMPTY = -1
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hash

Ints = NDArray[np.int64]


class Accesses(NamedTuple):
    """Accesses in order: the cache each goes to, its line, a mask of the sectors it touches, whether it stores."""

    cache: Ints
    line: Ints
    mask: Ints
    store: NDArray[np.bool_]

    def only(self, kept: NDArray[np.bool_] | Ints) -> Accesses:
        """Those that a mask keeps, or at these places."""
        return Accesses(self.cache[kept], self.line[kept], self.mask[kept], self.store[kept])


class Caches:
    """Some caches of one kind, each of `sets` sets of `ways` lines; `hashed`: how lines are spread over the sets."""

    def __init__(self, sets: int, ways: int, count: int = 1, hashed: bool = True) -> None:
        self.sets, self.hashed = sets, hashed
        shape = (count * sets, ways)
        self._lines = np.full(shape, EMPTY, np.int64)
        self._valid = np.zeros(shape, np.int64)
        self._dirty = np.zeros(shape, np.int64)
        self._used = np.zeros(shape, np.int64)  # when a line was used last
        self._now = 0
        self.written_back = 0  # sectors stored, and evicted since

    def access(self, accesses: Accesses) -> Ints:
        """For every access a mask of the sectors that were not there."""
        place = accesses.cache * self.sets + self._set(accesses.line)
        order = np.argsort(place, kind="stable")
        place, line, mask = place[order], accesses.line[order], accesses.mask[order]
        fresh = np.ones(len(order), np.bool_)  # where another line of a set is touched than just before
        fresh[1:] = (place[1:] != place[:-1]) | (line[1:] != line[:-1])
        starts = np.flatnonzero(fresh)
        if not len(starts):
            return np.zeros(0, np.int64)
        wanted = np.bitwise_or.reduceat(mask, starts)
        stored = np.bitwise_or.reduceat(np.where(accesses.store[order], mask, 0), starts)
        had = self._touch(place[starts], line[starts], wanted, stored)
        run = np.cumsum(fresh) - 1
        missing = np.empty_like(mask)
        missing[order] = mask & ~(had[run] | _earlier(mask, starts, run))
        return missing

    def flush(self) -> int:
        """Write all back, which empties the caches; the sectors that were still to be written."""
        dirty = int(COUNT[self._dirty].sum())
        self._lines.fill(EMPTY)
        self._valid.fill(0)
        self._dirty.fill(0)
        return dirty

    def _set(self, line: Ints) -> Ints:
        if not self.hashed:
            return line % self.sets
        return ((line.astype(np.uint64) * SPREAD) >> np.uint64(20)).astype(np.int64) % self.sets

    def _touch(self, place: Ints, line: Ints, wanted: Ints, stored: Ints) -> Ints:
        """Touch lines, sorted by set, and return the sectors that each had; one step serves every set once."""
        sets, first, counts = np.unique(place, return_index=True, return_counts=True)
        busiest = np.argsort(-counts, kind="stable")
        sets, first, counts = sets[busiest], first[busiest], counts[busiest]
        lines, valid, dirty, used = (x[sets] for x in (self._lines, self._valid, self._dirty, self._used))
        had = np.zeros(len(line), np.int64)
        active = len(sets) - np.searchsorted(counts[::-1], np.arange(counts[0]), side="right")
        every = np.arange(len(sets))
        for step, count in enumerate(active.tolist()):
            rows, at = every[:count], first[:count] + step
            self._now += 1
            same = lines[:count] == line[at, None]
            way = same.argmax(1)
            hit = same[rows, way]
            if not hit.all():
                oldest = used[:count].argmin(1)
                way = np.where(hit, way, oldest)
                gone = ~hit
                self.written_back += int(COUNT[dirty[rows[gone], way[gone]]].sum())
                valid[rows[gone], way[gone]] = dirty[rows[gone], way[gone]] = 0
                lines[rows, way] = line[at]
            had[at] = valid[rows, way]
            valid[rows, way] |= wanted[at]
            dirty[rows, way] |= stored[at]
            used[rows, way] = self._now
        self._lines[sets], self._valid[sets], self._dirty[sets], self._used[sets] = lines, valid, dirty, used
        return had


def _earlier(mask: Ints, starts: Ints, run: Ints) -> Ints:
    """The sectors that earlier accesses of the same run touched."""
    found = np.zeros_like(mask)
    for bit in range(SECTORS):
        asked = (mask >> bit) & 1
        before = np.cumsum(asked) - asked
        found |= (before > before[starts][run]).astype(np.int64) << bit
    return found


def sectors(mask: Ints) -> int:
    """Sectors of all masks."""
    return int(COUNT[mask].sum())
