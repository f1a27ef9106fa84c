"""What torch.profiler saw of a run: its outermost operators in step order, and the device's work for each.

`Labels` runs the model: every scope becomes a `record_function` range, loops run given knots in shuffled order,
each inside a range that says where it belongs. `outermost` reads the trace back and puts the knots in order.
`times` shares out the device's time: an operator's own is that of the kernels launched inside it (correlation
ids), its gap is how long the device was idle before them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, NamedTuple, Self, TypeVar

import torch
from torch._C._autograd import DeviceType, _KinetoEvent
from torch.profiler import ProfilerActivity, profile, record_function

from minimodels.kernels.scope import STAGE, AttentionCall, label
from minimodels.sim.knots import shares
from minimodels.sim.trace import Walk

T = TypeVar("T")
STEP = "step "
Path = tuple[int, ...]  # of a loop: (its place among the loops around it, step, its place in that step, ...)


Kind = Literal["operator", "label", "device", "other"]  # device: kernels, copies, fills; other: CUDA calls and such


class Event(NamedTuple):
    """An entry of a trace; times in nanoseconds."""

    kind: Kind
    name: str
    start: int
    end: int
    number: int  # correlation id of an operator
    cause: int  # correlation id of the operator that launched it


@dataclass(slots=True)
class Executed:
    """An outermost operator of a run: the operators inside it, the device's work for it; nanoseconds.

    kernels: names of that work, in the same order.
    """

    name: str
    start: int
    end: int
    inside: list[str] = field(default_factory=list)
    work: list[tuple[int, int]] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long the host took over it."""
        return (self.end - self.start) * 1e-9


class Nest:
    """Names loops by where they run, so that two runs of one pipeline agree whatever the order of the steps."""

    def __init__(self) -> None:
        self._inside: Path = ()
        self._loops: dict[Path, int] = {}

    def loop(self) -> Path:
        """The name of a loop that begins."""
        place = self._loops.get(self._inside, 0)
        self._loops[self._inside] = place + 1
        return (*self._inside, place)

    @contextmanager
    def step(self, loop: Path, step: int) -> Iterator[None]:
        """Run one step of a loop."""
        before, self._inside = self._inside, (*loop, step)
        yield
        self._inside = before


class KnotWalk(Walk):
    """A walk that remembers how long each loop is, which steps of it ran, and for how many each of them stands."""

    def __enter__(self) -> Self:
        self.knots: dict[Path, list[int]] = {}
        self.shares: dict[Path, dict[int, float]] = {}
        self.lengths: dict[Path, int] = {}
        self._nest = Nest()
        super().__enter__()
        return self

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        loop = self._nest.loop()
        self.knots[loop], self.lengths[loop] = [], n
        for step in super().loop(name, n, growth):
            self.knots[loop].append(step)
            with self._nest.step(loop, step):
                yield step
        taken = sorted(self.knots[loop])
        self.shares[loop] = dict(zip(taken, shares(taken, n, growth) if taken else [], strict=True))


class Labels:
    """The tracer of a profiled run. `settle` waits for the device; it is called around every stage."""

    clocks = False

    def __init__(self, knots: Mapping[Path, Sequence[int]], settle: Callable[[], None], seed: int) -> None:
        self._knots, self._settle, self._random = knots, settle, random.Random(seed)
        self._nest = Nest()

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        return self._stage(name) if kind == STAGE else record_function(label(kind, name))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._settle()
        with record_function(label(STAGE, name)):
            yield
            self._settle()

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        """The knots of a loop, shuffled: what drifts during a run then falls on all of them."""
        loop = self._nest.loop()
        knots = list(self._knots[loop])
        self._random.shuffle(knots)
        for step in knots:
            with self._nest.step(loop, step), record_function(f"{STEP}{'.'.join(map(str, (*loop, step)))} of {name}"):
                yield step


def trace(run: Callable[[], object], on_gpu: bool) -> list[Event]:
    """Profile `run` and return what happened, by time."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library logs every start to stderr
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        run()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [
        Event(_kind(e), e.name(), e.start_ns(), e.end_ns(), e.correlation_id(), e.linked_correlation_id())
        for e in profiler.profiler.kineto_results.events()
    ]
    return sorted(events, key=lambda event: (event.start, -event.end))


def _kind(event: _KinetoEvent) -> Kind:
    on_host = event.device_type() == DeviceType.CPU
    if event.is_user_annotation():
        return "label" if on_host else "other"
    if not on_host:
        return "device"
    return "operator" if "::" in event.name() else "other"


def outermost(events: Iterable[Event]) -> tuple[list[Executed], float]:
    """The outermost operators of a trace, loops in step order, and seconds of device work that none launched."""
    found: list[tuple[tuple[int, ...], Executed]] = []
    owner: dict[int, Executed] = {}
    begun: dict[Path, int] = {}
    steps: list[tuple[Path, int]] = []
    current: Executed | None = None
    device_work: list[Event] = []
    for event in events:
        if event.kind == "device":
            device_work.append(event)
        elif event.kind == "label" and event.name.startswith(STEP):
            path = path_of(event)
            begun.setdefault(path[:-1], event.start)
            steps = [*still_open(steps, event.start), (path, event.end)]
        elif event.kind == "operator":
            if current is None or event.start >= current.end:
                steps = still_open(steps, event.start)
                current = Executed(event.name.removeprefix("aten::"), event.start, event.end)
                found.append((_order(steps[-1][0] if steps else (), begun, event.start), current))
            else:
                current.inside.append(event.name.removeprefix("aten::"))
            owner[event.number] = current
    lost = 0
    for event in device_work:
        if event.cause in owner:
            owner[event.cause].work.append((event.start, event.end))
            owner[event.cause].kernels.append(event.name)
        else:
            lost += event.end - event.start
    return [operator for _, operator in sorted(found, key=lambda pair: pair[0])], lost * 1e-9


def path_of(event: Event) -> Path:
    """Which step of which loop a step's label names."""
    return tuple(map(int, event.name.split(" ")[1].split(".")))


def still_open(around: list[tuple[T, int]], now: int) -> list[tuple[T, int]]:
    """Those that have not ended, of things and the times they end at."""
    return [one for one in around if one[1] > now]


def _order(path: Path, begun: Mapping[Path, int], start: int) -> tuple[int, ...]:
    """Sorts operators by time, but those of a loop by step, where the loop began."""
    loops = range(1, len(path) + 1, 2)
    return (*chain.from_iterable((begun[path[:end]], path[end]) for end in loops), start)


def device_seconds(operator: Executed) -> float:
    """How long the device worked for an operator."""
    return sum(end - start for start, end in operator.work) * 1e-9


def times(operators: Sequence[Executed], stages: Iterable[int]) -> list[tuple[float, float]]:
    """Device seconds of each operator, and those that the device idled before it since its stage began.

    stages: when each stage began, in nanoseconds; the device was idle then.
    """
    spans = [(start, end, index) for index, operator in enumerate(operators) for start, end in operator.work]
    spans += [(start, start, -1) for start in stages]
    spans.sort()
    result = [[0, 0] for _ in operators]
    busy = spans[0][0] if spans else 0
    for start, end, index in spans:
        if index >= 0:
            result[index][0] += end - start
            result[index][1] += max(0, start - busy)
        busy = max(busy, end)
    return [(device * 1e-9, gap * 1e-9) for device, gap in result]


def stage_starts(events: Iterable[Event]) -> list[int]:
    """When each stage of a trace began, in nanoseconds."""
    return [e.start for e in events if e.kind == "label" and e.name.startswith(f"{STAGE}.")]


def attention_backend_of(operator: Executed) -> str | None:
    """The kernel that a call of torch's attention ran, None if it is none: flash, efficient, cudnn or math."""
    prefix = "_scaled_dot_product_"
    inside = next((name.removeprefix(prefix) for name in operator.inside if name.startswith(prefix)), None)
    if inside is None:
        return None
    return next((name for name in ("flash", "efficient", "cudnn", "math") if name in inside), inside)


def device_settle(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has done all that was asked of it."""
    if device.type != "cuda":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)
