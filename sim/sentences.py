"""What a person wants to be told of a profile: where the time goes, in a few sentences, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from minimodels.sim import units
from minimodels.sim.call import Call
from minimodels.sim.profile import Op, Profile
from minimodels.sim.views import Totals, grouped, totals

PACE = 0.98  # of the time of a stage that launching must take for the host to set its pace


def weight_bytes(op: Op | Call) -> int | None:
    """Bytes of the parameter matrix or filter that one execution reads; None if the operator has none."""
    operand = 2 if "addmm" in op.name else 1
    if op.category not in ("Linear", "Convolution") or len(op.shapes) <= operand or "bmm" in op.name:
        return None
    width = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}.get(op.dtype.removeprefix("torch."))
    return None if width is None else width * math.prod(op.shapes[operand])


def weight_passes(profile: Profile, stage: str, kind: str = "Linear") -> tuple[int, int] | None:
    """Bytes of `kind` (Linear, Convolution) weights that an iteration of the loop of `stage` reads, and iterations.

    The loop is the innermost of the longest nest. None without one that iterates.
    """
    steps = next(found.steps for found in profile.stages if found.name == stage)
    if steps is None or steps == 1:
        return None
    inside = [op for op in profile.ops if (op.stage, op.category, op.steps) == (stage, kind, steps)]
    each = sum(Fraction(op.weight) * (weight_bytes(op) or 0) for op in inside) / steps
    return (round(each), steps) if 0 < each <= profile.memory.weights else None


def _memory_bound(profile: Profile, pair: tuple[str, str], part: Totals) -> str:
    """What is moved: the weights over and over, or just bytes."""
    passes = weight_passes(profile, *pair)
    if passes and 2 * passes[0] * passes[1] > part.bytes:
        return f"{units.size(passes[0])} of weights are read {units.count(passes[1])} times"
    return f"{units.size(part.bytes)} are moved at {units.si(part.bytes / part.known_seconds, 'B/s')}"


def _compute_bound(profile: Profile, part: Totals) -> str:
    """How much is computed, how fast, and how near to the peak of the device."""
    rate, peak = float(part.executed_flops) / part.known_seconds, profile.device.peak_flops
    of_peak = f", {units.percent(rate / peak)} of the peak" if peak else ""
    return f"{units.flops(part.executed_flops)} at {units.si(rate, 'FLOP/s')}{of_peak}"


def _unfilled(profile: Profile, part: Totals) -> str:
    """How much is computed where anything is, else how much is moved, and how near to what the device can do."""
    if part.executed_flops:
        return _compute_bound(profile, part)
    rate, peak = part.bytes / part.known_seconds, profile.device.bandwidth
    of_peak = f", {units.percent(rate / peak)} of the bandwidth" if peak else ""
    return f"{units.size(part.bytes)} are moved at {units.si(rate, 'B/s')}{of_peak}"


def _unexplained(profile: Profile, pair: tuple[str, str], part: Totals) -> str:
    """What the intensity says where nobody recorded a bound; empty if there are no FLOPs."""
    peak, slope = profile.device.peak_flops, profile.device.bandwidth
    intensity = float(part.executed_flops / Fraction(part.bytes)) if part.bytes and not part.unmodelled else None
    if intensity and peak and slope and intensity < peak / slope:
        return f", at {units.digits(intensity)} FLOP/B: {_memory_bound(profile, pair, part)}"
    return f": {_compute_bound(profile, part)}" if part.executed_flops else ""


def _why(profile: Profile, pair: tuple[str, str], part: Totals) -> str:
    """What bounds most of the time of a stage's category, with the numbers that show it."""
    ops = [op for op in profile.ops if (op.stage, op.category) == pair]
    bounds = grouped(ops, lambda op: op.bound)
    bound = max(bounds, key=lambda name: bounds[name].known_seconds)
    each = f"{units.count(part.launches)} kernels of {units.seconds(part.known_seconds / max(1.0, part.launches))}"
    reasons: dict[str | None, Callable[[], str]] = {
        "memory": lambda: f", memory-bound: {_memory_bound(profile, pair, part)}",
        "tensor": lambda: f", compute-bound: {_compute_bound(profile, part)}",
        "exp": lambda: f", bound by the exponentials of softmax: {_compute_bound(profile, part)}",
        "l2": lambda: f", bound by the L2 cache: {_memory_bound(profile, pair, part)}",
        "waves": lambda: f", in too few blocks to fill the device: {_unfilled(profile, part)}",
        "launch": lambda: f", launch-bound: {each}",
        "host": lambda: f", host-bound: {each}, most of it spent waiting for the host",
        None: lambda: _unexplained(profile, pair, part) or f": {each}",
    }
    return reasons[bound]()


def _launching(profile: Profile, stage: str) -> tuple[float, float] | None:
    """Seconds that the host launches a stage and that the device works on it, if the host sets its pace.

    None where the device does, or where nobody knows how long launching takes (a measured profile).
    """
    ops = [op for op in profile.ops if op.stage == stage]
    host = [None if op.host_seconds is None else op.weight * op.host_seconds for op in ops]
    known = math.fsum(seconds for seconds in host if seconds is not None)
    if None in host or known < PACE * totals(ops).known_seconds:
        return None
    return known, math.fsum(op.weight * (op.device_seconds or 0) for op in ops)


def _paced(profile: Profile, stage: str, host: float, device: float) -> list[str]:
    """That a faster device would gain nothing, what would, and what the device does meanwhile."""
    name, busy = stage.replace("_", " "), units.seconds(device)
    found = [
        f"The host sets the pace of the {name} stage: it launches for {units.seconds(host)}, the device works {busy}.",
        "Faster memory or arithmetic gains nothing there; CUDA graphs (--mode graph) take the host out.",
    ]
    alone = [(op, None if op.bound == "host" else op.bound) for op in profile.ops]  # the device, without its waits
    ops = tuple(op.model_copy(update={"gap_seconds": 0.0, "bound": bound}) for op, bound in alone)
    parts = grouped([op for op in ops if op.stage == stage], lambda op: (op.stage, op.category))
    pair, part = max(parts.items(), key=lambda item: item[1].known_seconds)
    if device:
        why = _why(profile.model_copy(update={"ops": ops}), pair, part)
        found.append(f"Of the device's work, {units.percent(part.known_seconds / device)} is {pair[1]}{why}.")
    return found


def sentences(profile: Profile) -> list[str]:
    """Up to three sentences on where the time goes and why."""
    whole = totals(profile.ops)
    if whole.untimed:
        return [f"The time of {whole.untimed} of {len(profile.ops)} operators is unknown: no shares can be given."]
    parts = grouped(profile.ops, lambda op: (op.stage, op.category))
    ordered = sorted(parts.items(), key=lambda item: -item[1].known_seconds)[:2]
    if ordered and whole.known_seconds:
        stage = ordered[0][0][0]
        pace = _launching(profile, stage)
        if pace:
            return _paced(profile, stage, *pace)
    found: list[str] = []
    for pair, part in ordered:
        if part.known_seconds and whole.known_seconds:
            what = f"{pair[1]} in the {pair[0].replace('_', ' ')} stage{_why(profile, pair, part)}."
            taken = units.percent(part.known_seconds / whole.known_seconds)
            found.append(f"{taken} of the time is {what}" if not found else f"Next, {taken} is {what}")
    waiting = sum(op.weight * (op.gap_seconds or 0) for op in profile.ops)
    if whole.known_seconds and waiting > 0.1 * whole.known_seconds:
        idle = units.percent(waiting / whole.known_seconds)
        found[1:] = [f"For {idle} of the time the device waits for its next kernel."]
    return found
