"""One executed operator as a walk records it: the input of the cost model and of the memory model.

`Call` is one execution of an operator at one place, `Timing` how long that took, `Priced` how long the cost model
says it takes, and what it was priced as. What it does is `kernels.work.Work`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from minimodels.kernels.work import Work

if TYPE_CHECKING:
    from minimodels.kernels.scope import AttentionCall  # imports torch, which a list of devices has no use for


L2State = Literal["cold", "fed", "warm"]
"""What of a kernel's data lies in the L2 cache, as far as it fits: nothing, what it reads, what it writes as well."""


@dataclass(slots=True)
class Call:
    """One execution of an operator at one place; `weight` executions in all are meant by it."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    work: Work
    stage: str
    scope: str
    module: str | None
    category: str
    role: str | None
    attention: AttentionCall | None
    reads: tuple[int, ...] = ()  # storages read and written, by walk-wide number
    writes: tuple[int, ...] = ()
    live: int = 0  # bytes alive during the call, workspace included, weights left out
    weight: float = 1.0
    steps: int | None = None  # iterations of the loops around it, multiplied
    starts: bool = False  # the first call of an iteration
    growing: bool = False  # inside a loop whose key length grows from step to step
    l2: L2State = "cold"  # warm: run again and again on the same data, as benchmarks do
    phase: str = "forward"  # of training: forward, backward, optimizer or communication
    tf32: bool = True  # a convolution in float32 may use the tensor cores, as torch lets it


@dataclass(frozen=True, slots=True)
class Timing:
    """Predicted or measured seconds of one execution of a call."""

    device_seconds: float
    host_seconds: float
    gap_seconds: float
    bound: str | None  # None where it was measured
    provenance: str


@dataclass(frozen=True, slots=True)
class Priced(Timing):
    """A predicted time, the work that takes it (in a compiled run less than the call alone would do), and why so long.

    error: how far off the seconds may be, as a share of them; utilisation: of what bounds it, from 0 to 1; tiles and
    waves: thread blocks, and rounds of them over the device, where the kernel has tiles.
    """

    work: Work
    error: float
    utilisation: float
    tiles: int | None
    waves: float | None
    l2: L2State

    def why(self) -> dict[str, Any]:
        """What an operator's record says of it beside the times."""
        return {name: getattr(self, name) for name in ("error", "utilisation", "tiles", "waves", "l2")}


def stretches(calls: Sequence[Call]) -> Iterator[tuple[int, int]]:
    """The stretches of calls that run one after another equally often: iterations and what lies between loops."""
    start = 0
    for stop, call in enumerate(calls):
        if stop > start and (call.starts or (call.weight, call.stage) != (calls[start].weight, calls[start].stage)):
            yield start, stop
            start = stop
    if calls:
        yield start, len(calls)
