"""Collectives between GPUs, and how FSDP hides them behind compute.

All-gather and reduce-scatter run on rings, for which NCCL has no other algorithm: of its three protocols the fastest,

    seconds = start + hops within nodes + hops between nodes + (n - 1) / n x bytes / (share x bus)

where the bus of one node is its links, that of several also the network of all GPUs of a node, since a ring leaves a
node as often as there are network cards. A protocol has a start, a time per hop, and a share of the bus.

`overlapped` puts the units of a step on two lanes, compute and links, as torch's FSDP2 does: the next unit is gathered
while one runs; in the backward pass gradients are reduced and scattered behind the next gather; a unit's gradients wait
for those before it to have left. That collectives take compute units and bandwidth from the kernels beside them is
left out, as are the host's launches of them.

Sources: NCCL, src/graph/tuning.cc (protocols, the A100's 235 GB/s); torch/distributed/fsdp/_fully_shard (order).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import ceil
from typing import NamedTuple

from minimodels.sim.device import Device

NODE = 8  # GPUs of a node: the study, section III
NETWORK = 200.0  # Gbit/s of each GPU: HDR InfiniBand, NVIDIA DGX A100 datasheet; the study names no network
LINK_SHARE = 235 / 300  # NCCL's tuning of the A100; nccl issue 1281 has 350 of 450 GB/s on an H100
NETWORK_SHARE = 0.96  # 96 of 100 GB/s, four HDR cards per node of 8 A100 (nccl-tests issue 119)
LL_FAR = 1.8  # of a hop within a node, by the protocol for the smallest messages, where there are several nodes


class Protocol(NamedTuple):
    """Seconds of a start and of a hop over a link and over the network; shares of the bus in one and several nodes."""

    start: float
    link: float
    network: float
    near: float
    far: float


PROTOCOLS = {  # NCCL, src/graph/tuning.cc: rings
    "LL": Protocol(3.6e-6, 0.47e-6, 2.7e-6, 1 / 3, 1 / 4),
    "LL128": Protocol(10e-6, 1.9e-6, 4.0e-6, 0.92, 0.92),
    "Simple": Protocol(8.4e-6, 3.4e-6, 9.6e-6, 1.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Fabric:
    """What joins GPUs, in bytes per second each way: `link` of a GPU within its node, `network` of it to others."""

    link: float
    network: float
    node: int = NODE

    def nodes(self, gpus: int) -> int:
        """How many nodes so many GPUs fill.

        Raises:
            ValueError: they fill none, or several unevenly.
        """
        if gpus < 1 or gpus > self.node and gpus % self.node:
            raise ValueError(f"{gpus} GPUs: from 1 to {self.node}, or a multiple of {self.node}, the GPUs of a node")
        return ceil(gpus / self.node)

    def bus(self, gpus: int) -> float:
        """Bytes per second that every GPU of a ring passes on."""
        within, nodes = LINK_SHARE * self.link, self.nodes(gpus)
        return within if nodes == 1 else min(within, NETWORK_SHARE * self.network * self.node)

    def ring(self, moved: float, gpus: int) -> tuple[float, bool]:
        """Seconds of an all-gather into, or a reduce-scatter of, `moved` bytes, and whether hops are most of them."""
        if gpus == 1:
            return 0.0, False
        nodes, bus = self.nodes(gpus), self.bus(gpus)
        found = []
        for name, protocol in PROTOCOLS.items():
            hop = protocol.link * (LL_FAR if name == "LL" and nodes > 1 else 1)
            hops = protocol.start + (gpus - nodes) * hop + (nodes - 1) * protocol.network
            moving = (gpus - 1) / gpus * moved / (bus * (protocol.near if nodes == 1 else protocol.far))
            found.append((hops + moving, hops > moving))
        return min(found)


def fabric_of(device: Device, network: float = NETWORK) -> Fabric:
    """The links of a GPU, and a network of so many Gbit/s per GPU.

    Raises:
        ValueError: the device's file states no links, or there is no network.
    """
    if network <= 0:
        raise ValueError(f"a network has more than 0 Gbit/s, not {network:g}")
    if device.datasheet.link is None:
        raise ValueError(
            f"{device.name}: its device file states no links to other GPUs; those of a100-80gb, h100-sxm, h200, "
            "b200 and others do (datasheet.link)"
        )
    return Fabric(device.datasheet.link, network * 1e9 / 8)


class Segment(NamedTuple):
    """A stretch of compute in one unit, in seconds."""

    unit: str
    seconds: float


class Event(NamedTuple):
    """What runs from start to end, in seconds, in one of the passes: "compute", "all_gather" or "reduce_scatter"."""

    kind: str
    stage: str
    unit: str
    start: float
    end: float


def segments(units: Sequence[str], seconds: Sequence[float]) -> list[Segment]:
    """Calls, each in a unit and so many seconds long, as stretches."""
    pairs = groupby(zip(units, seconds, strict=True), key=lambda pair: pair[0])
    return [Segment(unit, sum(spent for _, spent in members)) for unit, members in pairs]


class _Lanes:
    """Two lanes and what has been put on them."""

    def __init__(self) -> None:
        self.stage = "forward"
        self.compute = self.links = 0.0
        self.events: list[Event] = []
        self.ready: dict[tuple[str, str], float] = {}  # when a collective of a unit has ended

    def run(self, segment: Segment) -> None:
        end = self.compute + segment.seconds
        self.events.append(Event("compute", self.stage, segment.unit, self.compute, end))
        self.compute = end

    def send(self, kind: str, unit: str, seconds: float) -> None:
        """A collective, as soon as the links are free and compute has come to where it is now."""
        start = max(self.links, self.compute)
        self.links = self.ready[kind, unit] = start + seconds
        if seconds:
            self.events.append(Event(kind, self.stage, unit, start, self.links))

    def wait(self, kind: str, unit: str) -> None:
        self.compute = max(self.compute, self.ready.get((kind, unit), 0.0))


def overlapped(
    forward: Sequence[Segment], backward: Sequence[Segment], gather: Mapping[str, float],
    scatter: Mapping[str, float], kept: str,
) -> list[Event]:  # fmt: skip
    """The events of forward and backward; gather, scatter: seconds of each unit's collectives.

    kept: the unit whose weights stay between the passes.
    """
    lanes = _Lanes()
    first, then = (list(dict.fromkeys(segment.unit for segment in stretches)) for stretches in (forward, backward))
    _pass(lanes, forward, first, gather, {})
    lanes.stage, lanes.ready = "backward", {}
    _pass(lanes, backward, [unit for unit in then if unit != kept], gather, scatter)
    return lanes.events


def _pass(
    lanes: _Lanes, stretches: Sequence[Segment], order: Sequence[str], gather: Mapping[str, float],
    scatter: Mapping[str, float],
) -> None:  # fmt: skip
    """One pass: units are gathered in order, each while the one before it runs, and scattered when they are done."""
    following = dict(pairwise(order))
    last = {segment.unit: index for index, segment in enumerate(stretches)}
    lanes.send("all_gather", order[0], gather[order[0]])
    begun, before = set(), None
    for index, segment in enumerate(stretches):
        unit = segment.unit
        if unit in order and unit not in begun:
            begun.add(unit)
            lanes.wait("all_gather", unit)
            if unit in following:
                lanes.send("all_gather", following[unit], gather[following[unit]])
        lanes.run(segment)
        if unit in scatter and index == last[unit]:
            if before is not None:
                lanes.wait("reduce_scatter", before)
            lanes.send("reduce_scatter", unit, scatter[unit])
            before = unit
    if before is not None:
        lanes.wait("reduce_scatter", before)
