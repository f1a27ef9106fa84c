"""What a compiler makes of a walk: chains of elementwise, norm, softmax and copy operators become one kernel each.

A chain is a run of such operators of which each reads what an earlier one has read or written. It is launched
once, reads each storage once, and writes only what is read after it: intermediate results never reach memory. What
it writes lies as the convolution behind it wants it, which then makes no copy of its input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

from minimodels.kernels.work import Work
from minimodels.sim.call import Call, stretches

FUSABLE = frozenset({"elementwise", "norm", "softmax", "copy"})


class Fused(NamedTuple):
    """What calls do: the work of each, chains of two calls and more, by index, the bytes read of each argument."""

    works: list[Work]
    chains: list[list[int]]
    read: list[list[int]]


def unfused(calls: Sequence[Call]) -> Fused:
    """What calls do one by one."""
    return Fused([call.work for call in calls], [], [read_bytes(call) for call in calls])


def fuse(calls: Sequence[Call]) -> Fused:
    """What calls do once chains are fused.

    The first call of a chain has its one launch; each has the bytes that it is the first to read, and those it
    writes for calls after the chain.
    """
    works, read = [_compiled(call.work) for call in calls], [read_bytes(call) for call in calls]
    _lay_out(calls, works)
    last_read = {storage: index for index, call in enumerate(calls) for storage in call.reads}
    runs = (chain for start, stop in stretches(calls) for chain in _chains(calls, start, stop))
    chains = [chain for chain in runs if len(chain) > 1]
    for chain in chains:
        _fuse(calls, chain, last_read, works, read)
    return Fused(works, chains, read)


def _compiled(work: Work) -> Work:
    """A convolution whose bias is added by the chain behind it; copies in tiles, which no line hinders."""
    if work.turned:
        work = replace(work, turned=0)
    return replace(work, conv=work.conv._replace(bias=False)) if work.conv and work.conv.bias else work


def _lay_out(calls: Sequence[Call], works: list[Work]) -> None:
    """Leave out the copies that convolutions make of their input, where a fusable call writes it."""
    fusable: set[int] = set()
    for index, call in enumerate(calls):
        work = works[index]
        if work.conv and work.workspace >= work.conv.input and not fusable.isdisjoint(call.reads[:1]):
            size = work.conv.input
            works[index] = replace(
                work,
                bytes_read=work.bytes_read - size,
                bytes_written=work.bytes_written - size,
                launches=work.launches - 1,
                workspace=work.workspace - size,
            )
        fusable.difference_update(call.writes)
        if work.kernel in FUSABLE:
            fusable.update(call.writes)


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


def _fuse(
    calls: Sequence[Call], chain: Sequence[int], last_read: dict[int, int], works: list[Work], read: list[list[int]]
) -> None:
    """Take out of a chain the traffic that never leaves it: what was read or written in it before is on chip."""
    on_chip: dict[int, int] = {}
    for index in chain:
        call, work = calls[index], calls[index].work
        for i, (storage, size) in enumerate(zip(call.reads, read[index], strict=True)):
            read[index][i] = max(0, size - on_chip.get(storage, 0))
            on_chip[storage] = max(size, on_chip.get(storage, 0))
        size = work.bytes_written // max(1, len(call.writes))
        written = work.bytes_written
        for storage in call.writes:
            on_chip[storage] = max(size, on_chip.get(storage, 0))
            if index < last_read.get(storage, -1) <= chain[-1]:
                written -= size
        first = index == chain[0]
        works[index] = Work(work.kernel, work.flops, min(sum(read[index]), work.bytes_read), written, int(first))


def read_bytes(call: Call) -> list[int]:
    """The bytes that a call reads of each of its arguments, shared out by their sizes."""
    if len(call.reads) == 1:
        return [call.work.bytes_read]
    if call.name == "copy_" and len(call.reads) == 2:  # the target is written only
        return [0, call.work.bytes_read]
    if len(call.reads) != len(call.shapes):
        return [call.work.bytes_read // max(1, len(call.reads))] * len(call.reads)
    sizes = [max(1, prod(shape)) for shape in call.shapes]
    return [call.work.bytes_read * size // sum(sizes) for size in sizes]
