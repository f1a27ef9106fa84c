"""Gated activation (GEGLU, SwiGLU) in one pass: activation(gate) * value, gate and value (..., d) -> (..., d).

Gate and value are read as they lie: halves of one projection, or two projections. The result is contiguous.

Why: torch writes the activated gate and reads it again, five passes over (..., d) where three will do. Memory bounds
it: a thread holds 16 elements of either, read 16 bytes at a time, and computes in float32.
Computed, not measured: at 48 registers a thread an H100's multiprocessor keeps 80 KB of reads in flight, over twice
what the latency of its memory asks for.
Source: Shazeer 2020, arXiv 2002.05202.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.activations import ACTIVATIONS
from minimodels.kernels.launch import Launch, cdiv, jit, power_of_2, tl, wide
from minimodels.kernels.operands import alike, require
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, stored_bytes

BLOCK = 2048  # elements of a program
COLUMNS = 256  # at most, of a row: widths of transformers are multiples of it, so that few lanes idle


@jit
def _activated(x, NAME: tl.constexpr):
    """The activation of float32 x; its exponentials overflow to the right limit."""
    if NAME == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif NAME == "gelu_tanh":
        return x - x / (1.0 + tl.exp(1.5957691216057308 * (x + 0.044715 * x * x * x)))
    elif NAME == "gelu_quick":
        return x / (1.0 + tl.exp(-1.702 * x))
    elif NAME == "silu":
        return x / (1.0 + tl.exp(-x))
    else:
        tl.static_assert(NAME == "relu")
        return tl.maximum(x, 0.0)


@jit
def _gate(
    gate, value, out, rows, width, gate_row, value_row, column_blocks,
    NAME: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """(ROWS, COLUMNS) elements a program."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    row = ((program // column_blocks) * ROWS + tl.arange(0, ROWS))[:, None]
    column = ((program % column_blocks) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = (row < rows) & (column < width)
    gates = tl.load(gate + row * gate_row + column, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(value + row * value_row + column, mask=inside, other=0.0).to(tl.float32)
    result = _activated(gates, NAME) * values
    tl.store(out + row * width + column, result.to(out.dtype.element_ty), mask=inside)


def row_stride(x: Tensor) -> int | None:
    """What lies between rows of x (..., d) where one stride tells, and rows are contiguous; else None."""
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        return None
    step = length = None
    for size, stride in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
        if size == 1:
            continue
        if length is not None and step is not None and stride != length * step:
            return None
        step, length = step or stride, (length or 1) * size
    return x.shape[-1] if step is None else step


def _check(gate: Tensor, value: Tensor, activation: str) -> None:
    require(gate.dim() > 0 and gate.shape == value.shape,
            f"gate and value are (..., d) both, not {tuple(gate.shape)} and {tuple(value.shape)}")  # fmt: skip
    alike(gate=gate, value=value)
    require(activation in ACTIVATIONS, f"activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    for name, x in (("gate", gate), ("value", value)):
        require(not x.numel() or row_stride(x) is not None, f"{name} has rows of one stride, not strides {x.stride()}")


def plan(gate: Tensor, value: Tensor, activation: str) -> tuple[Tensor, list[Launch]]:
    """The result and the launch that fills it."""
    gate_row, value_row = row_stride(gate), row_stride(value)
    assert gate_row is not None and value_row is not None, "checked"
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    width = gate.shape[-1]
    rows, columns = gate.numel() // width, min(power_of_2(width), COLUMNS)
    block_rows, blocks = BLOCK // columns, cdiv(width, columns)
    args = (gate, value, out, rows, width, gate_row, value_row, blocks)
    constants = {"NAME": activation, "ROWS": block_rows, "COLUMNS": columns, "WIDE": wide(gate, value, out)}
    return out, [Launch(_gate, (cdiv(rows, block_rows) * blocks, 1, 1), args, constants)]


def reference(gate: Tensor, value: Tensor, activation: str) -> Tensor:
    """The same in plain torch, in float32 at least."""
    kind = torch.promote_types(gate.dtype, torch.float32)
    return (ACTIVATIONS[activation](gate.to(kind)) * value.to(kind)).to(gate.dtype).contiguous()


def eager(gate: Tensor, value: Tensor, activation: str) -> Tensor:
    """As the models run it: an activation and a product."""
    return value * ACTIVATIONS[activation](gate)


def _fake(gate: Tensor, value: Tensor, activation: str) -> Tensor:
    return torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Gate and value read once, the result written once."""
    return Work("elementwise", 0, stored_bytes(args[0]) + stored_bytes(args[1]), stored_bytes(out[0]))


gated = define(
    "gated(Tensor gate, Tensor value, str activation) -> Tensor",
    plan=plan, reference=reference, eager=eager, fake=_fake, work=_work, check=_check,
)  # fmt: skip
"""gated(gate, value, activation) -> Tensor: see the module; activation is a name of `ACTIVATIONS`."""
