"""One executed operator as a walk records it: the input of the cost model and of the memory model.

`Work` is what an operator does (from its formula), `Call` is one execution of it at one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from minimodels.kernels.scope import AttentionCall  # imports torch, which a list of devices has no use for

Kernel = Literal[
    "none",  # a view or a factory that launches nothing
    "gemm",  # dense matrix products, `gemm` holds (batch, m, n, k)
    "conv",  # convolutions as implicit GEMM, `gemm` holds (groups, m, n, k)
    "attention",  # a fused attention kernel
    "norm",  # reductions over rows: LayerNorm, RMSNorm, GroupNorm
    "softmax",
    "elementwise",  # reads and writes each element once
    "copy",  # moves data and computes nothing
    "gather",  # embedding, index
    "other",  # no formula: bytes only
]


@dataclass(frozen=True, slots=True)
class Work:
    """What one execution of an operator does; `flops` is None where no formula exists."""

    kernel: Kernel
    flops: int | None
    bytes_read: int
    bytes_written: int
    launches: int = 1
    gemm: tuple[int, int, int, int] | None = None
    workspace: int = 0  # bytes allocated and freed inside the operator


@dataclass(slots=True)
class Call:
    """One execution of an operator at one place; `weight` executions in all are meant by it."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    work: Work
    stage: str
    scope: str
    module: str | None
    category: str
    role: str | None
    attention: AttentionCall | None
    reads: tuple[int, ...] = ()  # storages read and written, by walk-wide number
    writes: tuple[int, ...] = ()
    live: int = 0  # bytes alive during the call, workspace included, weights left out
    weight: float = 1.0
    growing: bool = False  # inside a loop whose key length grows from step to step


@dataclass(frozen=True, slots=True)
class Timing:
    """Predicted or measured seconds of one execution of a call."""

    device_seconds: float
    host_seconds: float
    gap_seconds: float
    bound: str | None  # None where it was measured
    provenance: str
