"""Why a prediction is what it is: what bounds the operators that matter, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from minimodels.kinds import Config
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim.call import Call
from minimodels.sim.cost import predict
from minimodels.sim.cost.base import ITEMSIZE
from minimodels.sim.device import Device
from minimodels.sim.job import of_config
from minimodels.sim.profile import Op
from minimodels.sim.progress import Advance, silent
from minimodels.sim.sentences import weight_bytes
from minimodels.sim.simulate import bucketed, walk_job
from minimodels.sim.views import op_seconds


@dataclass(frozen=True, slots=True)
class Reason:
    """One operator at one size, over all places of a stage: seconds in all, their error, and what the longest says."""

    stage: str
    places: int
    executions: float
    seconds: float
    op: Op


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Seconds of the run if something were different; `seconds` None: `note` says why not."""

    change: str
    seconds: float | None
    note: str = ""


def reasons(ops: Iterable[Op], most: int) -> list[Reason]:
    """The operators that take most time, those of one stage, name, shapes and bound being one; the longest first."""
    groups: dict[tuple[object, ...], list[Op]] = {}
    for op in ops:
        groups.setdefault((op.stage, op.name, op.shapes, op.bound), []).append(op)
    found = []
    for members in groups.values():
        seconds = [op_seconds(op) or 0.0 for op in members]
        longest = members[seconds.index(max(seconds))]
        executions = sum(op.weight for op in members)
        places = len({op.scope for op in members})
        found.append(Reason(longest.stage, places, executions, math.fsum(seconds), longest))
    return sorted(found, key=lambda reason: -reason.seconds)[:most]


def what_ifs(config: Config, run: Run, progress: Advance = silent) -> list[WhatIf]:
    """How long the run would take, were the device, the mode, the kernels or the weights different, one at a time.

    Raises:
        ValueError: as `simulate` does.
    """
    device = devices.load(run.device)
    calls = _calls(config, run, device, progress)
    found = [
        WhatIf("memory twice as fast", _seconds(calls, _faster(device, bandwidth=2), run)),
        WhatIf("tensor cores twice as fast", _seconds(calls, _faster(device, flops=2), run)),
        *(
            WhatIf(said, _seconds(bucketed(calls, other), device, other))
            for mode, said in (("graph", "launched as CUDA graphs"), ("compiled", "compiled"))
            if run.mode == "eager"
            for other in (run.model_copy(update={"mode": mode}),)
        ),
        WhatIf("weights in 8 bits, products as they are", _seconds(_with(calls, _narrow_weights), device, run)),
        _eight_bits(calls, device, run),
    ]
    convolves = any(call.work.kernel == "conv" for call in calls)
    for said, changes in _other_kernels(run):
        if "layout" in changes and not convolves:
            continue
        other = run.model_copy(update=changes)
        try:
            found.append(WhatIf(said, _seconds(_calls(config, other, device, progress), device, other)))
        except ValueError as error:  # a pinned backend that cannot do a call
            found.append(WhatIf(said, None, str(error)))
    return found


def _other_kernels(run: Run) -> list[tuple[str, dict[str, str]]]:
    """Other choices of kernels than the run's."""
    flash = ("attention without FlashAttention", {"attention": "baseline"})
    if run.attention == "baseline":
        flash = ("FlashAttention", {"attention": "flash"})
    ours = ("kernels of ours", {"attention": "triton", "kernels": "triton"})
    last = ("pixels channels last", {"layout": "channels-last"})
    both = ("kernels of ours, pixels channels last", ours[1] | last[1])
    found = [flash]
    if run.layout == "contiguous":
        found.append(last)
    if (run.attention, run.kernels) != ("triton", "triton"):
        found += [ours, both] if run.layout == "contiguous" else [ours]
    return found


def _calls(config: Config, run: Run, device: Device, progress: Advance) -> list[Call]:
    return bucketed(walk_job(of_config(config, run), run, device, progress).calls, run)


def _seconds(calls: Sequence[Call], device: Device, run: Run) -> float:
    """The seconds of the run, device plus gap."""
    timings = predict(calls, device, run.mode)
    return math.fsum(c.weight * (t.device_seconds + t.gap_seconds) for c, t in zip(calls, timings, strict=True))


def _faster(device: Device, bandwidth: float = 1, flops: float = 1) -> Device:
    """The device with other rates of its datasheet; all shares of them stay."""
    sheet = device.datasheet
    rates = {name: flops * rate for name, rate in sheet.flops.items()}
    sheet = sheet.model_copy(update={"bandwidth": bandwidth * sheet.bandwidth, "flops": rates})
    return device.model_copy(update={"datasheet": sheet})


def _with(calls: Sequence[Call], change: Callable[[Call], Call]) -> list[Call]:
    return [change(call) for call in calls]


def _narrow_weights(call: Call) -> Call:
    """Weights of a byte each, where a kernel reads them as they are; unpacking them costs nothing."""
    weights, size = weight_bytes(call), _itemsize(call)
    if not weights or size == 1:
        return call
    saved = weights * (size - 1) // size
    conv = call.work.conv
    if conv is not None:
        conv = conv._replace(weight=conv.weight - saved)
    return replace(call, work=replace(call.work, bytes_read=call.work.bytes_read - saved, conv=conv))


def _eight_bits(calls: Sequence[Call], device: Device, run: Run) -> WhatIf:
    """Linear layers multiply in 8 bits what is 8 bits already."""
    said = "linear layers in fp8, weights and inputs"
    if "float8" not in device.datasheet.flops:
        return WhatIf(said, None, f"{device.name} has no rate for fp8")

    def change(call: Call) -> Call:
        size = _itemsize(call)
        if call.category != "Linear" or call.work.gemm is None or size == 1:
            return call
        return replace(call, dtype="float8", work=replace(call.work, bytes_read=call.work.bytes_read // size))

    return WhatIf(said, _seconds(_with(calls, change), device, run))


def _itemsize(call: Call) -> int:
    return int(ITEMSIZE.get(call.dtype, 2))
