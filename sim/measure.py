"""Measure the profile of an architecture on the device at hand, operator by operator.

What an operator is (FLOPs, bytes, scope, attention) comes from a walk of the same pipeline; how long it took
comes from the device. Three kinds of run:

1. Warm-up: whole runs until two in a row agree within 2 %.
2. The clock: `repeats` whole runs without a profiler, every step of every loop, the device awaited at both ends
   of each stage. A stage's wall time is the median.
3. The profiler: three runs of the walk's knots, in shuffled order; the clock has run and so warmed every step.
   Their outermost operators must be the walk's, one by one. Device time of an operator: the kernels launched
   inside it (on a CPU the operator itself). Gap: how long the device idled before them since the stage began.
   Both are medians over the three.

The profiler only attributes: the weighted sum of device and gap seconds over a stage equals the stage's wall
time. On a GPU kernels take as long with a profiler as without, so the gaps are scaled to make up the rest; where
kernels alone exceed the wall time, and on a CPU, where the profiler slows operators too, both are scaled alike.

So it is in eager mode; what CUDA graphs and torch.compile change is told in `graph_session` and `compiled_session`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

import torch

from minimodels.kinds import Config
from minimodels.run import Run
from minimodels.sim import profiler
from minimodels.sim.call import Call
from minimodels.sim.compiled_session import CompiledSession
from minimodels.sim.cost import predict
from minimodels.sim.environment import describe, environment, free_bytes, known, memory_bytes, target_of
from minimodels.sim.graph_session import GraphSession
from minimodels.sim.job import Job, of_config
from minimodels.sim.memory import RESERVE, ROUNDING, Usage, account
from minimodels.sim.profile import Environment, Profile
from minimodels.sim.progress import Advance, silent
from minimodels.sim.session import PASSES, Session, Timed, combine
from minimodels.sim.simulate import merge, run_walk, stages

SESSIONS: dict[str, type[Session]] = {"eager": Session, "graph": GraphSession, "compiled": CompiledSession}


def measure(config: Config, run: Run, progress: Advance = silent) -> Profile:
    """The measured profile of one inference of `config` on `run.device`, "cuda" or "cpu".

    progress: told of every run.

    Raises:
        ValueError: no such device, graphs without a CUDA device, a network that cannot be captured or compiled, a
            model that does not fit, or a pinned backend that cannot do a call.
        Unmeasurable: the run and the walk differ, or too much time belongs to no operator.
    """
    return measure_job(of_config(config, run), run, progress)


def measure_job(job: Job, run: Run, progress: Advance = silent) -> Profile:
    """The measured profile of a job; see `measure`."""
    device = _checked(run)
    walk = _walk(job, run, device)
    usage, weights = account(walk, run)
    _check_fit(job, usage, free_bytes(device))
    session = SESSIONS[run.mode](job.prepare(device), walk, run, device, progress)
    warmups = session.warm_up()
    clocked = session.clock()
    facts = environment(device) | {"allocator_peak": session.allocator_peak, "warmups": warmups}
    wall = {stage: median(seconds[stage] for seconds in clocked) for stage in clocked[0]}
    found = combine([session.profile(number) for number in range(PASSES)])
    _scale(found, wall, alike=device.type == "cpu")
    ops, order = merge([timed.call for timed in found], [timed.timing() for timed in found])
    return Profile(
        source="measured",
        config=job.config,
        run=job.record,
        environment=Environment.model_validate(facts | _protocol(clocked, session)),
        device=describe(device, run.dtype),
        stages=stages(ops, wall),
        memory=Usage(session.memory(usage.per_call), usage.kv_cache).finish(
            order, weights, memory_bytes(device), RESERVE if device.type == "cuda" else 0
        ),
        ops=tuple(ops),
        calls=tuple(order),
    )


def _checked(run: Run) -> torch.device:
    if run.device not in ("cuda", "cpu"):
        raise ValueError(f"device {run.device!r} cannot be measured here; allowed: cuda, cpu")
    if run.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': torch finds no CUDA device here")
    if run.mode == "graph" and run.device != "cuda":
        raise ValueError(
            "mode 'graph' needs a CUDA device: it captures CUDA graphs; "
            "name a GPU to simulate it, e.g. --device a100-80gb"
        )
    if run.resident != "all":
        raise ValueError(f"resident {run.resident!r} cannot be measured: a measured run keeps all parts in memory")
    return torch.device("cuda", torch.cuda.current_device()) if run.device == "cuda" else torch.device("cpu")


def _walk(job: Job, run: Run, device: torch.device) -> profiler.KnotWalk:
    """The facts of every operator, views included; knots are chosen as for the simulated GPU, if it is known."""
    file = known(device)

    def estimate(calls: Sequence[Call]) -> float:
        assert file is not None
        return sum(t.device_seconds + t.gap_seconds for t in predict(calls, file, run.mode))

    prepared = job.prepare("meta")
    rounding = 1 if device.type == "cpu" else ROUNDING
    walk = profiler.KnotWalk(
        prepared.parts,
        rounding=rounding,
        estimate=estimate if file else None,
        full=run.full,
        graphs=run.mode == "graph",
        keep_views=True,
    )
    run_walk(walk, prepared, run, target_of(device), job.name)
    return walk


def _check_fit(job: Job, usage: Usage, have: int) -> None:
    need = max(usage.per_call)
    if need > have:
        raise ValueError(
            f"{job.title} does not fit: it needs {need / 1e9:,.1f} GB and there are {have / 1e9:,.1f} GB; "
            "take a smaller batch or dtype, or simulate it: --device a100-80gb"
        )


def _scale(found: Sequence[Timed], wall: dict[str, float], alike: bool) -> None:
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


def _protocol(clocked: Sequence[dict[str, float]], session: Session) -> dict[str, Any]:
    """How the times came about: repeats, and over them median and interquartile range in seconds."""
    totals = [sum(seconds.values()) for seconds in clocked]
    low, _, high = quantiles(totals, n=4, method="inclusive") if len(totals) > 1 else totals * 3
    spread = {"repeats": len(totals), "median_seconds": median(totals), "iqr_seconds": high - low}
    return spread | {"passes": PASSES, "converged": session.converged, "attributed": session.attributed}
