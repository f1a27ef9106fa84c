"""The runs of `--mode compiled`: the networks of a job go through torch.compile, whole and without CUDA graphs.

Every network that a pipeline calls is compiled (`fullgraph=True`, mode "default"), what lies between them (samplers,
guidance, the writing of tokens) runs as it is. Warm-up, which compiles, and the clock are those of eager runs.

Under the profiler the steps of the walk's knots run. Times belong to kernels, not to operators: each kernel name is an
entry `compiled::NAME` of the stage and the steps it ran in, its category read from the name (`compiled`). Which
operator's FLOPs a kernel does is not known: for each stage and category an entry `walked::CATEGORY` without time holds
the FLOPs of all its operators, exactly, and the bytes that fused chains would move (`fusion`). A kernel's own FLOPs and
bytes are 0. Memory is that of the run when it is not compiled, on the entries `walked::CATEGORY`: the peak of theirs.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from math import prod
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from torch import nn

from minimodels.kernels.scope import Tracer
from minimodels.kernels.work import Work
from minimodels.masked import MaskedTransformer
from minimodels.sim import profiler
from minimodels.sim.call import Call
from minimodels.sim.compiled import Kernel, category_of, kernels
from minimodels.sim.fusion import fuse
from minimodels.sim.session import DEFECT, PASSES, Session, Timed, Unmeasurable, is_view
from minimodels.transformer import Decoder, TextEncoder, TextToTokens
from minimodels.uvit import UVit

WALKED = "walked::"  # how the names of entries begin that hold what a category's operators do
RECOMPILES = 64  # of one function: many networks share `nn.Module.__call__`, and steps have sizes of their own
METHODS: dict[type[nn.Module], tuple[str, ...]] = {  # what pipelines call of a network beside the network itself
    TextEncoder: ("pooled",),
    MaskedTransformer: ("context",),
    UVit: ("context",),
    Decoder: ("hidden", "logits"),
}


class Where(NamedTuple):
    """A stage, and steps of equal weight inside a loop of so many iterations."""

    stage: str
    weight: float
    steps: int | None


class CompiledSession(Session):
    """A job whose networks are compiled; see `Session`."""

    backend = "inductor"
    _entries: list[Call]

    def warm_up(self) -> int:
        """Compile, then run until two runs in a row agree; how many runs it took.

        Raises:
            ValueError: torch.compile refuses a network, or there is no compiler.
        """
        from torch._dynamo.exc import TorchDynamoException

        torch._dynamo.reset()
        compile_networks(self._job.parts, self.backend)
        try:
            return super().warm_up()
        except TorchDynamoException as error:
            reason = shorten(str(error), 400)  # of pages, which name the operator and what is wrong with it early
            raise ValueError(
                f"mode 'compiled': torch.compile fails: {reason}; --mode eager measures without it"
            ) from error

    def profile(self, number: int) -> list[Timed]:
        """One profiled run: every kernel by its name, and what the operators of a stage do; with their times."""
        self._progress("profiling", number + 1, PASSES)
        tracer = profiler.Labels(self._walk.knots, self._settle, self._run.seed + number)
        events = profiler.trace(lambda: self._perform(tracer), self._on_gpu)
        found, lost = kernels(events, self._on_gpu)
        if not self._on_gpu:  # where an operator is all there is to time; a kernel of a GPU is one whoever launches it
            views = self._only_views()
            found = [kernel for kernel in found if kernel.operator not in views]
        ran = [profiler.Executed(kernel.name, kernel.start, kernel.end, [], [kernel[-2:]]) for kernel in found]
        times = profiler.times(ran, profiler.stage_starts(events))
        self._attribute(sum(device for device, _ in times), lost)
        timed = [*facts(self._walk.calls), *named(found, times, self._walk)]
        stages = list(dict.fromkeys(call.stage for call in (*self._walk.calls, *(one.call for one in timed))))
        timed.sort(key=lambda one: _order(one.call, stages))
        entries = [one.call for one in timed]
        if number and entries != self._entries:
            raise Unmeasurable(f"two profiled runs have different kernels: {DEFECT}")
        self._entries = entries
        return timed

    def memory(self, per_call: Sequence[int]) -> list[int]:
        """For every entry of the walk the peak of its operators, for those of kernels the least of their stage."""
        peaks: defaultdict[tuple[Any, ...], int] = defaultdict(int)
        least: dict[str, int] = {}
        for size, call in zip(per_call, self._walk.calls, strict=True):
            peaks[_place(call)] = max(peaks[_place(call)], size)
            least[call.stage] = min(least.get(call.stage, size), size)
        return [
            peaks[_place(entry)] if entry.name.startswith(WALKED) else least.get(entry.stage, min(per_call))
            for entry in self._entries
        ]

    def _only_views(self) -> set[str]:
        """Names of the walk's operators that never do more than look at their argument."""
        names: dict[bool, set[str]] = {True: set(), False: set()}
        for call in self._walk.calls:
            names[is_view(call)].add(call.name)
        return names[True] - names[False]

    def _perform(self, tracer: Tracer) -> None:
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        with (
            warnings.catch_warnings(),
            dynamo.patch(recompile_limit=RECOMPILES),
            inductor.patch({"cpp.enable_kernel_profile": True}),  # or kernels on a CPU would have no name
        ):
            warnings.filterwarnings("ignore", category=UserWarning, module="torch")
            super()._perform(tracer)


def compile_networks(parts: nn.ModuleDict, backend: str) -> None:
    """Compile, in place and on first use, every network of a pipeline as its pipeline calls it.

    Sizes are fixed, but for a decoder, whose position grows: two networks of one class would else be taken for one of
    varying sizes.
    """
    for part in parts.values():
        for network in (part.encoder, part.decoder) if isinstance(part, TextToTokens) else (part,):
            dynamic = None if isinstance(network, Decoder) else False
            options: dict[str, Any] = {"fullgraph": True, "backend": backend, "dynamic": dynamic}
            network.compile(**options)
            for method in METHODS.get(type(network), ()):
                setattr(network, method, torch.compile(getattr(network, method), **options))


def facts(calls: Sequence[Call]) -> list[Timed]:
    """An entry without time for the operators of each category at each place: their FLOPs, their bytes once fused."""
    works = fuse(calls).works
    groups: dict[tuple[Where, str], list[Work]] = {}
    for call, work in zip(calls, works, strict=True):
        if not is_view(call):
            groups.setdefault((Where(call.stage, call.weight, call.steps), call.category), []).append(work)
    result = []
    for (where, category), members in groups.items():
        known = [work.flops for work in members if work.flops is not None]
        done = Work(
            "other",
            sum(known) if len(known) == len(members) else None,
            sum(work.bytes_read for work in members),
            sum(work.bytes_written for work in members),
            launches=0,
        )
        dtype = next(call.dtype for call in calls if call.stage == where.stage)
        result.append(Timed(_entry(f"{WALKED}{category}", category, done, where, dtype), 0.0, 0.0, 0.0))
    return result


def named(found: Sequence[Kernel], times: Sequence[tuple[float, float]], walk: profiler.KnotWalk) -> list[Timed]:
    """An entry for all kernels of one name at each place: their mean time."""
    categories = _categories(walk.calls)
    groups: dict[tuple[Where, str, str], list[tuple[float, float]]] = {}
    for kernel, time in zip(found, times, strict=True):
        category = category_of(kernel.name, kernel.operator, categories)
        groups.setdefault((_where(kernel, walk), category, kernel.name), []).append(time)
    dtype = walk.calls[0].dtype
    result = []
    for (where, category, name), members in groups.items():
        count = len(members)
        entry = _entry(f"compiled::{name}", category, Work("other", 0, 0, 0), where, dtype)
        entry.weight *= count
        device, gap = (sum(time[i] for time in members) / count for i in (0, 1))
        result.append(Timed(entry, device, 0.0, gap))
    return result


def _where(kernel: Kernel, walk: profiler.KnotWalk) -> Where:
    """The place of a kernel: the weights of the steps around it, multiplied, and the lengths of their loops."""
    loops = [(kernel.path[: end - 1], kernel.path[end - 1]) for end in range(2, len(kernel.path) + 1, 2)]
    weight = prod((walk.shares[loop][step] for loop, step in loops), start=1.0)
    return Where(kernel.stage, weight, prod(walk.lengths[loop] for loop, _ in loops) if loops else None)


def _place(entry: Call) -> tuple[Any, ...]:
    """What the operators that one entry of the walk stands for have in common."""
    return entry.stage, entry.weight, entry.steps, entry.category


def _order(entry: Call, stages: Sequence[str]) -> tuple[Any, ...]:
    """The same in every run: by stage, loop and weight of the step, then by what it is."""
    return stages.index(entry.stage), entry.steps or 0, entry.weight, entry.category, entry.name


def _entry(name: str, category: str, work: Work, where: Where, dtype: str) -> Call:
    return Call(
        name, (), dtype, work, where.stage, "", None, category, None, None, weight=where.weight, steps=where.steps
    )


def _categories(calls: Sequence[Call]) -> dict[str, str]:
    """The category of each operator that has but one in a walk."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for call in calls:
        found[call.name].add(call.category)
    return {name: next(iter(categories)) for name, categories in found.items() if len(categories) == 1}
