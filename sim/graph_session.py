"""The runs of `--mode graph`: a job is captured as CUDA graphs once, and the graphs are replayed.

1. Eager runs of the steps that are captured: one to warm up all that a first call sets up, one with the profiler, which
   tells the kernels of every operator in order.
2. The capture (`capture`); its operators must be the walk's.
3. Warm-up and the clock replay every graph as often as the steps that it stands for.
4. The profiler sees every graph replayed, at most `REPLAYS` times in a row; `replays` gives the kernels to operators.

The host issues graphs, not operators: an operator's host seconds are 0. The kernels of operators that only look at
their argument are lost time, as in eager mode.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch
from torch.profiler import record_function

from minimodels.kernels.scope import STAGE, label
from minimodels.sim import profiler
from minimodels.sim.capture import Capture, CudaGraphs, Segment
from minimodels.sim.replays import Differs, attribute, replays, typical
from minimodels.sim.session import DEFECT, PASSES, Pair, Session, Timed, Unmeasurable, as_run, is_view

REPLAYS = 3  # of a graph in a row under the profiler; the host is ahead of the device from the second on
MOST_KERNELS = 200_000  # captured in all: a graph takes memory, on host and device, for each of them


class GraphSession(Session):
    """A job on a GPU, replayed as CUDA graphs; see `Session`."""

    _segments: list[tuple[Segment, Sequence[Pair]]]
    _captured_peak: int

    def warm_up(self) -> int:
        """Capture, then replay until two runs in a row agree; how many replays it took."""
        kernels = sum(call.work.launches for call in self._walk.calls)
        if kernels > MOST_KERNELS:
            raise ValueError(
                f"mode 'graph' would capture about {kernels:,} kernels, {MOST_KERNELS:,} at most: "
                + ("leave --full out" if self._run.full else "--mode eager measures them as they are")
            )
        os.environ.setdefault("TEARDOWN_CUPTI", "0")  # a profiler that ended and begins again may crash on graphs
        self._progress("running eagerly", 0, 0)
        self._perform(profiler.Labels(self._walk.knots, self._settle, self._run.seed))
        pairs, _, _ = self._operators(0)
        self._progress("capturing", 0, 0)
        self._segments = matched(self._capture(), pairs)
        return super().warm_up()

    def clock(self) -> list[dict[str, float]]:
        """Seconds by stage of every timed run; memory was allocated during the capture."""
        result = super().clock()
        self.allocator_peak = self._captured_peak
        return result

    def profile(self, number: int) -> list[Timed]:
        """One profiled run of the graphs: every operator but views, with its time."""
        self._progress("profiling", number + 1, PASSES)
        ran: list[int] = []
        events = profiler.trace(lambda: self._replay_labelled(ran), on_gpu=True)
        try:
            times = times_of(events, ran, [pairs for _, pairs in self._segments])
        except Differs as error:
            raise Unmeasurable(f"{error}: {DEFECT}") from error
        every = [pair for _, pairs in self._segments for pair in pairs]
        both = list(zip(every, times, strict=True))
        kept = [(pair, time) for pair, time in both if not is_view(pair[1])]
        lost = sum(device for (_, call), (device, _) in both if is_view(call))
        self._attribute(sum(device for _, (device, _) in kept), lost)
        calls = as_run([pair for pair, _ in kept], on_gpu=True)
        return [Timed(call, device, 0.0, gap) for call, (_, (device, gap)) in zip(calls, kept, strict=True)]

    def _capture(self) -> list[Segment]:
        torch.cuda.reset_peak_memory_stats(self._device)
        capture = Capture(CudaGraphs(self._device), self._run.full)
        segments = capture.run(lambda: self._perform(capture))
        self._captured_peak = torch.cuda.max_memory_allocated(self._device)
        return segments

    def _once(self) -> dict[str, float]:
        seconds = dict.fromkeys((call.stage for call in self._walk.calls), 0.0)
        self._settle()
        begin = time.perf_counter()
        for index, (segment, pairs) in enumerate(self._segments):
            for _ in range(segment.count if _launches(pairs) else 0):
                segment.replay()
            if index + 1 == len(self._segments) or self._segments[index + 1][0].stage != segment.stage:
                self._settle()
                now = time.perf_counter()
                seconds[segment.stage] += now - begin
                begin = now
        return seconds

    def _replay_labelled(self, ran: list[int]) -> None:
        """Replay every graph, under a label where a stage begins; `ran` is told which ones, in order."""
        stage = None
        for index, (segment, pairs) in enumerate(self._segments):
            if segment.stage != stage:
                stage = segment.stage
                self._settle()
                with record_function(label(STAGE, stage)):
                    pass
            for _ in range(min(segment.count, REPLAYS) if _launches(pairs) else 0):
                segment.replay()
                ran.append(index)
        self._settle()


def _launches(pairs: Sequence[Pair]) -> bool:
    """Whether any operator of a stretch launches a kernel; a graph without any is not replayed."""
    return any(operator.kernels for operator, _ in pairs)


def matched(segments: Sequence[Segment], pairs: Sequence[Pair]) -> list[tuple[Segment, Sequence[Pair]]]:
    """Captured stretches, each with its operators as they ran eagerly and were walked.

    Raises:
        Unmeasurable: the capture holds other operators, or a stretch stands for another number of steps.
    """
    result, start = [], 0
    for segment in segments:
        own = pairs[start : start + len(segment.operators)]
        start += len(own)
        walked = [(call.name, call.stage, call.weight) for _, call in own]
        captured = [(name, segment.stage, float(segment.count)) for name in segment.operators]
        if walked != captured:
            at = next((i for i, (a, b) in enumerate(zip(walked, captured, strict=False)) if a != b), len(walked))
            raise Unmeasurable(
                f"operator {start - len(own) + at:,} of the capture is {captured[at]}, of the walk "
                f"{walked[at] if at < len(walked) else 'none'}: {DEFECT}"
            )
        result.append((segment, own))
    if start != len(pairs):
        raise Unmeasurable(f"the capture has {start:,} operators, the walk {len(pairs):,}: {DEFECT}")
    return result


def times_of(
    events: Sequence[profiler.Event], ran: Sequence[int], stretches: Sequence[Sequence[Pair]]
) -> list[tuple[float, float]]:
    """Device and gap seconds of every operator of all stretches; `ran` says which one each replay of a trace was.

    Raises:
        Differs: there are other replays in the trace, or other kernels in a replay, than were captured.
    """
    found = replays(events)
    if len(found) != len(ran):
        raise Differs(f"the trace has {len(found):,} graph launches, {len(ran):,} ran")
    executed = [
        attribute(kernels, [operator for operator, _ in stretches[index]])
        for kernels, index in zip(found, ran, strict=True)
    ]
    every = iter(profiler.times([operator for one in executed for operator in one], profiler.stage_starts(events)))
    by_stretch: dict[int, list[list[tuple[float, float]]]] = {}
    for index, one in zip(ran, executed, strict=True):
        by_stretch.setdefault(index, []).append([next(every) for _ in one])
    return [
        time
        for index, pairs in enumerate(stretches)
        for time in (typical(by_stretch[index]) if index in by_stretch else [(0.0, 0.0)] * len(pairs))
    ]
