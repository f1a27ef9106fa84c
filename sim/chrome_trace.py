"""A profile as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Every recorded call is drawn once, in call order: stages, the labels inside them and operators as nested slices, the
host's queue beside them, memory and bandwidth as counters. A loop is drawn as the iterations that were recorded, each
call saying how many executions it stands for; so slices add up to a stage's time by executions, not by length. Calls
that stand behind each other under the same labels share one slice.

Source: "Trace Event Format", the Chromium project: complete events (X), counters (C), metadata (M), microseconds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from minimodels.sim import units
from minimodels.sim.profile import Op, Profile

Event = dict[str, Any]
DEVICE, HOST = 1, 2  # thread numbers
NANO = 1e9


def as_json(profiles: Sequence[Profile]) -> str:
    """The trace of profiles, one process each, as JSON text."""
    events = [event for process, profile in enumerate(profiles, 1) for event in _events(profile, process)]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, separators=(",", ":"))


def _events(profile: Profile, process: int) -> Iterator[Event]:
    source = "measured" if profile.source == "measured" else "SIMULATED"
    title = f"{profile.config['name']}, {source} on {units.printable(profile.device.title)}"
    yield _named("process_name", process, None, title)
    yield _named("thread_name", process, DEVICE, "device: stages, modules, operators")
    yield _named("thread_name", process, HOST, "host: operators issued")
    ops = [profile.ops[index] for index in profile.calls]
    starts, ends = _times(ops)
    yield from _labels(profile, ops, starts, ends, process)
    recorded = Counter(profile.calls)
    for index, op, start, end in zip(profile.calls, ops, starts, ends, strict=True):
        yield _slice(op.name, process, DEVICE, start, end, _facts(op, op.weight / recorded[index]))
    yield from _host(ops, starts, process)
    yield from _counters(profile, ops, starts, ends, process)


def _times(ops: Sequence[Op]) -> tuple[list[int], list[int]]:
    """When each call starts and ends on the device: behind the one before and its wait for the host.

    In whole nanoseconds, so that slices that end together do so to the last digit.
    """
    ends = list(accumulate((op.gap_seconds or 0.0) + (op.device_seconds or 0.0) for op in ops))
    starts = [end - (op.device_seconds or 0.0) for op, end in zip(ops, ends, strict=True)]
    return [round(NANO * start) for start in starts], [round(NANO * end) for end in ends]


def _labels(profile: Profile, ops: Sequence[Op], starts: list[int], ends: list[int], process: int) -> Iterator[Event]:
    """The slices of stages and labels, outer ones first: from the first call under a label to the last."""
    seconds = {stage.name: (stage.seconds, stage.steps) for stage in profile.stages}
    paths = [(op.stage, *(part for part in op.scope.split("/") if part)) for op in ops]
    opened: list[tuple[str, int]] = []
    for call, path in enumerate((*paths, ())):
        shared = 0
        while shared < min(len(opened), len(path)) and opened[shared][0] == path[shared]:
            shared += 1
        while len(opened) > shared:
            label, start = opened.pop()
            facts: dict[str, Any] = {}
            if not opened:
                whole, steps = seconds[label]
                facts = {"seconds of the stage": whole, "steps of its loop": steps or 1}
            yield _slice(label, process, DEVICE, start, ends[call - 1], facts)
        opened += [(label, starts[call]) for label in path[shared:]]


def _host(ops: Sequence[Op], starts: list[int], process: int) -> Iterator[Event]:
    """The host issues a stage's operators one after another, from its start on."""
    clock, stage = 0, None
    for op, start in zip(ops, starts, strict=True):
        spent = round(NANO * (op.host_seconds or 0.0))
        if op.stage != stage:
            stage, clock = op.stage, max(clock, start - round(NANO * (op.gap_seconds or 0.0)))
        if spent:
            yield _slice(op.name, process, HOST, clock, clock + spent, {})
        clock += spent


def _counters(profile: Profile, ops: Sequence[Op], starts: list[int], ends: list[int], process: int) -> Iterator[Event]:
    timeline = dict(profile.memory.timeline)
    for call, (op, start, end) in enumerate(zip(ops, starts, ends, strict=True)):
        if call in timeline:
            yield _counter("memory", process, start, {"bytes": timeline[call]})
        if end > start:
            rate = (op.bytes_read + op.bytes_written) / (end - start) * NANO
            yield _counter("bandwidth", process, start, {"bytes/s": rate})
        if end > start and (call + 1 == len(ops) or starts[call + 1] > end):
            yield _counter("bandwidth", process, end, {"bytes/s": 0})


def _facts(op: Op, executions: float) -> dict[str, Any]:
    facts = {
        "executions": executions, "category": op.category, "phase": op.phase, "shapes": [list(s) for s in op.shapes],
        "dtype": op.dtype, "FLOPs": op.flops, "bytes read": op.bytes_read, "bytes written": op.bytes_written,
        "bound": op.bound, "provenance": op.provenance, "error": op.error,
    }  # fmt: skip
    if op.attention is not None:
        facts["attention"] = op.attention.model_dump(mode="json")
    return {name: value for name, value in facts.items() if value is not None}


def _named(what: str, process: int, thread: int | None, name: str) -> Event:
    where = {"pid": process} if thread is None else {"pid": process, "tid": thread}
    return {"name": what, "ph": "M", **where, "args": {"name": name}}


def _slice(name: str, process: int, thread: int, start: int, end: int, facts: dict[str, Any]) -> Event:
    span = {"ts": start / 1000, "dur": (end - start) / 1000}  # microseconds
    return {"name": name, "ph": "X", "pid": process, "tid": thread, **span, "args": facts}


def _counter(name: str, process: int, at: int, values: dict[str, float]) -> Event:
    return {"name": name, "ph": "C", "pid": process, "ts": at / 1000, "args": values}
