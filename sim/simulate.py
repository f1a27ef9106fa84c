"""Predict the profile of an architecture on a GPU that need not be there.

The real modules are built on `meta`, their pipeline is walked, every operator is priced by the device's cost
model, and the result is a `Profile` like a measured one.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from minimodels.kernels.backend import attention_backend, kernel_backend
from minimodels.kinds import Config
from minimodels.run import DTYPES, Run
from minimodels.sim import device as devices
from minimodels.sim.call import Call, Priced, Timing
from minimodels.sim.cost import predict, rate_of
from minimodels.sim.job import Job, Prepared, of_config
from minimodels.sim.knots import BUCKET
from minimodels.sim.memory import RESERVE, account
from minimodels.sim.no_collector import no_collector
from minimodels.sim.profile import Attention, DeviceRecord, Environment, Op, Profile, Stage
from minimodels.sim.progress import Advance, silent
from minimodels.sim.trace import Walk

OVERFLOWS = (  # what torch says of a tensor whose bytes or elements do not fit 63 bits
    "Storage size calculation overflowed",
    "Stride calculation overflowed",
    "numel: integer multiplication overflow",
)


Walks = dict[str, Walk]
"""Walks of one job that several devices share, by the architecture that they are walked for."""


@no_collector()
def simulate(config: Config, run: Run | None = None, progress: Advance = silent, walks: Walks | None = None) -> Profile:
    """The predicted profile of one inference of `config`.

    run: device name, batch, dtype, attention backend, mode; defaults as in `Run`. progress: told of every step. walks:
    those that earlier devices made, everything else being the same; what another device may use is added.

    Raises:
        ValueError: unknown device, a dtype the device lacks, a pinned backend that cannot do a call, or sizes too
            large to be described.
    """
    run = run or Run()
    return simulate_job(of_config(config, run), run, progress, walks)


def simulate_job(job: Job, run: Run, progress: Advance = silent, walks: Walks | None = None) -> Profile:
    """The predicted profile of a job; see `simulate`."""
    device = device_of(run)
    walk = _shared(job, run, device, progress, walks) if walks is not None else walk_job(job, run, device, progress)
    return profile_of(job, run, walk)


def profile_of(job: Job, run: Run, walk: Walk) -> Profile:
    """The predicted profile of a job that was walked for the device of its run.

    Raises:
        ValueError: no operator of it takes time.
    """
    device = device_of(run)
    if not walk.calls:
        raise ValueError(f"{job.name} runs no operator that takes time (a view moves nothing): nothing to predict")
    timings = predict(bucketed(walk.calls, run), device, run.mode)
    memory, weights = account(walk, run)
    pairs = zip(walk.calls, timings, strict=True)
    executed = [call if call.work is timing.work else replace(call, work=timing.work) for call, timing in pairs]
    with _describable(job.name):
        ops, order = merge(executed, timings)
        return Profile(
            source="simulated",
            config=job.config,
            run=job.record,
            environment=environment(),
            device=device_record(device, walk.calls, run.dtype),
            stages=stages(ops),
            memory=memory.finish(order, weights, device.datasheet.memory_bytes, RESERVE),
            ops=tuple(ops),
            calls=tuple(order),
        )


def device_of(run: Run) -> devices.Device:
    """The device of a run.

    Raises:
        ValueError: unknown device, or a dtype it lacks.
    """
    device = devices.load(run.device)
    if run.dtype not in device.datasheet.flops:
        has = [dtype for dtype in device.datasheet.flops if dtype in DTYPES]
        nearest = "float16" if "float16" in has else has[0]
        raise ValueError(
            f"{device.name} has no rate for {run.dtype}; it has {', '.join(has)}: --dtype {nearest}, or "
            f'dtype="{nearest}" from Python'
        )
    return device


def environment() -> Environment:
    """What a prediction was made with."""
    return Environment.model_validate({"torch": torch.__version__, "python": platform.python_version()})


def device_record(device: devices.Device, calls: Sequence[Call], dtype: str) -> DeviceRecord:
    """The device that calls are predicted for, and the highest rate of their kernels."""
    return DeviceRecord(
        name=device.name,
        title=device.title,
        memory_bytes=device.datasheet.memory_bytes,
        bandwidth=device.datasheet.bandwidth,
        peak_flops=max(device.peak_flops(rate_of(call.work.kernel, dtype, device)) for call in calls),
        provenance=device.constants.provenance,
    )


def walk_config(config: Config, run: Run, device: devices.Device, progress: Advance = silent) -> Walk:
    """Walk the pipeline of `config` for a device; loops choose their knots by its predicted times."""
    return walk_job(of_config(config, run), run, device, progress)


W = TypeVar("W", bound=Walk)


def _shared(job: Job, run: Run, device: devices.Device, progress: Advance, walks: Walks) -> Walk:
    """The walk for a device that another of its architecture has made, or its own."""
    if device.arch in walks:
        return walks[device.arch]
    asked: list[str] = []
    walk = walk_job(job, run, device, progress, asked=lambda: asked.append(device.name))
    if not asked:  # no loop chose its knots by the times of this device
        walks[device.arch] = walk
    return walk


def walk_job(
    job: Job,
    run: Run,
    device: devices.Device,
    progress: Advance = silent,
    kind: type[W] = Walk,
    asked: Callable[[], object] = lambda: None,
) -> W:
    """Walk a job for a device; loops choose their knots by its predicted times, and `asked` hears when one does.

    kind: of walk.
    """

    def estimate(calls: Sequence[Call]) -> float:
        asked()
        return sum(t.device_seconds + t.gap_seconds for t in predict(bucketed(calls, run), device, run.mode))

    with _describable(job.name):
        prepared = job.prepare("meta")
    walk = kind(prepared.parts, estimate=estimate, full=run.full, progress=progress)
    run_walk(walk, prepared, run, device.arch, job.name)
    return walk


def run_walk(walk: Walk, prepared: Prepared, run: Run, target: str, name: str) -> None:
    """Run a prepared job under `walk`; attention is that of the architecture `target`."""
    with (
        _describable(name),
        attention_backend(run.attention, target),
        kernel_backend(run.kernels),
        torch.inference_mode(),
        walk,
    ):
        walk.hold(*prepared.inputs)
        prepared.run()


@contextmanager
def _describable(name: str) -> Iterator[None]:
    """Turns the overflow of a size, in torch or in a record of the profile, into a ValueError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(OVERFLOWS):
            raise
    except ValidationError as error:
        if any(problem["type"] != "less_than" for problem in error.errors()):
            raise
    else:
        return
    raise ValueError(
        f"{name}: too large to be described: a tensor exceeds 2^63 bytes or an operator 2^80 FLOPs or bytes; "
        "lower --batch, --image-size, --frames or a length"
    )


def bucketed(calls: Sequence[Call], run: Run) -> list[Call]:
    """The calls with the bytes their kernels read: a CUDA graph reads its whole cache bucket, filled or not."""
    if run.mode != "graph":
        return list(calls)
    return [_whole_bucket(call, run.full) if call.growing else call for call in calls]


def _whole_bucket(call: Call, exact: bool) -> Call:
    attention, work = call.attention, call.work
    if attention is None or attention.query_length > 1 or work.kernel not in ("attention", "math", "gemm"):
        return call
    # Between two knots the rest of the bucket is uniform: its mean stands for it.
    unused = -attention.key_length % BUCKET if exact else (BUCKET - 1) / 2
    itemsize = torch.empty(0, dtype=DTYPES[call.dtype]).element_size()
    tensors = 1 if work.kernel == "gemm" else 2
    extra = round(unused * tensors * attention.batch * attention.kv_heads * attention.head_dim * itemsize)
    return replace(call, work=replace(work, bytes_read=work.bytes_read + extra))


def merge(calls: Sequence[Call], timings: Sequence[Timing]) -> tuple[list[Op], list[int]]:
    """Ops in order of first appearance, and the calls as indices into them.

    The times of an op are means over its calls, provenance and bound those of its longest call.
    """
    groups: dict[Any, list[int]] = {}
    for index, call in enumerate(calls):
        place = (call.stage, call.scope, call.phase, call.steps, call.weight)
        key = (*place, call.name, call.shapes, call.dtype, call.work, call.attention)
        groups.setdefault(key, []).append(index)
    order = [0] * len(calls)
    ops = []
    for number, members in enumerate(groups.values()):
        for index in members:
            order[index] = number
        ops.append(_op(calls[members[0]], [timings[i] for i in members]))
    return ops, order


def _op(call: Call, timings: Sequence[Timing]) -> Op:
    work, count = call.work, len(timings)
    attention = None
    if call.attention is not None:
        attention = Attention.model_construct(role=call.role or "self", **asdict(call.attention))
    longest = max(timings, key=lambda timing: timing.device_seconds + timing.gap_seconds)
    return Op(
        stage=call.stage,
        scope=call.scope,
        module=call.module,
        category=call.category,  # type: ignore[arg-type]
        name=call.name,
        phase=call.phase,  # type: ignore[arg-type]
        shapes=call.shapes,
        dtype=call.dtype,
        weight=call.weight * count,
        flops=work.flops,
        bytes_read=work.bytes_read,
        bytes_written=work.bytes_written,
        launches=work.launches,
        steps=call.steps,
        device_seconds=sum(t.device_seconds for t in timings) / count,
        host_seconds=sum(t.host_seconds for t in timings) / count,
        gap_seconds=sum(t.gap_seconds for t in timings) / count,
        provenance=longest.provenance,  # type: ignore[arg-type]
        bound=longest.bound,  # type: ignore[arg-type]
        **(longest.why() if isinstance(longest, Priced) else {}),
        attention=attention,
    )


def stages(ops: Sequence[Op], wall: dict[str, float] | None = None) -> tuple[Stage, ...]:
    """Totals per stage, in order of appearance; `wall` holds measured wall-clock seconds by stage."""
    found: dict[str, list[Op]] = {}
    for op in ops:
        found.setdefault(op.stage, []).append(op)
    result = []
    for name, members in found.items():
        seconds = None
        if all(op.device_seconds is not None and op.gap_seconds is not None for op in members):
            seconds = sum(op.weight * (op.device_seconds + op.gap_seconds) for op in members)  # type: ignore[operator]
        launches = sum(op.weight * op.launches for op in members)
        steps = max((op.steps for op in members if op.steps is not None), default=None)
        clock = wall[name] if wall else seconds
        result.append(Stage(name=name, seconds=seconds, wall_seconds=clock, launches=launches, steps=steps))
    return tuple(result)
