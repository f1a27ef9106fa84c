"""The kernels of a call of attention, one after another, on a slice of a GPU: what each finds in the caches.

Two readings of the caches: `cold`, both empty before every kernel, as Nsight Compute makes them unless told not to,
and `warm`, the L2 cache as the kernels before left it, queries, keys and values just written. Two of the layout: as the
walk has it, which copies what does not lie in one piece, and `strided`, the products reading it where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import numpy as np

from minimodels.sim.cache import kernels
from minimodels.sim.cache.blocks import Layout, stored, trace
from minimodels.sim.cache.gpu import Counts, Slice
from minimodels.sim.cache.kernels import Kernel
from minimodels.sim.cache.layouts import Chain, Launch
from minimodels.sim.cache.lru import LINE, Accesses
from minimodels.sim.device import Device

State = Literal["cold", "warm"]
FAMILIES = {"bmm": "gemm", "softmax": "softmax", "mul": "elementwise", "add": "elementwise", "reshape": "copy",
            "contiguous": "copy"}  # fmt: skip
COPIES = ("reshape", "contiguous")
FOOTPRINT = 4  # L2 caches that the largest tensor of the sample fills, if the whole one does


@dataclass(frozen=True, slots=True)
class Found:
    """What one launch finds, scaled to its whole batch."""

    launch: Launch
    family: str
    counts: Counts


def run(chain: Chain, device: Device, state: State, footprint: float = FOOTPRINT) -> Iterator[Found]:
    """The launches of a chain on a slice of the device, sampled; footprint: how large a sample."""
    part = Slice(device)
    batch = prod(chain.launches[-1].writes.sizes[:-2])
    count = sample(chain, batch, part, footprint)
    launches = list(reused(chain.launches))
    if state == "warm":
        for layout in _given(launches):
            part.run(_written(layout, count), 1.0)
    for launch in launches:
        if state == "cold":
            part.l2.flush()
        kernel = made(launch, count, device)
        counts = part.run(trace(kernel.steps, kernel.resident), kernel.instructions, kernel.through_l1)
        if state == "cold":
            counts.memory_writes += part.l2.flush()
        whole = Counts()
        whole.add(counts, batch / count)
        yield Found(launch, FAMILIES[launch.name], whole)


def sample(chain: Chain, batch: int, part: Slice, footprint: float) -> int:
    """Matrices of the batch to run: the slice's share, or as many as make any larger tensor stream through the L2."""
    largest = max(prod(launch.writes.sizes) * launch.writes.itemsize for launch in chain.launches) / batch
    return max(1, min(round(batch * part.share), round(footprint * part.l2_bytes / largest)))


def made(launch: Launch, count: int, device: Device) -> Kernel:
    """The kernel of a launch, on `count` matrices.

    Raises:
        ValueError: no kernel of that operator is modelled.
    """
    reads, out = launch.reads, launch.writes
    if launch.name == "bmm":
        return kernels.matmul(reads[0], reads[1], out, count, device)
    if launch.name == "softmax":
        return kernels.softmax(reads[0], out, count)
    if launch.name in ("mul", "add"):
        return kernels.scale(reads[0], out, count)
    if launch.name in COPIES:
        return kernels.copy(reads[0], replace(out, sizes=reads[0].sizes, strides=_in_one_piece(reads[0])), count)
    raise ValueError(f"attention runs {launch.name}, of which no accesses are modelled; {', '.join(FAMILIES)} are")


def strided(chain: Chain) -> Chain:
    """The same call without its copies: products read queries, keys and values where they lie."""
    lie = {launch.writes.base: launch.reads[0] for launch in chain.launches if launch.name in COPIES}

    def where(layout: Layout) -> Layout:
        before = lie.get(layout.base)
        if before is None:
            return layout
        if layout.sizes[-2:] == before.sizes[-2:]:
            return before
        flipped = (*before.sizes[:-2], before.sizes[-1], before.sizes[-2])
        return replace(before, sizes=flipped, strides=(*before.strides[:-2], before.strides[-1], before.strides[-2]))

    kept = [
        replace(launch, reads=tuple(map(where, launch.reads))) for launch in chain.launches if launch.name not in COPIES
    ]
    return replace(chain, launches=kept)


def reused(launches: list[Launch]) -> Iterator[Launch]:
    """The launches where the third matrix of scores takes the place of the first, as torch's allocator gives it out."""
    scores = [launch.writes for launch in launches if launch.writes.sizes[-1] == launches[-1].reads[0].sizes[-1]]
    scores = [layout for layout in scores if prod(layout.sizes) == prod(launches[-1].reads[0].sizes)]
    moved = {layout.base: scores[place - 2].base for place, layout in enumerate(scores) if place > 1}
    for launch in launches:
        reads = tuple(replace(x, base=moved.get(x.base, x.base)) for x in launch.reads)
        out = launch.writes
        yield replace(launch, reads=reads, writes=replace(out, base=moved.get(out.base, out.base)))


def _given(launches: list[Launch]) -> Iterator[Layout]:
    """What the chain reads but does not write: queries, keys and values."""
    known = {launch.writes.base for launch in launches}
    for launch in launches:
        for layout in launch.reads:
            if layout.base not in known:
                known.add(layout.base)
                yield layout


def _written(layout: Layout, count: int) -> Accesses:
    """Stores of the first `count` matrices of a tensor, rows in one piece."""
    order = np.argsort([-stride for stride in layout.strides[-2:]], kind="stable")
    rows, columns = (layout.sizes[-2:][place] for place in order)
    apart = layout.strides[-2:][order[0]] * layout.itemsize
    first = layout.matrices(count)[:, None] + apart * np.arange(rows)
    assert layout.itemsize * columns <= LINE * 64, "rows of features"
    return stored(first.reshape(-1), layout.itemsize * columns)


def _in_one_piece(layout: Layout) -> tuple[int, ...]:
    return tuple(prod(layout.sizes[place + 1 :]) for place in range(len(layout.sizes)))
