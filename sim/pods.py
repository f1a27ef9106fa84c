"""Requests in flight on one GPU with their denoising steps staggered: "pods", which section V-A of the study suggests.

A stream is one step of the longest loop of a profile's longest stage, again and again: its kernels in call order with
the gaps before them. Offsets say how far into its step each of k streams is at the start; every stream then does the
same whole number of steps.

The model. Alone, a kernel takes its time of the profile, and asks meanwhile for a share of the memory bandwidth and of
the compute units: all of what bounds it; of the other what its bytes or FLOPs take of the device's rate; of the compute
units, where its tiles do not fill them, what they fill. Where the kernels that run at one moment ask for more than
there is, each gets its share in proportion: all of them that ask for it are slowed by the sum. A kernel runs as slowly
as what it gets least of. In a gap nothing is asked for.

What it leaves out: that thread blocks of one kernel keep those of another off the compute units, that kernels push
each other's data out of the caches, that launches from several hosts are waited for, and the power limit. All of these
cost time, so that what comes out is what staggering gains at most. A kernel whose gap hides what bounds it is taken to
be bound by what it asks for most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minimodels.sim import device as devices
from minimodels.sim import views
from minimodels.sim.flops import executed_flops
from minimodels.sim.profile import Op, Profile
from minimodels.sim.progress import Advance, silent

Array = NDArray[np.float64]
STEPS = 4  # of every stream in the runs that are shown
BINS = 240  # of a step, of what is drawn
GRID = 24  # offsets that are tried for a stream, evenly over a step
ROUNDS = 2  # times that every stream's offset is chosen anew
ROUNDING = 1e-9  # of a kernel, or of the device, is no more than rounding


@dataclass(frozen=True, slots=True)
class Stream:
    """One step of a loop: of each kernel or gap the seconds alone, shares of the device asked for, bytes per second."""

    stage: str
    steps: int
    seconds: Array
    memory: Array
    compute: Array
    bandwidth: Array

    @property
    def period(self) -> float:
        """Seconds of a step alone."""
        return float(self.seconds.sum())

    def least(self) -> float:
        """Seconds of a step that no sharing can go below: of the resource that is asked for most."""
        return float(max(self.seconds @ self.memory, self.seconds @ self.compute))


@dataclass(frozen=True, slots=True)
class Course:
    """A run in spans of constant speed: their lengths in seconds, bytes/s asked for and moved, what was short."""

    seconds: Array
    asked: Array
    moved: Array
    memory_short: NDArray[np.bool_]
    compute_short: NDArray[np.bool_]

    def share(self, spans: NDArray[np.bool_]) -> float:
        """The share of the time that some spans take."""
        return float(self.seconds @ spans / self.seconds.sum())

    def mean_moved(self) -> float:
        """Bytes moved a second."""
        return float(self.seconds @ self.moved / self.seconds.sum())


@dataclass(frozen=True, slots=True)
class Way:
    """A way to do a step of every request: seconds, the run it was found in, offsets in shares of a step."""

    seconds: float
    course: Course
    offsets: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Pods:
    """The ways to do a step of all requests, and the bytes that the requests need at once, weights shared."""

    profile: Profile
    step: Stream
    requests: int
    ways: dict[str, Way]
    memory: int

    @property
    def gain(self) -> float:
        """How much more the best offsets do in the same time than all aligned, as a share."""
        return self.ways["aligned"].seconds / self.ways["best offsets"].seconds - 1


def stream(profile: Profile) -> Stream:
    """A step of the loop in which the profile's longest stage spends its time; of a stage without a loop, all of it.

    Of a loop whose steps grow, the one in the middle of those that are listed.

    Raises:
        ValueError: an operator has no time, the device's rates are not known, or steps differ in their operators.
    """
    bandwidth, peak = profile.device.bandwidth, profile.device.peak_flops
    if bandwidth is None or peak is None or views.totals(profile.ops).untimed:
        raise ValueError(f"{profile.config['name']}: pods need the time of every operator and the rates of the device")
    stage = max(profile.stages, key=lambda stage: stage.seconds or 0.0)
    ops = _one_step(profile, stage.name, stage.steps)
    units = devices.load(profile.run.device).datasheet.compute_units
    rows: list[tuple[float, float, float, float]] = []
    for op in ops:
        assert op.device_seconds is not None and op.gap_seconds is not None
        if op.gap_seconds:
            rows.append((op.gap_seconds, 0.0, 0.0, 0.0))
        if op.device_seconds:
            moved = (op.bytes_read + op.bytes_written) / op.device_seconds
            worked = float(executed_flops(op)) / op.device_seconds
            rows.append((op.device_seconds, *_asked(op, moved / bandwidth, worked / peak, units), moved))
    return Stream(stage.name, stage.steps or 1, *np.array(rows).T)


def _one_step(profile: Profile, stage: str, steps: int | None) -> list[Op]:
    listed = Counter(profile.calls)
    calls = [i for i in profile.calls if profile.ops[i].stage == stage and profile.ops[i].steps == steps]
    if steps is None:
        return [profile.ops[i] for i in calls]
    executions = sum(profile.ops[i].weight / listed[i] for i in calls)
    each = round(executions / steps)
    if not each or abs(executions / steps - each) > 1e-6 or len(calls) % each:
        raise ValueError(f"{profile.config['name']}: the steps of {stage} differ in their operators, so none stands "
                         "for all")  # fmt: skip
    middle = len(calls) // each // 2 * each
    return [profile.ops[i] for i in calls[middle : middle + each]]


def _asked(op: Op, memory: float, compute: float, units: int) -> tuple[float, float]:
    """What a kernel asks for of the memory bandwidth and of the compute units, as shares of them."""
    memory, compute = min(1.0, memory), min(1.0, compute)
    match op.bound:
        case "memory":
            return 1.0, compute
        case "tensor" | "exp" | "l2":
            return memory, 1.0
        case "waves":
            filled = 1.0 if op.tiles is None else op.tiles / (units * max(1.0, op.waves or 1.0))
            return memory, min(1.0, max(compute, filled))
        case "launch":
            return memory, compute
        case _:
            return (1.0, compute) if memory >= compute else (memory, 1.0)


def speeds(memory: Array, compute: Array) -> Array:
    """How fast each of k kernels runs beside the others, alone 1, by what they ask for; shapes (..., k)."""
    return np.minimum(_proportional(memory), _proportional(compute))


def _proportional(asked: Array) -> Array:
    """What each gets of a resource, over what it asks for."""
    return np.where(asked > 0, 1.0 / np.maximum(1.0, asked.sum(axis=-1, keepdims=True)), 1.0)


def makespans(step: Stream, offsets: Array, steps: int) -> Array:
    """Seconds until all streams have done `steps` steps; offsets: shares of a step, (candidates, k)."""
    time = np.zeros(len(offsets))
    for span, _ in _spans(step, offsets, steps):
        time += span
    return time


def course(step: Stream, offsets: Array, steps: int = STEPS) -> Course:
    """One run span by span; offsets: shares of a step, (k,)."""
    rows = []
    for span, running in _spans(step, offsets[None], steps):
        memory, compute, asked = (part[running] for part in (step.memory, step.compute, step.bandwidth))
        moved = asked @ speeds(memory, compute)
        rows.append((span[0], asked.sum(), moved, memory.sum() > 1 + ROUNDING, compute.sum() > 1 + ROUNDING))
    seconds, asked, moved, *short = np.array(rows, dtype=float).T
    return Course(seconds, asked, moved, *(one.astype(bool) for one in short))


def _spans(step: Stream, offsets: Array, steps: int) -> Iterator[tuple[Array, NDArray[np.int64]]]:
    """Spans in which no kernel ends: their seconds for each candidate, and the first candidate's running kernels.

    A stream starts and ends in the middle of the kernel that its offset lies in.
    """
    count, ends = len(step.seconds), np.cumsum(step.seconds)
    at = (offsets % 1.0) * ends[-1]
    index = np.minimum(np.searchsorted(ends, at, side="right"), count - 1)
    left = ends[index] - at  # of the kernel that runs, in seconds alone
    begun = step.seconds[index] - left
    cut = begun > ROUNDING * step.seconds[index]
    more = steps * count - 1 + cut  # kernels after that one
    while (busy := left > 0).any():
        memory, compute = (np.where(busy, part[index], 0.0) for part in (step.memory, step.compute))
        speed = speeds(memory, compute)
        span = np.where(busy, left / speed, np.inf).min(axis=1)
        span[~busy.any(axis=1)] = 0.0
        yield span, index[0][busy[0]]
        left = np.where(busy, left - span[:, None] * speed, 0.0)
        done = busy & (left <= ROUNDING * step.seconds[index])
        index = np.where(done, (index + 1) % count, index)
        following = np.where(cut & (more == 1), begun, step.seconds[index]) * (more > 0)
        left, more = np.where(done, following, left), more - done


def evenly(requests: int) -> Array:
    """Offsets that are as far apart as can be, as shares of a step."""
    return np.arange(requests) / requests


def best_offsets(step: Stream, requests: int, progress: Advance = silent) -> Array:
    """Offsets, as shares of a step, that take the least time of those that a search tries.

    From evenly apart on, the offset of one stream after the other is chosen from a grid, over a run of one step. What
    that comes to is held against all aligned and evenly apart in the run that is shown.
    """
    turns = [stream for _ in range(ROUNDS if requests > 2 else 1) for stream in range(1, requests)]
    offsets, grid = evenly(requests), np.arange(GRID) / GRID
    for turn, stream in enumerate(turns):
        progress("offsets", turn, len(turns))
        tried = np.tile(offsets, (GRID + 1, 1))
        tried[1:, stream] = grid
        offsets = tried[makespans(step, tried, 1).argmin()]
    candidates = np.stack([np.zeros(requests), evenly(requests), offsets])
    return candidates[makespans(step, candidates, STEPS).argmin()]


def compare(profile: Profile, together: Profile, requests: int, progress: Advance = silent) -> Pods:
    """Requests of a profile in flight at once, aligned and staggered; together: the same model with them as one batch.

    Raises:
        ValueError: what `stream` raises, or fewer than two requests.
    """
    if requests < 2:
        raise ValueError(f"--requests {requests}: at least 2 share a GPU")
    step, batch = stream(profile), stream(together)
    offsets = {
        "aligned": np.zeros(requests),
        "evenly apart": evenly(requests),
        "best offsets": best_offsets(step, requests, progress),
    }
    alone, whole = course(step, np.zeros(1)), course(batch, np.zeros(1))
    ways = {"one after another": Way(requests * float(alone.seconds.sum()) / STEPS, alone)}
    for name, apart in offsets.items():
        found = course(step, apart)
        ways[name] = Way(float(found.seconds.sum()) / STEPS, found, tuple(map(float, apart)))
    ways["one batch"] = Way(float(whole.seconds.sum()) / STEPS, whole)
    memory = profile.memory
    return Pods(profile, step, requests, ways, memory.weights + requests * (memory.peak - memory.weights))


def over_time(course: Course, window: float) -> tuple[Array, Array]:
    """Means of what is asked for and moved in `BINS` parts of `window` seconds from the second step on; bytes/s."""
    ends = np.concatenate([[0.0], np.cumsum(course.seconds)])
    edges = ends[-1] / STEPS + np.linspace(0.0, window, BINS + 1)
    asked, moved = (
        np.diff(np.interp(edges, ends, np.concatenate([[0.0], np.cumsum(part * course.seconds)]))) * BINS / window
        for part in (course.asked, course.moved)
    )
    return asked, moved
