"""A walk that keeps how tensors lie in memory: sizes and strides of what attention reads and writes, as it is called.

`Chain` is one call of attention written out: its kernels in order, each with the layouts of its tensors. `touched` says
which storages an operator reads and writes, and how many bytes of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from minimodels.kernels.scope import AttentionCall
from minimodels.kernels.work import stored_bytes
from minimodels.kinds import Config
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim.cache.blocks import Layout
from minimodels.sim.call import Call
from minimodels.sim.job import of_config
from minimodels.sim.progress import Advance, silent
from minimodels.sim.simulate import walk_job
from minimodels.sim.trace import Walk

PRODUCTS = 2  # of queries and keys, of weights and values
APART = 40  # bits between the addresses of two storages


@dataclass(frozen=True, slots=True)
class Launch:
    """One operator of attention written out."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    reads: tuple[Layout, ...]
    writes: Layout


class Touched(NamedTuple):
    """Storages that a call reads and writes, each with the bytes it touches of it."""

    reads: tuple[tuple[int, int], ...]
    writes: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Chain:
    """A call of attention: where it is made, of what sizes, and its operators."""

    stage: str
    role: str
    facts: AttentionCall
    launches: list[Launch] = field(default_factory=list)


class LayoutWalk(Walk):
    """Remembers the first chain of every kind of call, and what every call touches."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.chains: dict[tuple[str, str, AttentionCall], Chain] = {}
        self._touched: dict[int, Touched] = {}  # by the call's identity: loops put their calls in order at the end
        self._open: Chain | None = None

    def touched(self, call: Call) -> Touched:
        """What a call of this walk touches."""
        return self._touched[id(call)]

    def _record(self, memo: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        super()._record(memo, inputs, outputs)
        call, place = self.calls[-1], self._place
        sizes = zip((inputs, outputs), (call.reads, call.writes), strict=True)
        pairs = (tuple(zip(numbers, map(stored_bytes, tensors), strict=True)) for tensors, numbers in sizes)
        self._touched[id(call)] = Touched(*pairs)
        if place.core is None or place.role is None:
            self._open = None
            return
        key = (place.stage, place.role, place.core)
        if key not in self.chains:
            self._open = self.chains[key] = Chain(*key)
        chain = self._open
        if chain is None or chain is not self.chains[key]:
            return
        reads = tuple(_layout(t, n) for t, n in zip(inputs, call.reads, strict=True) if t.dim() > 1)
        chain.launches.append(Launch(memo.name, memo.shapes, reads, _layout(outputs[0], call.writes[0])))
        if sum(launch.name == "bmm" for launch in chain.launches) == PRODUCTS:
            self._open = None  # complete: the same call is made again and again


def _layout(tensor: Tensor, storage: int) -> Layout:
    size = tensor.element_size()
    return Layout(
        tuple(tensor.shape), tensor.stride(), (abs(storage) << APART) + size * int(tensor.storage_offset()), size
    )


class SampledWalk(LayoutWalk):
    """Sees a loop that grows at steps a sixteenth of it apart, not only at those that tell its time."""

    least = 19  # the two at either end, and fifteen between


def walked(config: Config, run: Run, progress: Advance = silent) -> LayoutWalk:
    """Walk one inference of a config; its calls are those of the profile that `simulate` makes."""
    return walk_job(of_config(config, run), run, devices.load(run.device), progress, LayoutWalk)
