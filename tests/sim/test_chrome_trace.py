"""Profiles as Chrome traces: slices nest, nothing is lost, the counters say what the profile says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minimodels import loader
from minimodels.cli import main
from minimodels.run import Run
from minimodels.sim import chrome_trace, views
from minimodels.sim.profile import Profile
from minimodels.sim.simulate import simulate

NAMES = ("stable-diffusion-tiny", "parti-tiny", "make-a-video-tiny")


def of(name: str) -> tuple[Profile, list[dict[str, Any]]]:
    profile = simulate(loader.load(name), Run(device="h100-sxm"))
    return profile, json.loads(chrome_trace.as_json([profile]))["traceEvents"]


def slices(events: list[dict[str, Any]], thread: int) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X" and event["tid"] == thread]


@pytest.mark.parametrize("name", NAMES)
def test_slices_of_a_thread_nest(name: str) -> None:
    """What Perfetto asks for: of two slices one holds the other, or they do not meet."""
    _, events = of(name)
    for thread in (chrome_trace.DEVICE, chrome_trace.HOST):
        open_ends: list[int] = []
        spans = [(round(1000 * e["ts"]), round(1000 * (e["ts"] + e["dur"]))) for e in slices(events, thread)]
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1]
            open_ends.append(end)


@pytest.mark.parametrize("name", NAMES)
def test_executions_of_the_slices_add_up_to_the_time_of_the_kernels(name: str) -> None:
    profile, events = of(name)
    drawn = sum(e["dur"] * e["args"]["executions"] for e in slices(events, 1) if "executions" in e["args"]) / 1e6
    assert drawn == pytest.approx(sum(op.weight * (op.device_seconds or 0) for op in profile.ops), rel=1e-3)
    stages = {
        e["name"]: e["args"]["seconds of the stage"] for e in slices(events, 1) if "steps of its loop" in e["args"]
    }
    assert stages == {stage.name: views.elapsed(profile, stage.name) for stage in profile.stages}


def test_every_call_and_every_label_is_drawn() -> None:
    profile, events = of("stable-diffusion-tiny")
    drawn = Counter(e["name"] for e in slices(events, 1) if "executions" in e["args"])
    assert drawn == Counter(profile.ops[index].name for index in profile.calls)
    labels = {part for op in profile.ops for part in (op.stage, *op.scope.split("/")) if part}
    assert labels <= {e["name"] for e in slices(events, 1)}


def test_counters_hold_the_memory_timeline_and_bandwidth_below_the_peak() -> None:
    profile, events = of("stable-diffusion-tiny")
    memory = [e["args"]["bytes"] for e in events if e["ph"] == "C" and e["name"] == "memory"]
    assert memory == [size for call, size in profile.memory.timeline if call < len(profile.calls)]
    rates = [e["args"]["bytes/s"] for e in events if e["ph"] == "C" and e["name"] == "bandwidth"]
    assert rates and max(rates) > 0 and min(rates) == 0


def test_a_measured_run_is_traced_too(tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    options = ["--device", "cpu", "--repeats", "1", "--warmup", "1", "--steps", "2"]
    result = CliRunner().invoke(main, ["profile", "stable-diffusion-tiny", *options, "--trace", str(out)])
    assert result.exit_code == 0, result.output
    events = json.loads(out.read_text())["traceEvents"]
    assert "measured" in next(e["args"]["name"] for e in events if e["name"] == "process_name")
    assert slices(events, 1)


def test_a_trace_that_cannot_be_written_is_one_message_before_any_work(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["profile", "parti-20b", "--trace", str(tmp_path / "no" / "trace.json")])
    assert result.exit_code == 2 and "cannot write" in result.stderr
