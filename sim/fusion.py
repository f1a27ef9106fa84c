"""What a compiler makes of a walk: chains of elementwise, norm, softmax and copy operators become one kernel each.

A chain is a run of such operators of which each reads what an earlier one has read or written. It is launched
once, reads each storage once, and writes only what is read after it: intermediate results never reach memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from minimodels.kernels.work import Work
from minimodels.sim.call import Call, stretches

FUSABLE = frozenset({"elementwise", "norm", "softmax", "copy"})


def fuse(calls: Sequence[Call]) -> tuple[list[Work], list[list[int]]]:
    """The work of each call once chains are fused, and the chains of two calls and more, by index.

    The first call of a chain has its one launch; each has the bytes that it is the first to read, and those it
    writes for calls after the chain.
    """
    works = [_without_bias(call.work) for call in calls]
    last_read = {storage: index for index, call in enumerate(calls) for storage in call.reads}
    runs = (chain for start, stop in stretches(calls) for chain in _chains(calls, start, stop))
    chains = [chain for chain in runs if len(chain) > 1]
    for chain in chains:
        _fuse(calls, chain, last_read, works)
    return works, chains


def _without_bias(work: Work) -> Work:
    """A convolution whose bias is added by the chain behind it."""
    return replace(work, conv=work.conv._replace(bias=False)) if work.conv and work.conv.bias else work


def _chains(calls: Sequence[Call], start: int, stop: int) -> Iterator[list[int]]:
    """Runs of fusable calls of which each reads what an earlier one of the run has read or written."""
    chain: list[int] = []
    seen: set[int] = set()
    for index in range(start, stop):
        call = calls[index]
        if call.work.kernel == "none":
            continue
        fusable = call.work.kernel in FUSABLE
        if chain and not (fusable and not seen.isdisjoint(call.reads)):
            yield chain
            chain, seen = [], set()
        if fusable:
            chain.append(index)
            seen.update(call.reads, call.writes)
    if chain:
        yield chain


def _fuse(calls: Sequence[Call], chain: Sequence[int], last_read: dict[int, int], works: list[Work]) -> None:
    """Take out of a chain the traffic that never leaves it: what was read or written in it before is on chip."""
    on_chip: dict[int, int] = {}
    for index in chain:
        call, work = calls[index], calls[index].work
        read = 0
        for storage, size in zip(call.reads, _read_bytes(call), strict=True):
            read += max(0, size - on_chip.get(storage, 0))
            on_chip[storage] = max(size, on_chip.get(storage, 0))
        size = work.bytes_written // max(1, len(call.writes))
        written = work.bytes_written
        for storage in call.writes:
            on_chip[storage] = max(size, on_chip.get(storage, 0))
            if index < last_read.get(storage, -1) <= chain[-1]:
                written -= size
        first = index == chain[0]
        works[index] = Work(work.kernel, work.flops, min(read, work.bytes_read), written, int(first), None, 0)


def _read_bytes(call: Call) -> list[int]:
    """The bytes that a call reads of each of its arguments, shared out by their sizes."""
    if len(call.reads) == 1:
        return [call.work.bytes_read]
    if len(call.reads) != len(call.shapes):
        return [call.work.bytes_read // max(1, len(call.reads))] * len(call.reads)
    sizes = [max(1, prod(shape)) for shape in call.shapes]
    return [call.work.bytes_read * size // sum(sizes) for size in sizes]
