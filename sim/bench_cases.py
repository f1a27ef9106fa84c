"""The calls of our kernels that real models make: captured from walks, weighed, and the heaviest kept.

A model is walked with every kernel of ours chosen, and each call of an operator of ours is kept with the geometry
of its arguments. A call's weight is how often one inference makes it; what it costs at best follows from its bytes
and FLOPs, and by weight times cost the calls that matter most are picked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from minimodels.kernels.bench import work_of
from minimodels.kernels.case import Case
from minimodels.kernels.operator import every
from minimodels.kinds import KINDS, Config
from minimodels.options import parse
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim.job import of_config
from minimodels.sim.profile import Profile
from minimodels.sim.progress import Advance, silent
from minimodels.sim.simulate import run_walk
from minimodels.sim.trace import Walk

SUITE = ("stable-diffusion-1.5", "sdxl", "make-a-video", "muse-3b", "parti-20b", "llama2-7b", "imagen")
TARGET = "sm90"  # walked for: any GPU whose limits let our kernels take every call
BANDWIDTH, RATE = 3e12, 6e14  # bytes/s, FLOP/s: of a large GPU, to weigh one call against another
NAMESPACE = "minimodels::"


class Capture(Walk):
    """A walk that keeps the calls of our operators."""

    def __init__(self, parts: nn.ModuleDict, progress: Advance) -> None:
        super().__init__(parts, progress=progress)
        self.found: dict[tuple[Any, ...], Case] = {}
        self.at: list[tuple[Case, int]] = []  # cases, and which of a walk's calls of such name and shapes they are

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        case = Case.of(func._schema.name, args) if func._schema.name.startswith(NAMESPACE) else None
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if case is not None:
            kept = self.found.setdefault(case.key, case)
            self.at.append((kept, id(self.calls[-1].work)))
        return out


def capture(config: Config, run: Run, progress: Advance = silent) -> list[Case]:
    """The different calls of our kernels in one inference of `config`, with their weights.

    Raises:
        ValueError: a kernel cannot do a call, or sizes are too large to be described.
    """
    run = run.model_copy(update={"attention": "triton", "kernels": "triton"})
    job = of_config(config, run)
    prepared = job.prepare("meta")
    walk = Capture(prepared.parts, progress)
    run_walk(walk, prepared, run, TARGET, job.name)
    weights: Counter[int] = Counter()
    for call in walk.calls:
        weights[id(call.work)] += call.weight  # type: ignore[assignment]
    seen = Counter((case.key, work) for case, work in walk.at)
    shared = Counter(work for _, work in walk.at)
    totals: dict[Any, float] = {}
    for (key, work), count in seen.items():
        totals[key] = totals.get(key, 0.0) + float(weights[work]) * count / shared[work]
    return [replace(case, where=config.name, weight=totals[key]) for key, case in walk.found.items()]


def of_profile(path: Path, progress: Advance = silent) -> list[Case]:
    """The calls of the model that a profile is of, at its settings.

    Raises:
        ValueError: the file is no profile.
    """
    profile = Profile.load(path)
    config = KINDS[profile.config["kind"]].model_validate(profile.config)
    known = {name: value for name, value in profile.run if name in Run.model_fields}
    extra = {name: value for name, value in (profile.run.model_extra or {}).items() if name in Run.model_fields}
    run = parse(Run, known | extra | {"device": devices.names()[0], "mode": "eager", "attention": "triton"})
    return capture(config, run, progress)


def of_suite(progress: Advance = silent) -> list[Case]:
    """The calls of some models of the suite in bfloat16, batch 1; those that only channels-last pixels make, too."""
    from minimodels import loader

    cases = []
    for number, name in enumerate(SUITE):
        progress(name, number, len(SUITE))
        found = capture(loader.load(name), Run())
        known = {case.key for case in found}
        last = capture(loader.load(name), Run(layout="channels-last"))
        cases += [*found, *(case for case in last if case.key not in known)]
    return cases


def check_names(kernels: Sequence[str]) -> None:
    """Raise unless there are such operators.

    Raises:
        ValueError: there is none of a name.
    """
    names = sorted(name.removeprefix(NAMESPACE) for name in every())
    unknown = [name for name in kernels if name not in names]
    if unknown:
        raise ValueError(f"unknown kernel {unknown[0]!r}; allowed: {', '.join(names)}")


def select(cases: Iterable[Case], kernels: Sequence[str], most: int) -> list[Case]:
    """Of every operator the `most` calls that matter most, heaviest first; equal calls of several models are one.

    kernels: names of operators, all if empty.

    Raises:
        ValueError: there is no such operator.
    """
    check_names(kernels)
    merged: dict[Any, Case] = {}
    for case in cases:
        before = merged.get(case.key)
        if before is not None:
            case = replace(before, weight=before.weight + case.weight, where=f"{before.where}, {case.where}")
        merged[case.key] = case
    ordered = sorted(merged.values(), key=lambda case: -case.weight * least_seconds(case))
    kept: Counter[str] = Counter()
    chosen = []
    for case in ordered:
        name = case.operator.removeprefix(NAMESPACE)
        if (not kernels or name in kernels) and kept[name] < most:
            kept[name] += 1
            chosen.append(case)
    return sorted(chosen, key=lambda case: case.operator)  # stable: heaviest first within each


def least_seconds(case: Case) -> float:
    """What one call takes at best on a large GPU, to weigh calls."""
    work = work_of(every()[case.operator], case)
    return max((work.bytes_read + work.bytes_written) / BANDWIDTH, (work.flops or 0) / RATE)
