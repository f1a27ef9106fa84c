"""Where a number of a config is found again: in a weight, a list of layers, a call of attention, the steps of a loop.

Numbers are often equal, so a number is looked for only where the names in its key say that it must be: `levels.1` of a
UNet is `down.1`, `middle` is the middle, `channels.1` of a decoder is `up.1`. Where it is not found there the place is
empty: no place is better than a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from torch import nn

from minimodels.sim import views
from minimodels.sim.glossary import Term
from minimodels.sim.profile import Op, Profile

Shape = tuple[int, ...]
V = TypeVar("V")
OVER_FRAMES = re.compile(r"(^|\.)temporal\.|attentions?(\.\d+)?\.time\.")  # modules of a video


@dataclass(frozen=True, slots=True)
class Visit:
    """Calls of one network with equal shapes: where, how often, what goes in by name, what comes out."""

    stage: str
    path: str
    kind: str
    params: int
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[Shape, ...]
    executions: float


class Traces:
    """Where numbers of a part may be found: its weights, the networks that ran, the profile."""

    def __init__(self, name: str, part: nn.Module, visits: Sequence[Visit], profile: Profile) -> None:
        self.name = name
        self.weights = [(path, tuple(weight.shape)) for path, weight in part.named_parameters()]
        self.visits, self.profile = visits, profile

    def of(self, term: Term, value: float, key: str) -> str:
        """Where a number was found; empty where it leaves no trace of its own. key: from the part on."""
        match term.where:
            case "weight":
                named = [(path, shape) for path, shape in self._named(self.weights, key, term) if value in shape]
                named.sort(key=lambda item: len(item[1]) == 1)  # a matrix says more than a bias
                return f"{named[0][0]} ({' x '.join(map(str, named[0][1]))})" if named else ""
            case "layers":
                lists = self._named(_lists(self.weights).items(), key, term)
                found = next((path for path, count in lists if count == value), None)
                last = int(value) - 1
                return "" if found is None else f"{found}.0 to {found}.{last}" if last else f"{found}.0"
            case "steps":
                stage = next((stage.name for stage in self.profile.stages if stage.steps == value), None)
                return f"steps of the loop in {stage}" if stage else ""
            case "heads" | "kv_heads" | "head_dim":
                return self._attention(term.where, value, key)
        return ""

    def _named(self, paths: Iterable[tuple[str, V]], key: str, term: Term) -> list[tuple[str, V]]:
        """Those of the right place: where the key says, and near what the number's meaning says."""
        inside = [(path, what) for path, what in _within(key, list(paths)) if not term.near or _has(path, *term.near)]
        return sorted(inside, key=lambda item: not _has(item[0], *term.near[:1]))

    def _attention(self, fact: str, value: float, key: str) -> str:
        """The first attention with that many heads or features, in a stage that runs the part."""
        own = [
            (visit.path.removeprefix(f"{self.name}."), visit)
            for visit in self.visits
            if f"{visit.path}.".startswith(f"{self.name}.")
        ]
        for stage in dict.fromkeys(visit.stage for _, visit in _within(key, own) or own):
            for op in self.profile.ops:
                if op.stage == stage and op.attention and getattr(op.attention, fact) == value and _over(key, op):
                    return f"{fact.replace('_', ' ')} of attention in {views.place(op)}"
        return ""


def _over(key: str, op: Op) -> bool:
    """Whether attention is what a key speaks of: over frames, one query that pools a text, or any other."""
    assert op.attention
    if _has(key, "temporal") or "stem_" in key:
        return op.attention.role == "temporal" or "temporal" in op.scope
    pooling = op.attention.role == "cross" and op.attention.query_length == 1
    return pooling == _has(key, "pooling") and op.attention.role != "temporal"


def _within(key: str, paths: Sequence[tuple[str, V]]) -> list[tuple[str, V]]:
    """The paths in the part of a network that the names in a key speak of; none where it is not known."""
    names = key.split(".")
    found = list(paths)
    for name, after in pairwise([*names, ""]):
        if name == "levels":
            found = [item for item in found if item[0].startswith(f"down.{after}.")]
        elif name == "channels" and after:
            found = [item for item in found if item[0].startswith(f"up.{after}.res_blocks")]
        elif name == "axes" and after:
            found = [item for item in found if _has(item[0], f"axes.{after}")]
        elif name in ("middle", "middle_depth"):
            found = [item for item in found if item[0].startswith("middle")]
        elif name == "attention":
            found = [item for item in found if _has(item[0], "attention", "attentions")]
        elif after and not name.isdigit() and name != "temporal":
            found = [item for item in found if _has(item[0], name)] or found
    aside = names[0] in ("condition", "condition_vocab")
    found = [item for item in found if item[0].startswith("condition.") == aside]
    return [item for item in found if bool(OVER_FRAMES.search(item[0])) == ("temporal" in names)]


def _has(path: str, *words: str) -> bool:
    """Whether a dotted path holds one of some names, or of some names behind each other."""
    return any(f".{word}." in f".{path}." for word in words)


def _lists(weights: Sequence[tuple[str, Shape]]) -> dict[str, int]:
    """The lists of modules that weights are in, and how many each has."""
    found: dict[str, set[str]] = {}
    for name, _ in weights:
        for match in re.finditer(r"\.(\d+)(?=\.)", name):
            found.setdefault(name[: match.start()], set()).add(match[1])
    return {name: len(indices) for name, indices in found.items()}
