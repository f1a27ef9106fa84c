"""The training step predicted for any number of GPUs: compute, communication, and how much of it is not hidden.

One walk of forward and backward serves all numbers of GPUs. For each, the copies that FSDP makes beside its
collectives are put between the calls, AdamW is walked over the shards, every call is priced by the cost model, and
`collectives` lays the units out on two lanes. The batch is per GPU: more GPUs do more work (weak scaling).

The host is charged for an operator of the backward pass what it is in the forward pass, though autograd calls them
without Python; that FSDP's own hooks take its time is left out. Both count where batches are small.

In the profile the collectives are a stage of their own, whose `seconds` are those of all collectives and whose
`wall_seconds` are those by which they make the step longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, fsum

import torch

from minimodels.kernels.work import Work
from minimodels.objective import Trainable
from minimodels.run import DTYPES, Run
from minimodels.sim import backward, collectives
from minimodels.sim.backward import REST, Walked
from minimodels.sim.call import Call, Timing
from minimodels.sim.collectives import Event, Fabric
from minimodels.sim.cost import predict
from minimodels.sim.device import Device
from minimodels.sim.formulas_training import TENSORS
from minimodels.sim.memory import RESERVE, Usage
from minimodels.sim.no_collector import no_collector
from minimodels.sim.profile import Profile, RunRecord
from minimodels.sim.simulate import device_of, device_record, environment, merge, stages

KEPT = 4  # bytes of a weight, a gradient, a moment as they are kept and reduced: float32
COPIES = 4  # of every weight in shards: itself, its gradient, two moments
COMMUNICATION = "communication"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A training step on some GPUs, in seconds; `events` are those of forward and backward."""

    gpus: int
    nodes: int
    samples: int
    profile: Profile
    events: list[Event]

    def stage(self, name: str) -> float:
        """Seconds of forward, backward or optimizer, FSDP's copies included."""
        return next(stage.seconds or 0.0 for stage in self.profile.stages if stage.name == name)

    @property
    def compute(self) -> float:
        """Seconds that a GPU computes, or waits for its host."""
        return fsum(stage.seconds or 0.0 for stage in self.profile.stages if stage.name != COMMUNICATION)

    @property
    def communication(self) -> float:
        """Seconds of all collectives, hidden or not."""
        return fsum(event.end - event.start for event in self.events if event.kind != "compute")

    @property
    def exposed(self) -> float:
        """Seconds by which collectives make the step longer."""
        return exposed(self.events)

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.exposed


def exposed(events: Sequence[Event]) -> float:
    """Seconds of some events in which nothing is computed."""
    computing = fsum(event.end - event.start for event in events if event.kind == "compute")
    return max(0.0, max(event.end for event in events) - computing)


@no_collector()
def predict_steps(
    config: Trainable, run: Run, gpus: Sequence[int], network: float = collectives.NETWORK
) -> list[Prediction]:
    """The predicted step for each number of GPUs; network: Gbit/s of each GPU to other nodes.

    Raises:
        ValueError: unknown device, one whose links are not known, or a number of GPUs that fills nodes unevenly.
    """
    device = device_of(run)
    fabric = collectives.fabric_of(device, network)
    for number in gpus:
        fabric.nodes(number)
    walked = backward.walk_training(config, run, device)
    return [_Step(config, run, device, walked, fabric, number).predict() for number in gpus]


@dataclass(frozen=True, slots=True)
class _Step:
    """One training step on so many GPUs, before it is priced."""

    config: Trainable
    run: Run
    device: Device
    walked: Walked
    fabric: Fabric
    gpus: int

    def predict(self) -> Prediction:
        walked, gpus = self.walked, self.gpus
        calls, units = self._with_copies()
        shards = [backward.shard(shape, gpus) for shapes in walked.parameters.values() for shape in shapes]
        calls += backward.walk_optimizer(shards)
        timings: list[Timing] = list(predict(calls, self.device, self.run.mode))
        events = self._laid_out(calls, units, timings)
        for call, timing in self._sent(events):
            calls.append(call)
            timings.append(timing)
        weights = COPIES * KEPT * sum(torch.Size(shape).numel() for shape in shards)
        profile = self._profile(calls, timings, weights, exposed(events))
        return Prediction(gpus, self.fabric.nodes(gpus), gpus * self.run.batch, profile, events)

    @property
    def itemsize(self) -> int:
        """Bytes of a gathered weight."""
        return torch.empty(0, dtype=DTYPES[self.run.dtype]).element_size()

    def _with_copies(self) -> tuple[list[Call], list[str]]:
        """Forward and backward with the copies of FSDP: into and out of every collective's buffer."""
        walked = self.walked
        places = list(zip([call.stage for call in walked.calls], walked.units, strict=True))
        first = {place: index for index, place in reversed(list(enumerate(places)))}
        last = {place: index for index, place in enumerate(places)}
        calls: list[Call] = []
        units: list[str] = []
        for index, (place, call) in enumerate(zip(places, walked.calls, strict=True)):
            stage, unit = place
            around = []
            if first[place] == index and place != ("backward", REST):
                around += self._unshard(unit, call)
            around.append(call)
            if last[place] == index and stage == "backward":
                around.append(self._copy("fsdp::chunk_cat", unit, call, self.itemsize, KEPT))
            calls += around
            units += [unit] * len(around)
        return calls, units

    def _unshard(self, unit: str, beside: Call) -> list[Call]:
        into = self._copy("fsdp::all_gather_copy_in", unit, beside, KEPT / self.gpus, self.itemsize / self.gpus)
        out = self._copy("fsdp::split_with_sizes_copy", unit, beside, self.itemsize, self.itemsize)
        return [into, out] if self.gpus > 1 else [into]

    def _copy(self, name: str, unit: str, beside: Call, read: float, written: float) -> Call:
        """A copy of a unit's weights or gradients, with the bytes that are read and written of each."""
        count = self.walked.elements(unit)
        launches = ceil(len(self.walked.parameters[unit]) / TENSORS)
        work = Work("copy", 0, round(read * count), round(written * count), launches)
        return _call(name, unit, beside.stage, self.run.dtype, work, "Memory", beside.live)

    def _laid_out(self, calls: Sequence[Call], units: Sequence[str], timings: Sequence[Timing]) -> list[Event]:
        spent = [timing.device_seconds + timing.gap_seconds for timing in timings]
        own = ([i for i in range(len(units)) if calls[i].stage == stage] for stage in ("forward", "backward"))
        forward, back = (collectives.segments([units[i] for i in part], [spent[i] for i in part]) for part in own)
        gather, scatter = (
            {unit: self.fabric.ring(size * self.walked.elements(unit), self.gpus)[0] for unit in self.walked.parameters}
            for size in (self.itemsize, KEPT)
        )
        return collectives.overlapped(forward, back, gather, scatter, REST)

    def _sent(self, events: Sequence[Event]) -> Iterator[tuple[Call, Timing]]:
        """The collectives as calls, with their times."""
        for event in events:
            if event.kind == "compute":
                continue
            size = self.itemsize if event.kind == "all_gather" else KEPT
            whole = size * self.walked.elements(event.unit)
            part = -(-whole // self.gpus)
            read, written = (part, whole) if event.kind == "all_gather" else (whole, part)
            hops = self.fabric.ring(whole, self.gpus)[1]
            work = Work("none", 0, read, written)
            call = _call(event.kind, event.unit, COMMUNICATION, self.run.dtype, work, "Communication", 0)
            yield call, Timing(event.end - event.start, 0.0, 0.0, "launch" if hops else "link", "datasheet")

    def _profile(self, calls: list[Call], timings: list[Timing], weights: int, exposed: float) -> Profile:
        ops, order = merge(calls, timings)
        record = RunRecord.of(self.run, self.config.run).model_dump() | {
            "gpus": self.gpus, "network_gbit": self.fabric.network * 8 / 1e9,
        }  # fmt: skip
        usage = Usage([weights + self._gathered() + call.live for call in calls], 0)
        return Profile(
            source="simulated",
            config=self.config.model_dump(mode="json"),
            run=RunRecord.model_validate(record),
            environment=environment(),
            device=device_record(self.device, calls, self.run.dtype),
            stages=tuple(
                stage.model_copy(update={"wall_seconds": exposed}) if stage.name == COMMUNICATION else stage
                for stage in stages(ops)
            ),
            memory=usage.finish(order, weights, self.device.datasheet.memory_bytes, RESERVE),
            ops=tuple(ops),
            calls=tuple(order),
        )

    def _gathered(self) -> int:
        """Bytes of weights gathered at once, and of gradients on their way: those of the two largest blocks, the rest.

        Every unit keeps its gathered weights until it is done, while the next is gathered; its gradients are copied to
        float32 before they are scattered.
        """
        sizes = sorted(self.walked.elements(unit) for unit in self.walked.parameters if unit != REST)
        largest = sizes[-1] if sizes else 0
        return self.itemsize * (sum(sizes[-2:]) + self.walked.elements(REST)) + (self.itemsize + KEPT) * largest


def _call(name: str, unit: str, stage: str, dtype: str, work: Work, category: str, live: int) -> Call:
    return Call(name, (), dtype, work, stage, unit, None, category, None, None, live=live, phase=COMMUNICATION)
