"""A run captured as CUDA graphs: one graph for every stretch of the pipeline that is replayed equally often.

The pipeline runs once, with its loops cut to the steps of `knots.buckets`, and is captured as it goes: a graph ends and
the next begins wherever a stage or a step begins or ends. No model code knows of it. A step's graph is replayed for
all the steps that it stands for, one replay after another; it reads and writes the same memory each time.

Graphs that are replayed once share a pool of memory, since they are replayed in the order of capture. A graph that is
replayed again and again has a pool of its own: its inputs, which Python may free while it is captured, are then never
overwritten by what it allocates, so that every replay computes the same.

Graphs without kernels are kept as well until the capture ends: torch gives up a pool when its last graph is gone, and
refuses to take it up again.

Random numbers differ between replays: torch registers its generator with every graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.kernels.scope import STAGE, AttentionCall
from minimodels.sim.formulas import operator
from minimodels.sim.knots import buckets
from minimodels.sim.trace import Place

EMPTY = "The CUDA Graph is empty"  # how torch's warning about a stretch without kernels begins


@dataclass(frozen=True, slots=True)
class Segment:
    """A captured stretch of a stage: the operators in it, how to replay it, and how many times it is."""

    stage: str
    count: int
    operators: Sequence[str]
    replay: Callable[[], None]


class Recorder(Protocol):
    """What captures stretches, one after another."""

    def recording(self) -> AbstractContextManager[object]:
        """Entered around all of them."""
        ...

    def begin(self, repeated: bool) -> None:
        """Begin a stretch; `repeated`: it will be replayed more than once in a row."""
        ...

    def end(self) -> Callable[[], None]:
        """End it; returns what replays it."""
        ...

    def abandon(self) -> None:
        """End it after an error."""
        ...


class CudaGraphs:
    """Captures into `torch.cuda.CUDAGraph`s, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._capturing = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Free what can be freed, and make the stream of the capture the current one."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        self._shared = torch.cuda.graph_pool_handle()
        with warnings.catch_warnings(), torch.cuda.stream(torch.cuda.Stream(self._device)):
            warnings.filterwarnings("ignore", EMPTY)
            yield
        torch.cuda.synchronize(self._device)

    def begin(self, repeated: bool) -> None:
        self._graphs.append(torch.cuda.CUDAGraph())
        with torch.inference_mode(False):  # up to 2.12 torch makes here what its generator fills before a replay
            self._graphs[-1].capture_begin(pool=None if repeated else self._shared)
        self._capturing = True

    def end(self) -> Callable[[], None]:
        assert self._capturing, "begun"
        self._graphs[-1].capture_end()
        self._capturing = False
        return self._graphs[-1].replay

    def abandon(self) -> None:
        if self._capturing:
            with suppress(RuntimeError):  # the capture is invalid, and ending it says so once more
                self._graphs[-1].capture_end()


class Capture:
    """The tracer of a captured run. `full`: every step has a graph of its own."""

    clocks = False

    def __init__(self, recorder: Recorder, full: bool) -> None:
        self.segments: list[Segment] = []
        self._recorder, self._full, self._seen = recorder, full, _Seen()
        self._stage, self._count = Place().stage, 1

    def run(self, job: Callable[[], object]) -> list[Segment]:
        """Run a job, whose tracer this is, and capture it; stretches without operators are left out.

        Raises:
            ValueError: an operator cannot be captured; the message names it.
        """
        with self._recorder.recording():
            try:
                self._recorder.begin(False)
                with self._seen:
                    job()
                self._end()
            except BaseException as error:
                self._recorder.abandon()
                if isinstance(error, RuntimeError):
                    raise ValueError(self._refused(error)) from error
                raise
        return self.segments

    def _refused(self, error: RuntimeError) -> str:
        last = self._seen.names[-1] if self._seen.names else "no operator"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"mode 'graph' cannot capture {last} in stage {self._stage}: {reason}; --mode eager measures it as it is"

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        return self._inside(name) if kind == STAGE else nullcontext()

    @contextmanager
    def _inside(self, stage: str) -> Iterator[None]:
        around = self._stage
        self._cut(stage, self._count)
        yield
        self._cut(around, self._count)

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        """The steps that stand for others, each a stretch of its own."""
        around = self._count
        for step, steps in buckets(n, growth, self._full).items():
            self._cut(self._stage, around * steps)
            yield step
        self._cut(self._stage, around)

    def _cut(self, stage: str, count: int) -> None:
        self._end()
        self._stage, self._count = stage, count
        self._recorder.begin(count > 1)
        self._seen.names = []  # beginning sets torch's generator, which is no operator of the run

    def _end(self) -> None:
        replay = self._recorder.end()
        names, self._seen.names = self._seen.names, []
        if names:
            self.segments.append(Segment(self._stage, self._count, names, replay))


class _Seen(TorchDispatchMode):
    """Lists the operators that run, as a walk does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(operator(func))
        return func(*args, **(kwargs or {}))
