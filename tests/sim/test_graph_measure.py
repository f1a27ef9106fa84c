"""A whole measurement in graph mode where there is no GPU: the model runs on the CPU, the device's trace is made up.

An operator launches one kernel if it does anything, which takes longer the longer its name is; attention launches two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from minimodels import loader
from minimodels.kernels.scope import STAGE, label
from minimodels.run import Run
from minimodels.sim import measure as measuring
from minimodels.sim import profiler
from minimodels.sim.capture import Capture, Segment
from minimodels.sim.graph_session import REPLAYS, GraphSession
from minimodels.sim.measure import measure
from minimodels.sim.profile import Profile
from minimodels.sim.profiler import Event
from minimodels.sim.session import Pair, Unmeasurable
from minimodels.sim.simulate import simulate
from tests.sim.test_graph_session import Told
from tests.sim.test_measure import flops

EAGER_TRACE = profiler.trace
PEAK = 12_345
LAUNCH = 40  # ns between the launch of a graph and its first kernel
APART = 5  # ns between two kernels


def length(name: str) -> int:
    """How long a kernel of an operator takes, in ns."""
    return 100 + 13 * len(name)


class OnCpu(GraphSession):
    """Replays do nothing but tell that they ran; a trace is made of that."""

    names = staticmethod(lambda name: f"{name}_kernel")  # of kernels in a replay

    def _capture(self) -> list[Segment]:
        self.told = Told()
        capture = Capture(self.told, self._run.full)
        segments = capture.run(lambda: self._perform(capture))
        self._captured_peak = PEAK
        return segments

    def trace(self, run: Callable[[], object]) -> list[Event]:
        return self._replayed(run) if hasattr(self, "_segments") else self._eager(run)

    def _eager(self, run: Callable[[], object]) -> list[Event]:
        events = EAGER_TRACE(run, on_gpu=False)
        operators, _ = profiler.outermost(events)
        number = {event.start: event.number for event in reversed(events) if event.kind == "operator"}
        made = []
        for operator, call in zip(operators, self._walk.calls, strict=True):
            for kernel in range(0 if call.work.kernel == "none" else 1 + ("attention" in call.name)):
                start = operator.start + kernel
                made.append(Event("device", f"{call.name}_kernel", start, start + 1, 0, number[operator.start]))
        return [*events, *made]

    def _replayed(self, run: Callable[[], object]) -> list[Event]:
        by_name: dict[str, tuple[Segment, Sequence[Pair]]] = {}
        for segment, pairs in self._segments:
            segment.replay()
            by_name[self.told.events[-1]] = segment, pairs
        self.told.events.clear()
        run()
        events, now, stage = [], 0, None
        for number, name in enumerate(self.told.events, start=1):
            segment, pairs = by_name[name]
            if segment.stage != stage:
                stage = segment.stage
                events.append(Event("label", label(STAGE, stage), now, now, 0, 0))
            events.append(Event("other", "cudaGraphLaunch", now, now + 1, number, 0))
            now += LAUNCH
            for operator, _ in pairs:
                for _ in operator.kernels:
                    end = now + length(operator.name)
                    events.append(Event("device", self.names(operator.name), now, end, number, 0))
                    now = end + APART
        return events


def measured(
    name: str, monkeypatch: pytest.MonkeyPatch, session: type[OnCpu] = OnCpu, full: bool = False
) -> tuple[Profile, OnCpu]:
    """The profile, and the session that it comes from."""
    made: list[OnCpu] = []

    class Kept(session):
        def warm_up(self) -> int:
            made.append(self)
            return super().warm_up()

    monkeypatch.setattr(measuring, "_checked", lambda run: torch.device("cpu"))
    monkeypatch.setitem(measuring.SESSIONS, "graph", Kept)
    monkeypatch.setattr(profiler, "trace", lambda run, on_gpu: made[-1].trace(run))
    run = Run(device="cpu", dtype="float32", mode="graph", repeats=2, warmup=1, full=full)
    return measure(loader.load(name), run), made[-1]


@pytest.mark.parametrize("name", ("llama-tiny", "muse-tiny", "stable-diffusion-tiny"))
def test_a_graph_run_has_the_walks_facts_and_every_kernel_its_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile, session = measured(name, monkeypatch)
    assert flops(profile) == flops(simulate(loader.load(name), Run(device="a100-80gb", dtype="float32")))
    assert profile.environment.attributed == 1
    assert profile.environment.model_dump()["allocator_peak"] == PEAK
    for stage in profile.stages:
        assert stage.wall_seconds and stage.seconds == pytest.approx(stage.wall_seconds, rel=1e-9)
        scales = [  # on a CPU all times of a stage are scaled alike
            (op.device_seconds or 0) / (op.launches * length(op.name))
            for op in profile.ops
            if op.stage == stage.name and op.launches
        ]
        assert scales == pytest.approx([scales[0]] * len(scales)) and scales[0] > 0
    assert all(op.host_seconds == 0 for op in profile.ops)
    assert {op.launches for op in profile.ops if "attention" in op.name} == {2}
    longest = max(session.told.events.count(name) for name in set(session.told.events))
    assert longest == REPLAYS, "no graph is replayed more often in a profiled run"


def test_every_step_has_a_graph_of_its_own_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    few, _ = measured("llama-tiny", monkeypatch)
    every, session = measured("llama-tiny", monkeypatch, full=True)
    assert flops(few) == flops(every) and len(every.calls) > len(few.calls)
    assert {segment.count for segment, _ in session._segments} == {1}


def test_a_replay_of_other_kernels_is_a_defect_and_said_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(OnCpu):
        names = staticmethod(lambda name: "sort_kernel" if name == "argmax" else f"{name}_kernel")

    with pytest.raises(
        Unmeasurable, match="of a replay is sort_kernel, at capture argmax launched .*defect in minimod"
    ):
        measured("llama-tiny", monkeypatch, Other)
