"""Rotary embedding of queries and keys in one launch: q (b, heads, n, d), k (b, kv_heads, n, d) -> the same shapes.

    x cos + roll(x, d / 2) sin

with cos, sin (n, d) of the positions at hand. The first half of the features pairs with the second, and sines carry
the sign, as in `blocks.RotaryTable`. Inputs are read as they lie (a projection's heads, say); results are dense, in
the order of their inputs.

Why: torch takes two kernels and a roll for each of q and k, so eleven passes where two will do, and six launches
where decoding is bound by launches. A tile has rows of (position, head), heads side by side as a projection writes
them, so that a row of the table is read once from memory and then from the first-level cache.
Computed, not measured: of 8 accesses a pair of halves takes, 4 are to the table; they leave the first-level cache
at three times the rate of an H100's memory.
Source: Su et al. 2021, arXiv 2104.09864, section 3.4.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.launch import Launch, cdiv, jit, power_of_2, tl, wide
from minimodels.kernels.operands import alike, require, rows
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, stored_bytes

BLOCK = 2048  # pairs of features of a program at most; fewer where that leaves units idle
PROGRAMS = 512  # that fill a large GPU


@jit
def _half(base, at, inside):
    return tl.load(base + at, mask=inside, other=0.0).to(tl.float32)


@jit
def _rotate_rows(
    x, out, cos, sin, block, batch_stride, head_stride, token_stride, out_batch, out_head, out_token, heads, n,
    HALF: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """ROWS rows (position, head) of one sample."""
    blocks = tl.cdiv(heads * n, ROWS)
    batch = block // blocks
    row = ((block % blocks) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, D)[None, :]
    token, head = row // heads, row % heads
    inside = (token < n) & (column < HALF)
    at = batch * batch_stride + head * head_stride + token * token_stride + column
    low, high = _half(x, at, inside), _half(x, at + HALF, inside)
    angle = token * (2 * HALF) + column
    first = low * _half(cos, angle, inside) + high * _half(sin, angle, inside)
    second = high * _half(cos, angle + HALF, inside) + low * _half(sin, angle + HALF, inside)
    to = batch * out_batch + head * out_head + token * out_token + column
    tl.store(out + to, first.to(out.dtype.element_ty), mask=inside)
    tl.store(out + to + HALF, second.to(out.dtype.element_ty), mask=inside)


@jit
def _rotate(
    q, k, q_out, k_out, cos, sin,
    q_b, q_h, q_n, k_b, k_h, k_n, qo_b, qo_h, qo_n, ko_b, ko_h, ko_n, heads, kv_heads, n, q_blocks,
    HALF: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The first programs take rows of q, the others of k."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    if program < q_blocks:
        _rotate_rows(q, q_out, cos, sin, program, q_b, q_h, q_n, qo_b, qo_h, qo_n, heads, n, HALF, ROWS, D)
    else:
        block = program - q_blocks
        _rotate_rows(k, k_out, cos, sin, block, k_b, k_h, k_n, ko_b, ko_h, ko_n, kv_heads, n, HALF, ROWS, D)


def _empty(x: Tensor) -> Tensor:
    """A result dense in memory, its dimensions in the order of x's, the features innermost."""
    order = sorted(range(3), key=lambda i: (x.stride(i), x.shape[i]), reverse=True)
    return torch.empty_permuted(x.shape, (*order, 3), dtype=x.dtype, device=x.device)


def _check(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    alone = q.dim() == k.dim() == 4 and q.shape[::2] == k.shape[::2] and q.shape[3] == k.shape[3]
    given = f"{tuple(q.shape)} and {tuple(k.shape)}"
    require(alone, f"queries and keys are (b, heads, n, d) of the same b, n and d, not {given}")
    require(q.shape[3] % 2 == 0, f"halves of a head's features are rotated, so they are even, not {q.shape[3]}")
    alike(queries=q, keys=k)
    require(not q.numel() or q.stride(3) == k.stride(3) == 1 or q.shape[3] == 1, "features lie beside each other")
    rows("cos", cos, (q.shape[2], q.shape[3]))
    rows("sin", sin, (q.shape[2], q.shape[3]))


def plan(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[tuple[Tensor, Tensor], list[Launch]]:
    """Both results and the launch that fills them."""
    (batch, heads, n, head_dim), kv_heads = q.shape, k.shape[1]
    q_out, k_out = _empty(q), _empty(k)
    half = head_dim // 2
    features = power_of_2(half)
    rows = batch * (heads + kv_heads) * n
    together = min(max(1, BLOCK // features), power_of_2(cdiv(rows, PROGRAMS), max(1, 512 // features)))
    q_blocks, k_blocks = (batch * cdiv(count * n, together) for count in (heads, kv_heads))
    strides = [stride for x in (q, k, q_out, k_out) for stride in x.stride()[:3]]
    args = (q, k, q_out, k_out, cos, sin, *strides, heads, kv_heads, n, q_blocks)
    constants = {"HALF": half, "ROWS": together, "D": features, "WIDE": wide(q, k, q_out, k_out)}
    num_warps = max(1, together * features // 512)  # 16 pairs a thread, 8 where a warp has 64 lanes
    return (q_out, k_out), [Launch(_rotate, (q_blocks + k_blocks, 1, 1), args, constants, num_warps)]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain torch, in float32 at least."""
    kind = torch.promote_types(q.dtype, torch.float32)
    cos, sin = cos.to(kind), sin.to(kind)
    return _empty(q).copy_(_rotated(q.to(kind), cos, sin)), _empty(k).copy_(_rotated(k.to(kind), cos, sin))


def eager(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As the models run it: a product, a roll, a product with a sum, of either."""
    return _rotated(q, cos, sin), _rotated(k, cos, sin)


def _fake(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return _empty(q), _empty(k)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Queries, keys and the table read once, both results written once."""
    return Work("elementwise", 0, sum(map(stored_bytes, args)), sum(map(stored_bytes, out)))


rotate = define(
    "rotate(Tensor q, Tensor k, Tensor cos, Tensor sin) -> (Tensor, Tensor)",
    plan=plan, reference=reference, eager=eager, fake=_fake, work=_work, check=_check,
)  # fmt: skip
"""rotate(q, k, cos, sin) -> (q, k): see the module."""
