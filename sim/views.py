"""What a Profile says: everything derived from its operators, and nothing printed.

Sums are over executions: each operator counts `weight` times. FLOPs, bytes and launches are exact (an int,
or a Fraction where loop weights are not whole); a time is device plus gap seconds. Nothing unknown is
hidden in a sum: `Totals.seconds` and `Totals.flops` are None as soon as one operator's are, and the known
part has a name of its own.

Two readings of a category. `core`: the operator's own (a projection inside an attention block is Linear).
`module`: an operator inside a module named after a category counts as that category (everything inside an
attention block is Attention). Neither is *the* share.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

from minimodels.sim import units
from minimodels.sim.profile import CATEGORIES, Attention, Op, Profile

if TYPE_CHECKING:
    from minimodels.sim.device import Device

Exact = int | Fraction
Reading = Literal["core", "module"]
READINGS: tuple[Reading, ...] = ("core", "module")
OUTSIDE = "(outside any)"
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over some operators; bytes are read plus written, `untimed` and `unmodelled` count operators."""

    known_seconds: float
    known_flops: Exact
    bytes: Exact
    launches: Exact
    untimed: int
    unmodelled: int

    @property
    def seconds(self) -> float | None:
        """Device plus gap seconds; None if the time of any operator is unknown."""
        return None if self.untimed else self.known_seconds

    @property
    def flops(self) -> Exact | None:
        """FLOPs; None if any operator has no formula."""
        return None if self.unmodelled else self.known_flops

    @property
    def intensity(self) -> float | None:
        """Arithmetic intensity in FLOPs per byte moved; None if FLOPs are unknown or nothing moves."""
        return None if self.flops is None or not self.bytes else float(self.flops / Fraction(self.bytes))


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of attention: at `call` in `Profile.calls`, standing for `executions` of the same."""

    call: int
    stage: str
    facts: Attention
    executions: Exact


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number a user counts in; `at_least` where operators without a formula are left out of it."""

    label: str
    value: float | None
    unit: Literal["s", "s/image", "s/video", "tokens/s", "B/s", "1"]
    at_least: bool = False


def exact(value: Exact) -> Exact:
    """`value` as an int where it is whole."""
    return int(value) if value == int(value) else value


@cache
def _rational(weight: float) -> Fraction:
    """The loop weight that was written as a float: 1024/3, not its nearest binary fraction."""
    return Fraction(weight).limit_denominator(1 << 20)


def op_seconds(op: Op) -> float | None:
    """Device plus gap seconds of all executions of `op`; None if either is unknown."""
    if op.device_seconds is None or op.gap_seconds is None:
        return None
    return op.weight * (op.device_seconds + op.gap_seconds)


def place(op: Op) -> str:
    """Where `op` runs: its stage and the labels inside it."""
    return "/".join(part for part in (op.stage, op.scope) if part)


def totals(ops: Iterable[Op]) -> Totals:
    """The sums over `ops`."""
    sums: dict[float, list[int]] = {}
    seconds: list[float] = []
    untimed = unmodelled = 0
    for op in ops:
        row = sums.setdefault(op.weight, [0, 0, 0])
        row[0] += op.flops or 0
        row[1] += op.bytes_read + op.bytes_written
        row[2] += op.launches
        time = op_seconds(op)
        untimed += time is None
        unmodelled += op.flops is None
        seconds.append(time or 0.0)
    flops, size, launches = (
        exact(sum((_rational(weight) * row[i] for weight, row in sums.items()), Fraction(0))) for i in range(3)
    )
    return Totals(math.fsum(seconds), flops, size, launches, untimed, unmodelled)


def grouped(ops: Iterable[Op], key: Callable[[Op], K]) -> dict[K, Totals]:
    """The sums over `ops` by `key`, in order of first appearance."""
    groups: dict[K, list[Op]] = {}
    for op in ops:
        groups.setdefault(key(op), []).append(op)
    return {name: totals(group) for name, group in groups.items()}


def category(op: Op, reading: Reading) -> str:
    """The category of `op` in one of the two readings."""
    module = (op.module or "").capitalize()
    return module if reading == "module" and module in CATEGORIES else op.category


def by_stage(profile: Profile) -> dict[str, Totals]:
    """The sums of each stage, in the order of the pipeline."""
    found = grouped(profile.ops, lambda op: op.stage)
    return {stage.name: found.get(stage.name, totals(())) for stage in profile.stages}


def by_category(profile: Profile, reading: Reading = "core", stage: str | None = None) -> dict[str, Totals]:
    """The sums of each category that occurs (in one stage, or in all), in the fixed order of the categories."""
    found = grouped((op for op in profile.ops if stage in (None, op.stage)), lambda op: category(op, reading))
    return {name: found[name] for name in CATEGORIES if name in found}


def by_module(profile: Profile) -> dict[str, Totals]:
    """The sums of each kind of module, such as "attention" or "feed_forward"."""
    return grouped(profile.ops, lambda op: op.module or OUTSIDE)


def share(part: Totals, whole: Totals) -> float | None:
    """The fraction of the time of `whole` that `part` takes; None if either is unknown."""
    return None if part.seconds is None or not whole.seconds else part.seconds / whole.seconds


def elapsed(profile: Profile, *names: str) -> float | None:
    """Seconds the stages `names` (all, if none is given) take: by the wall clock where it was measured."""
    seconds: list[float] = []
    for stage in profile.stages:
        if not names or stage.name in names:
            known = stage.seconds if stage.wall_seconds is None else stage.wall_seconds
            known = by_stage(profile)[stage.name].seconds if known is None else known
            if known is None:
                return None
            seconds.append(known)
    return math.fsum(seconds) if seconds else None


def timelines(profile: Profile) -> list[tuple[str, list[tuple[int, int]]]]:
    """The stages in the order they run, each with the (call, bytes) pairs of its span of calls.

    Bytes hold until the next pair; a span opens with what was in use before and closes with one pair at its end.

    Raises:
        ValueError: the timeline names a call that is not listed.
    """
    sizes, count = dict(profile.memory.timeline), len(profile.calls)
    if any(not 0 <= call < count for call in sizes):
        raise ValueError(f"the memory timeline names calls beyond the {count} that the profile lists")
    spans: list[tuple[str, list[tuple[int, int]]]] = []
    size: int | None = None
    for call, index in enumerate(profile.calls):
        stage, new = profile.ops[index].stage, call in sizes
        size = sizes.get(call, size)
        if not spans or spans[-1][0] != stage:
            spans.append((stage, []))
            new = size is not None
        if new and size is not None:
            spans[-1][1].append((call, size))
        if size is not None and (call + 1 == count or profile.ops[profile.calls[call + 1]].stage != stage):
            spans[-1][1].append((call + 1, size))
    return spans


def stage_peaks(profile: Profile) -> dict[str, int | None]:
    """Peak bytes while each stage runs; None where the timeline holds no call of the stage."""
    peaks: dict[str, int | None] = {stage.name: None for stage in profile.stages}
    for stage, points in timelines(profile):
        peaks[stage] = max((size for _, size in points), default=None)
    return peaks


def smallest_device(size: int, above: int = 0) -> Device | None:
    """The listed device with the least memory that holds `size` bytes and has more than `above`."""
    from minimodels.sim import device as devices  # reaches torch, which nothing else here needs

    listed = [devices.load(name) for name in devices.names()]
    fit = [d for d in listed if d.datasheet.memory_bytes >= size and d.datasheet.memory_bytes > above]
    return min(fit, key=lambda d: (d.datasheet.memory_bytes, d.name), default=None)


def attention_calls(profile: Profile) -> list[AttentionCall]:
    """The calls of attention in order; the operators of an unfused one are one call."""
    listed = Counter(profile.calls)
    found: list[AttentionCall] = []
    inside: set[int] = set()
    for call, index in enumerate(profile.calls):
        op = profile.ops[index]
        if op.attention is None:
            inside = set()
        elif inside and index not in inside and found[-1].facts == op.attention and found[-1].stage == op.stage:
            inside.add(index)
        else:
            inside = {index}
            found.append(AttentionCall(call, op.stage, op.attention, exact(_rational(op.weight) / listed[index])))
    return found


def attention_backends(profile: Profile) -> dict[str, Exact]:
    """How many calls of attention ran on each backend, most first."""
    counts: dict[str, Exact] = {}
    for call in attention_calls(profile):
        counts[call.facts.backend] = exact(counts.get(call.facts.backend, 0) + call.executions)
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def named(ops: Iterable[Op]) -> dict[str, Exact]:
    """How often each operator name is executed, most first."""
    counts: dict[str, Exact] = {}
    for op in ops:
        counts[op.name] = exact(counts.get(op.name, 0) + _rational(op.weight))
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def weight_bytes(op: Op) -> int | None:
    """Bytes of the parameter matrix or filter that one execution reads; None if the operator has none."""
    operand = 2 if "addmm" in op.name else 1
    if op.category not in ("Linear", "Convolution") or len(op.shapes) <= operand or "bmm" in op.name:
        return None
    width = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}.get(op.dtype.removeprefix("torch."))
    return None if width is None else width * math.prod(op.shapes[operand])


def weight_passes(profile: Profile, stage: str, kind: str = "Linear") -> tuple[int, int] | None:
    """Bytes of `kind` (Linear, Convolution) weights that a step of the loop of `stage` reads, and its steps.

    A loop is seen by its operators standing for more executions than are listed; the layer it runs least
    often (the output layer) runs once per step. None without such a loop.
    """
    listed, sizes = Counter(profile.calls), {}
    runs: dict[tuple[object, ...], tuple[Fraction, int]] = {}
    for index, op in enumerate(profile.ops):
        if (op.stage, op.category) == (stage, kind) and (size := weight_bytes(op)) is not None:
            key = (op.scope, op.name, op.shapes)
            weight, calls = runs.get(key, (Fraction(0), 0))
            runs[key], sizes[key] = (weight + _rational(op.weight), calls + listed[index]), size
    loop = {key: weight for key, (weight, calls) in runs.items() if weight > calls > 0}
    steps = min(loop.values(), default=Fraction(0))
    each = sum(weight * sizes[key] for key, weight in loop.items()) / max(steps, 1)
    return (round(each), int(steps)) if steps > 1 and steps == int(steps) and each <= profile.memory.weights else None


def mfu(profile: Profile) -> float | None:
    """Model FLOPs utilisation: known FLOPs over what the device's peak gives in the same time."""
    seconds, peak = elapsed(profile), profile.device.get("peak_flops")
    return float(totals(profile.ops).known_flops) / (seconds * peak) if seconds and peak else None


def bandwidth(profile: Profile) -> float | None:
    """Achieved bandwidth: bytes read and written by all operators per second."""
    seconds = elapsed(profile)
    return float(totals(profile.ops).bytes) / seconds if seconds else None


def headline(profile: Profile) -> list[Quantity]:
    """What a user of such a model counts in, then utilisation and bandwidth."""
    batch, whole = profile.run["batch"], totals(profile.ops)
    utilisation = Quantity("MFU", mfu(profile), "1", at_least=whole.flops is None)
    rates = [utilisation, Quantity("achieved bandwidth", bandwidth(profile), "B/s")]
    seconds = elapsed(profile)
    if profile.config["kind"] == "language-model":
        prefill, decode = elapsed(profile, "prefill"), elapsed(profile, "decode")
        rate = batch * (profile.run["gen_len"] - 1) / decode if decode else None  # prefill yields the first token
        steps = [Quantity("decode", rate, "tokens/s")] if profile.run["gen_len"] > 1 else []
        return [Quantity("prefill", prefill, "s"), *steps, *rates]
    each = None if seconds is None else seconds / batch
    video = "video" in profile.config["kind"] or (profile.run.get("frames") or 1) > 1
    kind = Quantity("time per video", each, "s/video") if video else Quantity("time per image", each, "s/image")
    return [kind, *rates]


def _memory_bound(profile: Profile, pair: tuple[str, str], part: Totals) -> str:
    """What is moved: the weights over and over, or just bytes."""
    passes = weight_passes(profile, *pair)
    if passes and 2 * passes[0] * passes[1] > part.bytes:
        return f"{units.size(passes[0])} of weights are read {units.count(passes[1])} times"
    return f"{units.size(part.bytes)} are moved at {units.si(part.bytes / part.known_seconds, 'B/s')}"


def _compute_bound(profile: Profile, part: Totals) -> str:
    """How much is computed, how fast, and how near to the peak of the device."""
    rate, peak = float(part.known_flops) / part.known_seconds, profile.device.get("peak_flops")
    of_peak = f", {units.percent(rate / peak)} of the peak" if peak else ""
    return f"{units.flops(part.known_flops)} at {units.si(rate, 'FLOP/s')}{of_peak}"


def _unexplained(profile: Profile, pair: tuple[str, str], part: Totals) -> str:
    """What the intensity says where nobody recorded a bound; empty if there are no FLOPs."""
    peak, slope = profile.device.get("peak_flops"), profile.device.get("bandwidth")
    if part.intensity and peak and slope and part.intensity < peak / slope:
        return f", at {units.digits(part.intensity)} FLOP/B: {_memory_bound(profile, pair, part)}"
    return f": {_compute_bound(profile, part)}" if part.known_flops else ""


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
        "waves": lambda: f", too small to fill the device: {_compute_bound(profile, part)}",
        "launch": lambda: f", launch-bound: {each}",
        "host": lambda: f", host-bound: {each}, most of it spent waiting for the host",
        None: lambda: _unexplained(profile, pair, part) or f": {each}",
    }
    return reasons[bound]()


def sentences(profile: Profile) -> list[str]:
    """One or two sentences on where the time goes and why."""
    whole = totals(profile.ops)
    if whole.untimed:
        return [f"The time of {whole.untimed} of {len(profile.ops)} operators is unknown: no shares can be given."]
    parts = grouped(profile.ops, lambda op: (op.stage, op.category))
    found: list[str] = []
    for pair, part in sorted(parts.items(), key=lambda item: -item[1].known_seconds)[:2]:
        if part.known_seconds and whole.known_seconds:
            what = f"{pair[1]} in the {pair[0].replace('_', ' ')} stage{_why(profile, pair, part)}."
            taken = units.percent(part.known_seconds / whole.known_seconds)
            found.append(f"{taken} of the time is {what}" if not found else f"Next, {taken} is {what}")
    waiting = sum(op.weight * (op.gap_seconds or 0) for op in profile.ops)
    if whole.known_seconds and waiting > 0.1 * whole.known_seconds:
        idle = units.percent(waiting / whole.known_seconds)
        found[1:] = [f"For {idle} of the time the device waits for its next kernel."]
    return found
