"""How much of what operators load is not in the L2 cache: whole tensors in a cache with LRU replacement.

Tracing every address of an inference would take hours; here a tensor is one piece, which is in the cache if all that
was touched since it was touched last fits beside it. What a product loads is what all its tiles load, as in the cost
model, since they read their operands again and again from the L2 cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

from minimodels.sim.cache.kernels import tile
from minimodels.sim.cache.layouts import LayoutWalk
from minimodels.sim.call import Call
from minimodels.sim.cost.base import ITEMSIZE
from minimodels.sim.device import Device

QUERIES = 128  # of a tile of a fused attention: FlashAttention-2's at 64 features a head


class Loaded(NamedTuple):
    """Bytes that a call asks the L2 cache for, and those of them that come from memory."""

    asked: float
    missed: float


class Tensors:
    """What lies in a cache of so many bytes, the tensor touched last at the end."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self._size = capacity, 0
        self._held: OrderedDict[int, int] = OrderedDict()

    def touch(self, tensor: int, size: int) -> int:
        """Read or write `size` bytes of a tensor; those of them that were not there."""
        had = self._held.pop(tensor, 0)
        self._size -= had
        kept = max(had, size)
        self._held[tensor], self._size = kept, self._size + kept
        while self._size > self.capacity:
            self._size -= self._held.popitem(last=False)[1]
        return max(0, size - had)


def loads(walk: LayoutWalk, device: Device) -> Iterator[Loaded]:
    """What each call of a walk loads, in order."""
    cache = Tensors(device.datasheet.l2_bytes)
    priced: dict[tuple[Any, ...], float] = {}
    for call in walk.calls:
        touched = walk.touched(call)
        missed = sum(cache.touch(*read) for read in touched.reads)
        for write in touched.writes:
            cache.touch(*write)
        key = (call.work.gemm, call.attention, call.dtype, call.work.bytes_read)
        if key not in priced:
            priced[key] = asked(call, device)
        yield Loaded(max(priced[key], missed), missed)


def asked(call: Call, device: Device) -> float:
    """Bytes that the kernels of a call load; a fused attention reads keys and values for every tile of its queries."""
    facts = call.attention
    if call.work.kernel == "attention" and facts is not None:
        keys = 2 * facts.kv_heads * facts.key_length * -(-facts.query_length // QUERIES)
        return ITEMSIZE[call.dtype] * facts.batch * facts.head_dim * (facts.heads * facts.query_length + keys)
    if call.work.gemm is None:
        return call.work.bytes_read
    batch, m, n, k = call.work.gemm
    rows, columns = tile(call.work.gemm, device)
    return ITEMSIZE[call.dtype] * batch * k * (-(-n // columns) * m + -(-m // rows) * n)
