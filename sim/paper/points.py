"""The calls of attention over one inference: how long, and what the kernels around them move and find.

The length of a call is that of its queries; where one token after the other is decoded, that of its keys. Attention to
the text is not among them. A loop whose steps are all alike is cut to its fundamental period, as in the study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim import views
from minimodels.sim.cache.layouts import SampledWalk
from minimodels.sim.cache.tensors import Loaded, loads
from minimodels.sim.job import of_config
from minimodels.sim.paper.study import Study, config_of
from minimodels.sim.profile import Op, Profile
from minimodels.sim.simulate import profile_of, walk_job

WINDOWS = ("attention kernels", "attention block", "all operators")  # since the call before


@dataclass(frozen=True, slots=True)
class Point:
    """A call of attention to itself: its number in the period, its length in tokens, the calls it stands for.

    bandwidth: bytes moved a second by the kernels of each window; places: of these kernels' operators in the profile's
    calls.
    """

    stage: str
    number: int
    length: int
    executions: float
    bandwidth: dict[str, float | None]
    places: dict[str, tuple[int, ...]]


def points(profile: Profile, *stages: str) -> list[Point]:
    """The calls of attention in one fundamental period of the stages, one stage after the other."""
    found: list[Point] = []
    for stage in stages:
        mine = list(_points(profile, stage, found[-1].number + 1 if found else 0))
        repeated = views.period([point.length for point in mine])
        found += mine[:repeated] if repeated > 1 else mine
    return found


def _points(profile: Profile, stage: str, start: int) -> Iterator[Point]:
    """The listed calls of a stage; a loop that is listed at a few of its steps grows by one key a step."""
    calls = [call for call in views.attention_calls(profile) if call.stage == stage and call.facts.role != "cross"]
    growing = all(call.facts.query_length == 1 for call in calls)
    first = calls[0].facts.key_length
    each = sum(call.facts.key_length == first for call in calls)  # calls in a step
    before = next(place for place, op in enumerate(profile.calls) if profile.ops[op].stage == stage)
    for index, call in enumerate(calls):
        end = call.call
        while end < len(profile.calls) and profile.ops[profile.calls[end]].attention == call.facts:
            end += 1
        since = range(before, end)
        block = [place for place in since if profile.ops[profile.calls[place]].module == "attention"]
        places = {name: tuple(own) for name, own in zip(WINDOWS, (range(call.call, end), block, since), strict=True)}
        yield Point(
            stage,
            start + ((call.facts.key_length - first) * each + index % each if growing else index),
            call.facts.key_length if growing else call.facts.query_length,
            float(call.executions),
            {name: _bandwidth([profile.ops[profile.calls[place]] for place in own]) for name, own in places.items()},
            places,
        )
        before = end


def _bandwidth(ops: Sequence[Op]) -> float | None:
    """Bytes a second while kernels run, as a profiler of kernels counts them."""
    seconds = sum(op.device_seconds or 0.0 for op in ops)
    return sum(op.bytes_read + op.bytes_written for op in ops) / seconds if seconds else None


def correlation(found: Sequence[Point], values: Sequence[float | None]) -> float | None:
    """Pearson's coefficient of length and a value of each call over all calls; None where either does not vary."""
    pairs = zip(found, values, strict=True)
    known = [(point.length, used, point.executions) for point, used in pairs if used is not None]
    if not known:
        return None
    lengths, used, weights = (np.array(column, dtype=float) for column in zip(*known, strict=True))
    if np.ptp(lengths) == 0 or np.ptp(used) <= 1e-9 * used.max():
        return None
    (a, both), (_, b) = np.cov(lengths, used, aweights=weights)
    return float(both / (a * b) ** 0.5)


def sampled(study: Study, workload: str, attention: str) -> tuple[Profile, list[Loaded] | None]:
    """A workload's profile at more steps of loops that grow, and what each of its calls loads.

    From a model of whole tensors in the L2 cache (`sim.cache.tensors`); where the device is measured, the profile is
    the study's and loads are None.
    """
    if study.device == "cuda":
        return study.profile(workload, attention), None
    run, device = Run(device=study.device, attention=attention), devices.load(study.device)
    job = of_config(config_of(workload, (), **study.changed(workload)), run)
    walk = walk_job(job, run, device, study.progress, SampledWalk)
    return profile_of(job, run, walk), list(loads(walk, device))


def miss_rates(found: Sequence[Point], loaded: Sequence[Loaded] | None) -> dict[str, list[float | None]]:
    """Of each window of each call, the share of the bytes it asks the L2 cache for that come from memory, if known."""
    if loaded is None:
        return {window: [None] * len(found) for window in WINDOWS}
    return {window: [_missed([loaded[place] for place in point.places[window]]) for point in found]
            for window in WINDOWS}  # fmt: skip


def _missed(block: Sequence[Loaded]) -> float | None:
    asked = sum(load.asked for load in block)
    return sum(load.missed for load in block) / asked if asked else None
