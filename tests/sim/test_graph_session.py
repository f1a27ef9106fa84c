"""Captured runs: which operators stand in which graph, how often it is replayed, and what cannot be captured.

Where there is no GPU, a recorder of these tests' own stands in for CUDA's: operators run, and stretches are told.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from minimodels import loader
from minimodels.kernels.backend import attention_backend
from minimodels.kernels.scope import STAGE, TRACER, scope
from minimodels.pipelines import example_input, generate
from minimodels.run import Run, build, steps
from minimodels.sim import graph_session
from minimodels.sim.call import Call
from minimodels.sim.capture import Capture, CudaGraphs, Segment
from minimodels.sim.graph_session import GraphSession, matched, times_of
from minimodels.sim.job import Prepared, of_module
from minimodels.sim.measure import measure
from minimodels.sim.profiler import Event, Executed, KnotWalk
from minimodels.sim.progress import silent
from minimodels.sim.replays import Differs
from minimodels.sim.session import Pair, Unmeasurable
from minimodels.sim.simulate import simulate
from tests.sim.test_measure import TINY, flops, timed

ROOT = Path(__file__).parents[2]


class Told:
    """A recorder that captures nothing: `events` says what it was asked, replays included."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.count = 0

    def recording(self) -> AbstractContextManager[object]:
        return nullcontext()

    def begin(self, repeated: bool) -> None:
        torch.zeros(1).fill_(1)  # as CUDA's graphs set the state of random numbers
        self.events.append("repeated" if repeated else "once")

    def end(self) -> Callable[[], None]:
        self.count += 1
        name = f"replay {self.count}"
        return lambda: self.events.append(name)

    def abandon(self) -> None:
        self.events.append("abandoned")


def captured(job: Callable[[], object], recorder: Any = None, full: bool = False) -> list[Segment]:
    capture = Capture(recorder or Told(), full)

    def run() -> None:
        token = TRACER.set(capture)
        try:
            with torch.inference_mode():
                job()
        finally:
            TRACER.reset(token)

    return capture.run(run)


@cache
def captured_and_walked(name: str, full: bool) -> tuple[list[Segment], list[Call]]:
    config = loader.load(name)
    parts, tokens = build(config), example_input(config, 1, "cpu")
    segments = captured(lambda: generate(config, parts, tokens), full=full)
    on_meta, unread = build(config, "meta"), example_input(config, 1, "meta")
    walk = KnotWalk(on_meta, graphs=True, full=full, keep_views=True)
    with attention_backend("sdpa", "cpu"), torch.inference_mode(), walk:
        generate(config, on_meta, unread)
    return segments, walk.calls


@pytest.mark.parametrize("full", (False, True))
@pytest.mark.parametrize("name", TINY)
def test_graphs_hold_the_walked_operators_as_often_as_the_walk_weighs_them(name: str, full: bool) -> None:
    segments, calls = captured_and_walked(name, full)
    found = [(op, segment.stage, float(segment.count)) for segment in segments for op in segment.operators]
    assert found == [(call.name, call.stage, call.weight) for call in calls]
    assert not full or all(segment.count == 1 for segment in segments)


def nested() -> torch.Tensor:
    """Stages and loops within loops."""
    with scope(STAGE, "first"):
        x = torch.zeros(3)
    with scope(STAGE, "second"):
        x = torch.relu(x)
        for _ in steps("outer", 5, "constant"):
            x = torch.sigmoid(x)
            for _ in steps("inner", 600, "affine"):
                x = torch.tanh(x)
            x = torch.exp(x)
        return torch.sin(x)


def test_a_graph_begins_where_a_stage_or_a_step_does() -> None:
    told = Told()
    segments = captured(nested, told)
    assert [(one.stage, one.count, list(one.operators)) for one in segments] == [
        ("first", 1, ["zeros"]),
        ("second", 1, ["relu"]),
        ("second", 5, ["sigmoid"]),
        ("second", 5 * 256, ["tanh"]),
        ("second", 5 * 256, ["tanh"]),
        ("second", 5 * 88, ["tanh"]),
        ("second", 5, ["exp"]),
        ("second", 1, ["sin"]),
    ]
    assert told.events == ["once", "once", "once", "once", *["repeated"] * 5, "once", "once"]


def test_what_cannot_be_captured_is_said_with_the_operator_and_the_stage() -> None:
    def job() -> None:
        with scope(STAGE, "decode"):
            x = torch.relu(torch.zeros(2))
            torch.mm(x, x)  # torch refuses it, as it refuses a synchronisation during a capture

    told = Told()
    with pytest.raises(
        ValueError, match=r"mode 'graph' cannot capture mm in stage decode: .*; --mode eager measures it"
    ):
        captured(job, told)
    assert told.events[-1] == "abandoned"


def test_a_wrong_option_is_said_as_it_is() -> None:
    def job() -> None:
        raise ValueError("a pinned backend")

    with pytest.raises(ValueError, match=r"\Aa pinned backend\Z"):
        captured(job)


def test_a_module_of_a_users_own_is_captured_too() -> None:
    """Its submodules are labelled, unless who watches only takes the time."""
    module = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU()))
    job = of_module(module, (torch.ones(2, 3),), Run(device="cpu", dtype="float32")).prepare("cpu")
    (one,) = captured(job.run)
    assert list(one.operators) == ["linear", "relu"]


def pairs(*operators: tuple[str, float, str]) -> list[Pair]:
    """Operators with one kernel each, as they ran and were walked: (name, weight, stage)."""
    result = []
    for name, weight, stage in operators:
        call = timed(stage, weight, 0, 0).call
        call.name = name
        result.append((Executed(name, 0, 0, kernels=[f"{name}_kernel"]), call))
    return result


def segment(stage: str, count: int, *operators: str, replay: Callable[[], None] = lambda: None) -> Segment:
    return Segment(stage, count, operators, replay)


def test_stretches_take_their_operators_in_order() -> None:
    ran = pairs(("a", 1, "s"), ("b", 7, "s"), ("c", 7, "s"))
    assert matched([segment("s", 1, "a"), segment("s", 7, "b", "c")], ran)[1][1] == ran[1:]


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ([segment("s", 1, "a"), segment("s", 7, "b", "d")], r"operator 2 of the capture is \('d', 's', 7.0\), of the"),
        ([segment("s", 1, "a"), segment("s", 6, "b", "c")], "operator 1 of the capture"),
        ([segment("s", 1, "a"), segment("t", 7, "b", "c")], "operator 1 of the capture"),
        ([segment("s", 1, "a"), segment("s", 7, "b", "c", "d")], "operator 3 of the capture .* of the walk none"),
        ([segment("s", 1, "a"), segment("s", 7, "b")], "the capture has 2 operators, the walk 3"),
    ],
)  # fmt: skip
def test_a_capture_of_other_operators_than_walked_is_refused(segments: Sequence[Segment], said: str) -> None:
    with pytest.raises(Unmeasurable, match=f"{said}.*defect in minimodels"):
        matched(segments, pairs(("a", 1, "s"), ("b", 7, "s"), ("c", 7, "s")))


def test_each_operator_has_the_median_of_its_replays() -> None:
    stretches = [pairs(("a", 1, "s")), pairs(("view", 1, "s")), pairs(("b", 7, "s"), ("c", 7, "s"))]
    stretches[1][0][0].kernels.clear()
    events = [Event("label", "stage.s", 0, 1, 0, 0)]
    for number, begin in enumerate((100, 1_000, 2_000, 3_000), start=1):
        events.append(Event("other", "cudaGraphLaunch", begin - 50, begin - 10, number, 0))
    events.append(Event("device", "a_kernel", 100, 300, 1, 0))
    for number, begin, b in ((2, 1_000, 90), (3, 2_000, 30), (4, 3_000, 50)):
        events.append(Event("device", "b_kernel", begin, begin + b, number, 0))
        events.append(Event("device", "c_kernel", begin + 100, begin + 110, number, 0))
    ran = [0, 2, 2, 2]
    found = times_of(events, ran, stretches)
    assert found[0] == pytest.approx((200e-9, 100e-9))
    assert found[1] == (0, 0), "a stretch of views alone is never replayed"
    assert found[2:] == [pytest.approx((50e-9, 890e-9)), pytest.approx((10e-9, 50e-9))]
    with pytest.raises(Differs, match="the trace has 4 graph launches, 5 ran"):
        times_of(events, [*ran, 2], stretches)


class Replayed(GraphSession):
    """A session whose stretches are given."""

    def __init__(self, segments: list[tuple[Segment, Sequence[Pair]]], **options: Any) -> None:
        run = Run(device="cpu", dtype="float32", mode="graph", **options)
        walk = KnotWalk()
        walk.calls = [call for _, own in segments for _, call in own]
        super().__init__(Prepared(torch.nn.ModuleDict(), (), lambda: None), walk, run, torch.device("cpu"), silent)
        self._segments = segments


def test_the_clock_replays_a_graph_for_every_step_it_stands_for() -> None:
    ran: list[str] = []
    plan = (("first", 1, "a"), ("second", 1, "b"), ("second", 5, "c"), ("third", 2, "view"))
    segments: list[tuple[Segment, Sequence[Pair]]] = [
        (segment(stage, count, name, replay=lambda name=name: ran.append(name)), pairs((name, count, stage)))
        for stage, count, name in plan
    ]
    segments[-1][1][0][0].kernels.clear()
    seconds = Replayed(segments)._once()
    assert ran == ["a", "b", "c", "c", "c", "c", "c"], "not those without kernels"
    assert list(seconds) == ["first", "second", "third"] and all(value >= 0 for value in seconds.values())


def test_more_kernels_than_graphs_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_session, "MOST_KERNELS", 1)
    own = pairs(("a", 1, "s"), ("b", 1, "s"))
    for full, hint in ((True, "leave --full out"), (False, "--mode eager")):
        with pytest.raises(ValueError, match=f"about 2 kernels, 1 at most: {hint}"):
            Replayed([(segment("s", 1, "a", "b"), own)], full=full).warm_up()


@pytest.mark.gpu
def test_replays_compute_what_the_steps_compute() -> None:
    weight, out = torch.randn(5, 5, device="cuda"), torch.empty(3, 5, device="cuda")
    start = torch.randn(3, 5, device="cuda")

    def job() -> None:
        x = start * 1
        for i in steps("denoise", 7, "any"):
            x = torch.tanh(x @ weight) + i / 7
        out.copy_(x)

    segments = captured(job, CudaGraphs(torch.device("cuda")))
    assert [one.count for one in segments] == [1] * 9
    out.zero_()
    for one in segments:
        one.replay()
    found = out.clone()
    with torch.inference_mode():
        job()
    torch.testing.assert_close(found, out, atol=0, rtol=0)


@pytest.mark.gpu
def test_a_graph_replayed_in_a_row_reads_the_same_input_each_time() -> None:
    """Its input is freed while it is captured, and what it allocates afterwards must not take that memory."""
    out = torch.empty(1_000, device="cuda")

    def job() -> None:
        x = torch.ones(1_000, device="cuda")
        for _ in steps("denoise", 7, "constant"):
            x = x + 1
            out.copy_(torch.zeros(1_000, device="cuda") + x)

    segments = captured(job, CudaGraphs(torch.device("cuda")))
    for one in segments:
        for _ in range(one.count):
            one.replay()
    assert out.eq(2).all()


@pytest.mark.gpu
def test_stretches_without_kernels_leave_the_memory_of_the_others_alone() -> None:
    """Torch lets go of a pool when its last graph is gone, and a stage is often preceded by a graph of nothing."""
    out = torch.empty(1_000, device="cuda")

    def job() -> None:
        for stage in ("first", "second", "third"):
            with scope(STAGE, stage):
                out.normal_()

    segments = captured(job, CudaGraphs(torch.device("cuda")))
    assert [one.stage for one in segments] == ["first", "second", "third"]
    found = []
    for one in segments:
        one.replay()
        found.append(out.clone())
    assert all(x.isfinite().all() and 0.9 < x.std().item() < 1.1 for x in found)
    assert not torch.equal(found[0], found[1])


@pytest.mark.gpu
def test_random_numbers_differ_between_replays() -> None:
    out = torch.empty(1_000, device="cuda")
    (one,) = captured(lambda: out.normal_(), CudaGraphs(torch.device("cuda")))
    one.replay()
    first = out.clone()
    one.replay()
    assert not torch.equal(first, out)


SYNCHRONISES = """
import torch
from tests.sim.test_graph_session import captured
from minimodels.sim.capture import CudaGraphs

try:
    captured(lambda: torch.ones(3, device="cuda").sum().item(), CudaGraphs(torch.device("cuda")))
except ValueError as error:
    print(error)
print(torch.ones(3, device="cuda").sum().item())
"""


@pytest.mark.gpu
def test_a_synchronisation_cannot_be_captured_and_the_device_stays_usable() -> None:
    """In a process of its own: a capture that failed leaves torch's generator in the state of a capture."""
    done = subprocess.run([sys.executable, "-c", SYNCHRONISES], cwd=ROOT, capture_output=True, text=True)
    said, left = done.stdout.splitlines()
    assert "mode 'graph' cannot capture" in said and ("item" in said or "_local_scalar_dense" in said)
    assert left == "3.0"


@pytest.mark.gpu
@pytest.mark.parametrize("name", TINY)
def test_a_replayed_run_gives_its_kernels_to_operators(name: str) -> None:
    profile = measure(loader.load(name), Run(device="cuda", mode="graph", repeats=2, warmup=1))
    assert flops(profile) == flops(simulate(loader.load(name), Run(device="a100-80gb")))
    assert (profile.environment.attributed or 0) >= 0.98
    assert all(op.launches > 0 for op in profile.ops if op.category == "Linear")
    for stage in profile.stages:
        assert stage.seconds == pytest.approx(stage.wall_seconds, rel=1e-9)


@pytest.mark.gpu
def test_every_captured_step_has_the_flops_of_the_buckets() -> None:
    few, every = (
        measure(loader.load("llama-tiny"), Run(device="cuda", mode="graph", repeats=2, full=full))
        for full in (False, True)
    )
    assert flops(few) == flops(every) and len(every.calls) > len(few.calls)
