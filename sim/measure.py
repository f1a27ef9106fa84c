"""Measure the profile of an architecture on the device at hand, operator by operator.

What an operator is (FLOPs, bytes, scope, attention) comes from a walk of the same pipeline; how long it took
comes from the device. Three kinds of run, all eager:

1. Warm-up: whole runs until two in a row agree within 2 %.
2. The clock: `repeats` whole runs without a profiler, every step of every loop, the device awaited at both ends
   of each stage. A stage's wall time is the median.
3. The profiler: `PASSES` runs of the walk's knots, in shuffled order. Their outermost operators must be the
   walk's, one by one. Device time of an operator: the kernels launched inside it (on a CPU the operator
   itself). Gap: how long the device idled before them since the stage began. Both are medians over the passes.

The profiler only attributes: the weighted sum of device and gap seconds over a stage equals the stage's wall
time. On a GPU kernels take as long with a profiler as without, so the gaps are scaled to make up the rest; where
kernels alone exceed the wall time, and on a CPU, where the profiler slows operators too, both are scaled alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from minimodels.kernels.attention import attention_backend
from minimodels.kernels.scope import STAGE, TRACER, AttentionCall, Tracer
from minimodels.kinds import Config
from minimodels.pipelines import example_input, generate
from minimodels.run import DTYPES, Run, build
from minimodels.sim import profiler
from minimodels.sim.call import Call, Timing
from minimodels.sim.cost import predict
from minimodels.sim.environment import describe, environment, free_bytes, known, target_of
from minimodels.sim.memory import ROUNDING, Usage, account
from minimodels.sim.profile import Profile
from minimodels.sim.progress import Advance, silent
from minimodels.sim.simulate import merge, stages
from minimodels.sim.trace import Place

AGREE = 0.02  # of a run's time: two runs this close are warm
MORE_WARMUPS = 8  # runs after the warm-ups asked for, at most; then it is measured as it is
PASSES = 3  # profiled runs: of three, the first and coldest never is the median
LOST = 0.02  # of device time: what may belong to no operator


def measure(config: Config, run: Run, progress: Advance = silent) -> Profile:
    """The measured profile of one inference of `config` on `run.device`, "cuda" or "cpu".

    progress: told of every run.

    Raises:
        ValueError: no such device, a mode other than eager, a model that does not fit, or a pinned backend
            that cannot do a call.
        RuntimeError: the run and the walk differ.
    """
    device = _checked(run)
    walk = _walk(config, run, device)
    usage, weights = account(walk, run)
    _check_fit(config, usage, free_bytes(device))
    session = _Session(config, run, device, build(config, device, DTYPES[run.dtype], run.seed), progress)
    warmups = session.warm_up()
    clocked = session.clock()
    facts = environment(device) | {"allocator_peak": session.allocator_peak}
    wall = {stage: median(seconds[stage] for seconds in clocked) for stage in clocked[0]}
    found = _combine([session.profile(walk, number) for number in range(PASSES)])
    _scale(found, wall, alike=device.type == "cpu")
    ops, order = merge([timed.call for timed in found], [timed.timing() for timed in found])
    kept = [index for index, call in enumerate(walk.calls) if not _is_view(call)]
    per_call = [usage.per_call[index] for index in kept]
    description = describe(device, run.dtype)
    return Profile(
        source="measured",
        config=config.model_dump(mode="json"),
        run=run.model_dump(mode="json") | config.run.model_dump(mode="json"),
        environment=facts | _protocol(clocked) | {"warmups": warmups, "attributed": session.attributed},
        device=description,
        stages=stages(ops, wall),
        memory=Usage(per_call, usage.kv_cache).finish(order, weights, description["memory_bytes"]),
        ops=tuple(ops),
        calls=tuple(order),
    )


def _checked(run: Run) -> torch.device:
    if run.device not in ("cuda", "cpu"):
        raise ValueError(f"device {run.device!r} cannot be measured here; allowed: cuda, cpu")
    if run.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': torch finds no CUDA device here")
    if run.mode != "eager":
        raise ValueError(
            f"mode {run.mode!r} cannot be measured: measured runs are eager for now; a simulated GPU has all modes"
        )
    if run.resident != "all":
        raise ValueError(f"resident {run.resident!r} cannot be measured: a measured run keeps all parts in memory")
    return torch.device(run.device, torch.cuda.current_device() if run.device == "cuda" else None)


def _walk(config: Config, run: Run, device: torch.device) -> profiler.KnotWalk:
    """The facts of every operator, views included; knots are chosen as for the simulated GPU, if it is known."""
    file = known(device)

    def estimate(calls: Sequence[Call]) -> float:
        assert file is not None
        return sum(t.device_seconds + t.gap_seconds for t in predict(calls, file, run.mode))

    parts = build(config, "meta", DTYPES[run.dtype])
    tokens = example_input(config, run.batch, "meta")
    rounding = 1 if device.type == "cpu" else ROUNDING
    walk = profiler.KnotWalk(
        parts, rounding=rounding, estimate=estimate if file else None, full=run.full, keep_views=True
    )
    with attention_backend(run.attention, target_of(device)), torch.inference_mode(), walk:
        walk.hold(tokens)
        generate(config, parts, tokens)
    return walk


def _is_view(call: Call) -> bool:
    return call.work.kernel == "none" and not call.writes


def _check_fit(config: Config, usage: Usage, have: int) -> None:
    need = max(usage.per_call)
    if need > have:
        raise ValueError(
            f"{config.title} does not fit: it needs {need / 1e9:,.1f} GB and there are {have / 1e9:,.1f} GB; "
            "take a smaller batch or dtype, or simulate it: --device a100-80gb"
        )


@dataclass(slots=True)
class _Timed:
    """A call of the walk as it ran: device, host and gap seconds of one execution."""

    call: Call
    device: float
    host: float
    gap: float

    def timing(self) -> Timing:
        return Timing(self.device, self.host, self.gap, None, "measured")  # type: ignore[arg-type]


class _Clock:
    """The tracer of an unprofiled run: seconds by stage, those outside any stage included."""

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


class _Session:
    """A model on a device, and the runs it is put through."""

    def __init__(self, config: Config, run: Run, device: torch.device, parts: nn.ModuleDict, progress: Advance) -> None:
        self.attributed = 1.0  # the least share of device time that a profiled run gave to operators
        self.allocator_peak: int | None = None
        self._device = device
        self._config, self._run, self._parts, self._progress = config, run, parts, progress
        self._tokens: Tensor = example_input(config, run.batch, device, run.seed)
        self._settle = profiler.device_settle(device)

    def _generate(self, tracer: Tracer) -> None:
        token = TRACER.set(tracer)
        try:
            with attention_backend(self._run.attention):
                generate(self._config, self._parts, self._tokens)
        finally:
            TRACER.reset(token)

    def _once(self) -> dict[str, float]:
        clock = _Clock(self._settle)
        self._settle()
        begin = time.perf_counter()
        self._generate(clock)
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
                return count
            before = seconds
        return most

    def clock(self) -> list[dict[str, float]]:
        """Seconds by stage of every timed run."""
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        result = []
        for count in range(1, self._run.repeats + 1):
            self._progress("timing", count, self._run.repeats)
            result.append(self._once())
        self.allocator_peak = torch.cuda.max_memory_allocated(self._device) if on_gpu else None
        return result

    def profile(self, walk: profiler.KnotWalk, number: int) -> list[_Timed]:
        """One profiled run of the walk's knots: every operator but views, with its time."""
        self._progress("profiling", number + 1, PASSES)
        tracer = profiler.Labels(walk.knots, self._settle, self._run.seed + number)
        on_gpu = self._device.type == "cuda"
        events = profiler.trace(lambda: self._generate(tracer), on_gpu)
        operators, lost = profiler.outermost(events)
        _check_same(operators, walk.calls)
        kept = [pair for pair in zip(operators, walk.calls, strict=True) if not _is_view(pair[1])]
        if not on_gpu:
            for operator, _ in kept:
                operator.work = [(operator.start, operator.end)]
        times = profiler.times([operator for operator, _ in kept], profiler.stage_starts(events))
        self._attribute(sum(device for device, _ in times), lost)
        return [
            _Timed(call, device, operator.seconds, gap)
            for (operator, _), call, (device, gap) in zip(kept, _as_run(kept, on_gpu), times, strict=True)
        ]

    def _attribute(self, busy: float, lost: float) -> None:
        self.attributed = min(self.attributed, busy / (busy + lost) if busy else 0.0)
        if self.attributed < 1 - LOST:
            raise RuntimeError(f"{1 - self.attributed:.1%} of the device's time belongs to no operator of the walk")


def _check_same(operators: Sequence[profiler.Executed], calls: Sequence[Call]) -> None:
    for place, (operator, call) in enumerate(zip(operators, calls, strict=False)):
        if operator.name != call.name:
            where = f"{call.stage}: {call.scope}" if call.scope else call.stage
            raise RuntimeError(f"operator {place} of the run is {operator.name}, of the walk {call.name} ({where})")
    if len(operators) != len(calls):
        raise RuntimeError(
            f"the run has {len(operators):,} operators, the walk {len(calls):,}, the first of them equal"
        )


def _as_run(kept: Sequence[tuple[profiler.Executed, Call]], on_gpu: bool) -> Iterator[Call]:
    """The calls with what only the run knows: which attention kernel ran and, on a GPU, how many kernels."""
    ran = {call.attention: profiler.attention_backend_of(operator) for operator, call in kept if call.attention}
    for operator, call in kept:
        attention, work = call.attention, call.work
        if attention is not None and (backend := ran[attention]) is not None:
            attention = replace(attention, backend=backend)
        if on_gpu:
            work = replace(work, launches=len(operator.work))
        yield replace(call, attention=attention, work=work)


def _combine(passes: Sequence[Sequence[_Timed]]) -> list[_Timed]:
    """The median of each time over the passes."""
    return [
        _Timed(
            same[0].call,
            median(timed.device for timed in same),
            median(timed.host for timed in same),
            median(timed.gap for timed in same),
        )
        for same in zip(*passes, strict=True)
    ]


def _scale(found: Sequence[_Timed], wall: dict[str, float], alike: bool) -> None:
    """Make device and gap seconds of each stage add up to its wall time; `alike`: both are as far off."""
    for stage in {timed.call.stage for timed in found}:
        members = [timed for timed in found if timed.call.stage == stage]
        device = sum(timed.call.weight * timed.device for timed in members)
        gap = sum(timed.call.weight * timed.gap for timed in members)
        own, rest = 1.0, 1.0
        if not alike and gap > 0 and device <= wall[stage]:
            rest = (wall[stage] - device) / gap
        elif device + gap > 0:
            own = rest = wall[stage] / (device + gap)
        for timed in members:
            timed.device, timed.gap = own * timed.device, rest * timed.gap


def _protocol(clocked: Sequence[dict[str, float]]) -> dict[str, Any]:
    """How the wall time came about: repeats, and over them median and interquartile range in seconds."""
    totals = [sum(seconds.values()) for seconds in clocked]
    low, _, high = quantiles(totals, n=4, method="inclusive") if len(totals) > 1 else totals * 3
    return {"repeats": len(totals), "median_seconds": median(totals), "iqr_seconds": high - low, "passes": PASSES}
