"""Labels and the tracer: how a running model tells an observer where it is.

A model opens `scope("attention", "self")` around its attention block and `scope("stage", "decode")`
around a stage. What that means depends on who is watching:

- nobody: nothing happens;
- `torch.profiler`: a `record_function` range with the same label;
- a `Tracer` (a walk on `meta`, or a measured run): the tracer's own context manager;
- `torch.compile`: nothing, so that labels never break a graph.

`AttentionCall` holds the facts of one call of `attention()`, which no operator's shapes give away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.profiler import record_function

STAGE = "stage"
CORE = "core"
KV_CACHE = "kv_cache"


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of `attention()`: sizes in tokens and heads, `batch` over all batch dimensions."""

    backend: str
    batch: int
    query_length: int
    key_length: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    bias: bool


class Tracer(Protocol):
    """An observer of a run: it is told of every scope and decides which steps of a loop run.

    `clocks`: it only takes the time of stages, so nothing may be done for the sake of other scopes.
    """

    @property
    def clocks(self) -> bool: ...

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        """The context manager entered for `scope(kind, name)`."""
        ...

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        """The steps of `steps(name, n, growth)` to run, each standing for a weighted share of the n."""
        ...


TRACER: ContextVar[Tracer | None] = ContextVar("minimodels_tracer", default=None)


def scope(kind: str, name: str = "", call: AttentionCall | None = None) -> AbstractContextManager[object]:
    """Label everything that runs inside: `with scope("attention", "temporal"): ...`.

    kind: what sort of block ("stage", "attention", "feed_forward", ...); name: which one of its kind.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    tracer = TRACER.get()
    if tracer is not None:
        return tracer.scope(kind, name, call)
    if torch.autograd._profiler_enabled():
        return record_function(label(kind, name))
    return nullcontext()


def label(kind: str, name: str) -> str:
    """The written form of a scope: "attention.self", or the kind alone."""
    return f"{kind}.{name}" if name else kind
