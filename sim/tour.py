"""One inference, stage by stage: what goes into each network and comes out, what it costs, where its numbers end up.

Networks are watched by hooks while they are walked on `meta`, so that shapes are those of the code, not of a text
about it. `places` finds the numbers of the config in what was built and run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from minimodels.kernels.scope import TRACER
from minimodels.kinds import Config
from minimodels.run import Run, parameters
from minimodels.sim.call import Call
from minimodels.sim.glossary import term
from minimodels.sim.job import Prepared, of_config
from minimodels.sim.places import Traces, Visit
from minimodels.sim.profile import Profile
from minimodels.sim.progress import Advance, silent
from minimodels.sim.simulate import simulate_job
from minimodels.sim.trace import Walk

DEEPEST = 3  # modules below a part that a pipeline may call one by one


@dataclass(frozen=True, slots=True)
class Number:
    """A number of the config: what it says, and where it was found in what was built and run."""

    key: str
    value: int | float
    meaning: str
    place: str


@dataclass(frozen=True, slots=True)
class Tour:
    """The profile of an inference, the networks that ran, and the numbers of each part of the config."""

    profile: Profile
    visits: tuple[Visit, ...]
    numbers: dict[str, tuple[Number, ...]]


def tour(config: Config, run: Run, progress: Advance = silent) -> Tour:
    """One inference of an architecture, watched (simulated).

    Raises:
        ValueError: as `simulate`.
    """
    job, seen, built = of_config(config, run), list[_Seen](), dict[str, nn.Module]()

    def prepare(device: str | torch.device) -> Prepared:
        prepared = job.prepare(device)
        built.update(prepared.parts.items())
        watcher = _Watcher(seen)
        for name, part in prepared.parts.items():
            watcher.attach(name, part, DEEPEST)
        return prepared

    profile = simulate_job(replace(job, prepare=prepare), run, progress)
    record = config.model_dump(mode="json")
    visits = tuple(_together(seen))
    traces = {key: Traces(key, built[key], visits, profile) for key, _ in config.parts()}
    traces["run"] = Traces("run", nn.Module(), visits, profile)
    parts = {key: tuple(_numbers(record[key], found)) for key, found in traces.items()}
    return Tour(profile, visits, parts)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A call of a network; its first operator says where it was and, once the walk is over, how often."""

    visit: Visit
    calls: list[Call]
    first: int

    def whole(self) -> Visit:
        first = self.calls[self.first]
        return replace(self.visit, stage=first.stage, executions=float(first.weight))


class _Watcher:
    """Notes the outermost calls of the modules it is attached to, in order."""

    def __init__(self, seen: list[_Seen]) -> None:
        self.seen, self.depth, self.first = seen, 0, 0

    def attach(self, path: str, module: nn.Module, levels: int) -> None:
        """Watch a module and those below it; a list of modules is no call and no level."""
        listed = isinstance(module, nn.ModuleList | nn.ModuleDict)
        if not listed:
            module.register_forward_pre_hook(self._enter, prepend=True)
            module.register_forward_hook(self._leaving(path), with_kwargs=True, always_call=True)
        for name, child in module.named_children():
            if levels:
                self.attach(f"{path}.{name}", child, levels if listed else levels - 1)

    def _enter(self, module: nn.Module, _: Any) -> None:
        if not self.depth:
            self.first = len(_calls())
        self.depth += 1

    def _leaving(self, path: str) -> Any:
        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            self.depth -= 1
            calls = _calls()
            if self.depth or self.first == len(calls):
                return
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            named = tuple((name, tuple(x.shape)) for name, value in given.items() for x in tensors(value))
            results = tuple(tuple(x.shape) for x in tensors(out))
            kind, params = type(module).__name__, parameters(module)
            visit = Visit("", path, kind, params, named, results, 1.0)
            self.seen.append(_Seen(visit, calls, self.first))

        return leave


def _calls() -> list[Call]:
    """What the walk around has recorded."""
    walk = TRACER.get()
    assert isinstance(walk, Walk), "networks are watched while they are walked"
    return walk.calls


def tensors(value: Any) -> list[Tensor]:
    """The tensors in an argument or a result; what a cache holds is not told apart."""
    return [x for x in tree_leaves(value) if isinstance(x, Tensor)]


def _together(seen: Sequence[_Seen]) -> Iterator[Visit]:
    """Calls of one network, or of equal neighbours in a list, with equal shapes as one; in order of appearance."""
    groups: dict[tuple[Any, ...], list[Visit]] = {}
    for visit in (one.whole() for one in seen):
        path = re.sub(r"\.\d+(?=\.|$)", ".N", visit.path)
        groups.setdefault((visit.stage, path, visit.kind, visit.inputs, visit.outputs), []).append(visit)
    for (_, path, *_), visits in groups.items():
        first, last = visits[0], visits[-1]
        same = first.path == last.path
        span = first.path if same else path.replace(".N", f".{_index(first.path)}-{_index(last.path)}", 1)
        yield replace(first, path=span, executions=sum(visit.executions for visit in visits))


def _index(path: str) -> str:
    found = re.search(r"\.(\d+)(?=\.|$)", path)
    return found[1] if found else ""


def _numbers(section: Mapping[str, Any], traces: Traces) -> Iterator[Number]:
    for key, value in leaves(section):
        if not key.startswith("published"):
            found = term(section.get("kind", ""), key)
            yield Number(key, value, found.meaning, traces.of(found, value, key))


def leaves(section: Any, path: str = "") -> Iterator[tuple[str, int | float]]:
    """The numbers of a section of a config, by dotted path."""
    if isinstance(section, bool) or section is None:
        return
    if isinstance(section, int | float):
        yield path, section
    elif isinstance(section, Mapping | list):
        pairs = section.items() if isinstance(section, Mapping) else enumerate(section)
        for key, value in pairs:
            yield from leaves(value, f"{path}.{key}" if path else str(key))
