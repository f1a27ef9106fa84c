"""The runs that a model is put through on its device: warm-up, clock, profiler.

The protocol and its definitions stand in `measure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import median

import torch

from minimodels.kernels.backend import attention_backend, kernel_backend
from minimodels.kernels.scope import STAGE, TRACER, AttentionCall, Tracer
from minimodels.run import Run
from minimodels.sim import profiler
from minimodels.sim.call import Call, Timing
from minimodels.sim.job import Prepared
from minimodels.sim.progress import Advance
from minimodels.sim.trace import Place

AGREE = 0.02  # of a run's time: two runs this close are warm
MORE_WARMUPS = 8  # runs after the warm-ups asked for, at most; then it is measured as it is
PASSES = 3  # profiled runs: of three, the first and coldest never is the median
LOST = 0.02  # of device time: what may belong to no operator


DEFECT = "that is a defect in minimodels, so please report it with this command; --device a100-80gb simulates meanwhile"


Pair = tuple[profiler.Executed, Call]  # an operator as it ran, and as it was walked


class Unmeasurable(RuntimeError):
    """The profiler's run cannot be set beside the walk; the message says what to do."""


def is_view(call: Call) -> bool:
    """Whether a call only looks at its argument in another shape, and launches nothing."""
    return call.work.kernel == "none" and not call.writes


@dataclass(slots=True)
class Timed:
    """A call of the walk as it ran: device, host and gap seconds of one execution."""

    call: Call
    device: float
    host: float
    gap: float

    def timing(self) -> Timing:
        """As the record keeps it; what bounds an operator cannot be measured."""
        return Timing(self.device, self.host, self.gap, None, "measured")


class _Clock:
    """The tracer of an unprofiled run: seconds by stage, those outside any stage included."""

    clocks = True

    def __init__(self, settle: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = {Place().stage: 0.0}
        self._settle = settle

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        return self._stage(name) if kind == STAGE else nullcontext()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._settle()
        begin = time.perf_counter()
        yield
        self._settle()
        seconds = time.perf_counter() - begin
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.seconds[Place().stage] -= seconds

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        return iter(range(n))


class Session:
    """A job on a device, and the runs it is put through.

    `converged`: the warm-up ended with two runs that agree; `attributed`: the least share of device time that a
    profiled run gave to operators; `allocator_peak`: bytes that the clocked runs allocated at most on a GPU.
    """

    def __init__(
        self, job: Prepared, walk: profiler.KnotWalk, run: Run, device: torch.device, progress: Advance
    ) -> None:
        self.converged = False
        self.attributed = 1.0
        self.allocator_peak: int | None = None
        self._device, self._on_gpu = device, device.type == "cuda"
        self._job, self._walk, self._run, self._progress = job, walk, run, progress
        self._settle = profiler.device_settle(device)

    def _perform(self, tracer: Tracer) -> None:
        token = TRACER.set(tracer)
        try:
            with attention_backend(self._run.attention), kernel_backend(self._run.kernels):
                self._job.run()
        finally:
            TRACER.reset(token)

    def _once(self) -> dict[str, float]:
        clock = _Clock(self._settle)
        self._settle()
        begin = time.perf_counter()
        self._perform(clock)
        self._settle()
        clock.seconds[Place().stage] += time.perf_counter() - begin
        return clock.seconds

    def warm_up(self) -> int:
        """Run until two runs in a row agree; how many it took."""
        most, before = self._run.warmup + MORE_WARMUPS, float("inf")
        for count in range(1, most + 1):
            self._progress("warming up", count, most)
            seconds = sum(self._once().values())
            if count >= self._run.warmup and abs(seconds - before) <= AGREE * seconds:
                self.converged = True
                return count
            before = seconds
        return most

    def clock(self) -> list[dict[str, float]]:
        """Seconds by stage of every timed run."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        result = []
        for count in range(1, self._run.repeats + 1):
            self._progress("timing", count, self._run.repeats)
            result.append(self._once())
        self.allocator_peak = torch.cuda.max_memory_allocated(self._device) if self._on_gpu else None
        return result

    def profile(self, number: int) -> list[Timed]:
        """One profiled run: every operator but views, with its time."""
        self._progress("profiling", number + 1, PASSES)
        pairs, events, lost = self._operators(number)
        kept = [(operator, call) for operator, call in pairs if not is_view(call)]
        lost += sum(profiler.device_seconds(operator) for operator, call in pairs if is_view(call))
        if not self._on_gpu:
            for operator, _ in kept:
                operator.work = [(operator.start, operator.end)]
        times = profiler.times([operator for operator, _ in kept], profiler.stage_starts(events))
        self._attribute(sum(device for device, _ in times), lost)
        return [
            Timed(call, device, operator.seconds, gap)
            for (operator, _), call, (device, gap) in zip(kept, as_run(kept, self._on_gpu), times, strict=True)
        ]

    def memory(self, per_call: Sequence[int]) -> list[int]:
        """Bytes in use during each operator of a profiled run, from those during each call of the walk."""
        return [size for size, call in zip(per_call, self._walk.calls, strict=True) if not is_view(call)]

    def _operators(self, number: int) -> tuple[list[Pair], list[profiler.Event], float]:
        """A profiled run of the walk's knots: its operators beside the walk's, its trace, seconds of no operator."""
        tracer = profiler.Labels(self._walk.knots, self._settle, self._run.seed + number)
        events = profiler.trace(lambda: self._perform(tracer), self._on_gpu)
        operators, lost = profiler.outermost(events)
        operators, constants = _without_constants(operators)
        _check_same(operators, self._walk.calls)
        return list(zip(operators, self._walk.calls, strict=True)), events, lost + constants

    def _attribute(self, busy: float, lost: float) -> None:
        self.attributed = min(self.attributed, busy / (busy + lost) if busy else 0.0)
        if self.attributed < 1 - LOST:
            missing = f"{1 - self.attributed:.1%} of the device's time belongs to no operator of the walk"
            raise Unmeasurable(f"{missing}: end other work on the machine and try again; if it stays, {DEFECT}")


CONSTANT = ["empty", "to", "lift_fresh"]  # how torch.tensor() begins, which no walk sees


def _without_constants(operators: Sequence[profiler.Executed]) -> tuple[list[profiler.Executed], float]:
    """The operators less those that make a tensor of Python numbers, and the device seconds of these."""
    kept: list[profiler.Executed] = []
    seconds = 0.0
    for operator in operators:
        kept.append(operator)
        if [one.name for one in kept[-3:]] == CONSTANT:
            seconds += sum(profiler.device_seconds(one) for one in kept[-3:])
            del kept[-3:]
    return kept, seconds


def _check_same(operators: Sequence[profiler.Executed], calls: Sequence[Call]) -> None:
    for place, (operator, call) in enumerate(zip(operators, calls, strict=False)):
        if operator.name != call.name:
            where = f"{call.stage}: {call.scope}" if call.scope else call.stage
            differ = f"operator {place} of the run is {operator.name}, of the walk {call.name} ({where})"
            raise Unmeasurable(f"{differ}: {DEFECT}")
    if len(operators) != len(calls):
        differ = f"the run has {len(operators):,} operators, the walk {len(calls):,}, the first of them equal"
        raise Unmeasurable(f"{differ}: {DEFECT}")


def as_run(kept: Sequence[Pair], on_gpu: bool) -> Iterator[Call]:
    """The calls with what only the run knows: which attention kernel ran and, on a GPU, how many kernels."""
    ran: dict[AttentionCall | None, str] = {}
    for operator, call in kept:
        backend = profiler.attention_backend_of(operator)
        if backend is not None:
            ran[call.attention] = backend
    for operator, call in kept:
        attention, work = call.attention, call.work
        if attention is not None:
            attention = replace(attention, backend=ran.get(attention, attention.backend))
        if on_gpu:
            work = replace(work, launches=len(operator.work))
        yield replace(call, attention=attention, work=work)


def combine(passes: Sequence[Sequence[Timed]]) -> list[Timed]:
    """The median of each time over the passes."""
    return [
        Timed(
            same[0].call,
            median(timed.device for timed in same),
            median(timed.host for timed in same),
            median(timed.gap for timed in same),
        )
        for same in zip(*passes, strict=True)
    ]
