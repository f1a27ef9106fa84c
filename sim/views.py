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
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeVar

from minimodels.sim.flops import Exact, exact, executed_flops, model_flops
from minimodels.sim.profile import CATEGORIES, Attention, Op, Profile

if TYPE_CHECKING:
    from minimodels.sim.device import Device

Reading = Literal["core", "module"]
READINGS: tuple[Reading, ...] = ("core", "module")
OUTSIDE = "(outside any)"
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over some operators; bytes are read plus written, `untimed` and `unmodelled` count operators.

    `known_flops` and `executed_flops` differ by what a causal mask hides, see `flops`.
    """

    known_seconds: float
    known_flops: Exact
    executed_flops: Exact
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


def _sum(ops: Iterable[Op], number: Callable[[Op], Exact]) -> Exact:
    """The exact sum of a number of one execution over all executions."""
    sums: dict[float, Exact] = {}
    for op in ops:
        sums[op.weight] = sums.get(op.weight, 0) + number(op)
    return exact(sum((_rational(weight) * value for weight, value in sums.items()), Fraction(0)))


def totals(ops: Iterable[Op]) -> Totals:
    """The sums over `ops`."""
    ops = tuple(ops)
    seconds = [op_seconds(op) for op in ops]
    return Totals(
        known_seconds=math.fsum(time for time in seconds if time is not None),
        known_flops=_sum(ops, lambda op: op.flops or 0),
        executed_flops=_sum(ops, executed_flops),
        bytes=_sum(ops, lambda op: op.bytes_read + op.bytes_written),
        launches=_sum(ops, lambda op: op.launches),
        untimed=sum(time is None for time in seconds),
        unmodelled=sum(op.flops is None for op in ops),
    )


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


def by_filter(profile: Profile) -> dict[str, Totals]:
    """The sums of the convolutions by the size of their filters, such as "1x1" and "3x3"; most time first."""
    convolutions = (op for op in profile.ops if op.category == "Convolution" and len(op.shapes) > 1)
    found = grouped(convolutions, lambda op: "x".join(map(str, op.shapes[1][2:])))
    return dict(sorted(found.items(), key=lambda item: -item[1].known_seconds))


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
        for _, size in points:
            peaks[stage] = max(size, peaks[stage] or 0)
    return peaks


def smallest_device(size: int, above: int = 0) -> Device | None:
    """The listed device with the least memory that holds `size` bytes and has more than `above`."""
    from minimodels.sim import device as devices  # reaches torch, which nothing else here needs

    listed = [devices.load(name) for name in devices.names()]
    fit = [d for d in listed if d.datasheet.memory_bytes >= size and d.datasheet.memory_bytes > above]
    return min(fit, key=lambda d: (d.datasheet.memory_bytes, d.name), default=None)


def period(run: list[int]) -> int:
    """The length of the shortest block that `run` repeats."""
    return next(n for n in range(1, len(run) + 1) if len(run) % n == 0 and run[:n] * (len(run) // n) == run)


def attention_calls(profile: Profile) -> list[AttentionCall]:
    """The calls of attention in order; the operators of an unfused one are one call."""
    listed = Counter(profile.calls)
    found: list[AttentionCall] = []
    start = 0
    for (stage, facts), group in groupby(profile.calls, key=lambda i: (profile.ops[i].stage, profile.ops[i].attention)):
        run = list(group)
        if facts is not None:
            op = profile.ops[run[0]]
            executions = exact(_rational(op.weight) / listed[run[0]])
            places = range(start, start + len(run), period(run))
            found += [AttentionCall(call, stage, facts, executions) for call in places]
        start += len(run)
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


def mfu(profile: Profile) -> float | None:
    """Model FLOPs utilisation: FLOPs the model asks for over what the device's peak gives in the same time."""
    seconds, peak = elapsed(profile), profile.device.peak_flops
    return float(_sum(profile.ops, model_flops)) / (seconds * peak) if seconds and peak else None


def bandwidth(profile: Profile) -> float | None:
    """Achieved bandwidth: bytes read and written by all operators per second."""
    seconds = elapsed(profile)
    return float(totals(profile.ops).bytes) / seconds if seconds else None


def headline(profile: Profile) -> list[Quantity]:
    """What a user of such a model counts in, then utilisation and bandwidth."""
    batch, whole = profile.run.batch, totals(profile.ops)
    utilisation = Quantity("MFU", mfu(profile), "1", at_least=whole.flops is None)
    rates = [utilisation, Quantity("achieved bandwidth", bandwidth(profile), "B/s")]
    seconds = elapsed(profile)
    if profile.config["kind"] == "language-model":
        prefill, decode = elapsed(profile, "prefill"), elapsed(profile, "decode")
        later = (profile.run.gen_len or 1) - 1  # prefill yields the first token
        steps = [Quantity("decode", batch * later / decode if decode else None, "tokens/s")] if later else []
        return [Quantity("prefill", prefill, "s"), *steps, *rates]
    if profile.config["kind"] == "module":
        return [Quantity("time per call", seconds, "s/call"), *rates]
    each = None if seconds is None else seconds / batch
    video = "video" in profile.config["kind"] or (profile.run.frames or 1) > 1
    kind = Quantity("time per video", each, "s/video") if video else Quantity("time per image", each, "s/image")
    return [kind, *rates]
