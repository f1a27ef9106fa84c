"""Which operator launched which kernel of a replayed CUDA graph: the one that launched it at capture, by order.

A replay is one launch by the host, and all of its kernels carry that launch's correlation id: nothing in a trace says
which operator one of them came from. But a graph that was captured on one stream runs its kernels in the order of
capture, and an eager run of the same operators launches the same kernels in the same order, each with its operator.
So kernel k of a replay belongs to the operator that launched kernel k of the eager run; their names must agree.

Kernels beside the graph's own (before a graph with random numbers torch fills in where their sequence stands) belong
to no operator: their time is part of the gap before the graph's first kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from statistics import median

from minimodels.sim.profiler import Event, Executed

LAUNCHES = ("cudaGraphLaunch", "cuGraphLaunch", "hipGraphLaunch")  # of CUDA's runtime, its driver, and ROCm


class Differs(ValueError):
    """A replay does not hold the kernels that were captured; the message says where they differ."""


def replays(events: Iterable[Event]) -> list[list[Event]]:
    """The device's work of every graph launch of a trace, launches and their kernels in the order of time."""
    groups: dict[int, list[Event]] = {}
    work: list[Event] = []
    for event in sorted(events, key=lambda event: event.start):
        if event.kind == "device":
            work.append(event)
        elif event.name.startswith(LAUNCHES):
            groups.setdefault(event.number, [])
    for event in work:
        if event.number in groups:
            groups[event.number].append(event)
    return list(groups.values())


def attribute(kernels: Sequence[Event], captured: Sequence[Executed]) -> list[Executed]:
    """The operators `captured`, each with its own share of the kernels of one replay.

    Raises:
        Differs: there are more or fewer kernels, or others.
    """
    expected = [(name, operator.name) for operator in captured for name in operator.kernels]
    for place, (kernel, (name, launcher)) in enumerate(zip(kernels, expected, strict=False)):
        if _kind(kernel.name) != _kind(name):
            raise Differs(
                f"kernel {place:,} of a replay is {_short(kernel.name)}, at capture {launcher} launched {_short(name)}"
            )
    if len(kernels) != len(expected):
        raise Differs(f"a replay has {len(kernels):,} kernels, of {len(expected):,} at capture; those it has agree")
    left = iter(kernels)
    result = []
    for one in captured:
        own = list(islice(left, len(one.kernels)))
        work, names = [(kernel.start, kernel.end) for kernel in own], [kernel.name for kernel in own]
        result.append(replace(one, work=work, kernels=names))
    return result


def typical(replayed: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Device and gap seconds of each operator: their medians over several replays of one graph."""
    return [
        (median(device for device, _ in same), median(gap for _, gap in same)) for same in zip(*replayed, strict=True)
    ]


def _kind(name: str) -> str:
    """What must agree: a kernel's name; of copies and fills not the kinds of memory, which are unknown in a replay."""
    return name.partition(" ")[0] if name.startswith(("Memcpy", "Memset")) else name


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."
