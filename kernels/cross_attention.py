"""Attention of many queries to a few keys, all of which stay on chip: pixels to 77 tokens of text.

q (b, p, heads, n, d), k and v (b, p, heads, m, d), m from 1 to 128: two batch dimensions, of which one may be 1, any
strides with the last dimension contiguous; the result lies in memory as q does.

A program holds the keys and values of a head and takes block after block of queries: keys are read once for many
blocks, and the softmax, which sees all its scores at once, is never rescaled. 77 keys are tiles of 64 + 16, not one of
128: `attention_tiles.parts` splits them as it splits a head's features.

The heads of a block of queries are neighbours in the flat grid, as they are in memory: rows of 40 features are 80 bytes
and share sectors of 32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import attention_math as maths
from minimodels.kernels.attention_tiles import LOG2_E, add_product, in_units, parts, product, put, tile
from minimodels.kernels.backend import INTERPRETED, compute_units, target_of
from minimodels.kernels.launch import Launch, cdiv, jit, tl, wide
from minimodels.kernels.operands import require
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work

MOST_KEYS, MOST_BYTES = 128, 32 << 10  # of a head's keys alone; its values take as much
ROWS = 64  # queries of a block
TOGETHER = 4  # programs of a multiprocessor at a time


@jit
def _scores(q_main, q_rest, k_main, k_rest, key, m, scale, E: tl.constexpr, UPCAST: tl.constexpr):
    """Scaled scores of a tile of keys, -inf where there is none."""
    scores = product(q_main, tl.trans(k_main), UPCAST)
    if E > 0:
        scores = add_product(scores, q_rest, tl.trans(k_rest), UPCAST)
    return tl.where((key < m)[None, :], scores * scale, float("-inf"))


@jit
def _cross(
    q, k, v, out,
    q_b, q_p, q_h, q_n, k_b, k_p, k_h, k_m, v_b, v_p, v_h, v_m, o_b, o_p, o_h, o_n,
    positions, heads, n, m, scale, blocks_each,
    ROWS: tl.constexpr, M: tl.constexpr, L: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HEAD_DIM: tl.constexpr,
    WIDE: tl.constexpr, UPCAST: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """`blocks_each` blocks of ROWS queries of one head; M + L keys. Strides are in UNITs, scale is of powers of 2."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    blocks = tl.cdiv(n, ROWS)
    shares = tl.cdiv(blocks, blocks_each)
    head, rest = program % heads, program // heads
    first, rest = rest % shares * blocks_each, rest // shares
    position, batch = rest % positions, rest // positions
    q_at = q + (batch * q_b + position * q_p + head * q_h) * UNIT
    k_at = k + (batch * k_b + position * k_p + head * k_h) * UNIT
    v_at = v + (batch * v_b + position * v_p + head * v_h) * UNIT
    o_at = out + (batch * o_b + position * o_p + head * o_h) * UNIT
    key, late = tl.arange(0, M), M + tl.arange(0, L if L > 0 else 1)
    rows = tl.arange(0, ROWS)
    if WIDE:
        key, late, rows = key.to(tl.int64), late.to(tl.int64), rows.to(tl.int64)
    k_rest, v_rest, late_k, late_v, late_k_rest, late_v_rest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    k_main = tile(k_at, key, m, k_m * UNIT, 0, D, HEAD_DIM, True)
    v_main = tile(v_at, key, m, v_m * UNIT, 0, D, HEAD_DIM, True)
    if E > 0:
        k_rest = tile(k_at, key, m, k_m * UNIT, D, E, HEAD_DIM, True)
        v_rest = tile(v_at, key, m, v_m * UNIT, D, E, HEAD_DIM, True)
    if L > 0:
        late_k = tile(k_at, late, m, k_m * UNIT, 0, D, HEAD_DIM, True)
        late_v = tile(v_at, late, m, v_m * UNIT, 0, D, HEAD_DIM, True)
        if E > 0:
            late_k_rest = tile(k_at, late, m, k_m * UNIT, D, E, HEAD_DIM, True)
            late_v_rest = tile(v_at, late, m, v_m * UNIT, D, E, HEAD_DIM, True)
    for block in tl.range(first, tl.minimum(first + blocks_each, blocks)):
        row = block * ROWS + rows
        q_main = tile(q_at, row, n, q_n * UNIT, 0, D, HEAD_DIM, True)
        q_rest = 0.0
        if E > 0:
            q_rest = tile(q_at, row, n, q_n * UNIT, D, E, HEAD_DIM, True)
        scores = _scores(q_main, q_rest, k_main, k_rest, key, m, scale, E, UPCAST)
        highest = tl.max(scores, 1)
        if L > 0:
            late_scores = _scores(q_main, q_rest, late_k, late_k_rest, late, m, scale, E, UPCAST)
            highest = tl.maximum(highest, tl.max(late_scores, 1))
        weight = tl.exp2(scores - highest[:, None])
        total = tl.sum(weight, 1)
        weight = weight.to(v_main.dtype)
        main = product(weight, v_main, UPCAST)
        if L > 0:
            late_weight = tl.exp2(late_scores - highest[:, None])
            total += tl.sum(late_weight, 1)
            late_weight = late_weight.to(v_main.dtype)
            main = add_product(main, late_weight, late_v, UPCAST)
        put(o_at, main / total[:, None], row, n, o_n * UNIT, 0, D, HEAD_DIM)
        if E > 0:
            other = product(weight, v_rest, UPCAST)
            if L > 0:
                other = add_product(other, late_weight, late_v_rest, UPCAST)
            put(o_at, other / total[:, None], row, n, o_n * UNIT, D, E, HEAD_DIM)


def takes(q: Tensor, k: Tensor) -> bool:
    """Whether a head's keys and values fit on chip beside a block of its queries: in float32, as sums, they do not."""
    return _fits(q, k) and q.element_size() == 2


def _fits(q: Tensor, k: Tensor) -> bool:
    held = sum(parts(k.shape[-2])) * sum(parts(k.shape[-1])) * 2
    return 0 < k.shape[-2] <= MOST_KEYS and held <= MOST_BYTES and q.shape[-3] == k.shape[-3]


def _check(q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
    maths.check(q, k, v, None, False, scale)
    given = f"{tuple(q.shape)} and {tuple(k.shape)}"
    require(_fits(q, k), f"a head has 1 to {MOST_KEYS} keys of its own in {MOST_BYTES:,} bytes, not {given}")


def plan(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, list[Launch]]:
    """The result, and the launch that fills it."""
    out = maths.empty_result(q, v)
    batch, positions, heads, n, head_dim = q.shape
    m, blocks, sequences = k.shape[3], cdiv(n, ROWS), batch * positions * heads
    # As many blocks each as leave every multiprocessor its programs: keys are read again for every one
    blocks_each = cdiv(sequences * blocks, TOGETHER * compute_units(q))
    shares = cdiv(blocks, min(blocks, blocks_each))
    target = target_of(q)
    num_stages = 1 if target.startswith("gfx") else 2
    num_warps = 8 if target.startswith("sm10") and head_dim > 96 else 4  # four spill with Triton 3.6
    unit, strides = in_units(q, k, v, out, dims=4)
    (main, rest), (keys, late) = parts(head_dim), parts(m)
    args = (q, k, v, out, *strides, positions, heads, n, m, scale * LOG2_E, cdiv(blocks, shares))
    constants = {
        "ROWS": ROWS, "M": keys, "L": late, "D": main, "E": rest, "HEAD_DIM": head_dim, "WIDE": wide(q, k, v, out),
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16, "UNIT": unit,
    }  # fmt: skip
    return out, [Launch(_cross, (sequences * shares, 1, 1), args, constants, num_warps, num_stages)]


def reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The same in plain torch, in float32 at least."""
    return maths.attend(q, k, v, None, False, scale)


def eager(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """torch's fused attention, positions folded into the batch."""
    return maths.attend_eagerly(q, k, v, None, False, scale)


def _fake(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return maths.empty_result(q, v)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return maths.work(*args[:3], out=out)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of q, k and v, in plain torch."""
    return *maths.gradients(grad, *ctx.saved_tensors, None, False, ctx.scale)[:3], None


cross_attention = define(
    "cross_attention(Tensor q, Tensor k, Tensor v, float scale) -> Tensor",
    plan=plan,
    reference=reference,
    eager=eager,
    fake=_fake,
    work=_work,
    check=_check,
    backward=_backward,
    save=_save,
)
"""cross_attention(q, k, v, scale) -> Tensor: see the module."""
