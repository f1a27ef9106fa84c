"""Attention of long sequences, the n x m scores never in memory, at head dims that are no powers of two.

q (b, p, heads, n, d), k and v (b, p, kv_heads, m, d): two batch dimensions, of which one may be 1, any strides with the
last dimension contiguous; the result lies in memory as q does. d is at most 256.

A program takes a block of queries of one head and walks over the keys; a softmax over what it has seen so far is
rescaled whenever a larger score comes. It first takes the tiles of keys that all its queries see, without masks, then
those on the diagonal and the last, incomplete one; tiles beyond the diagonal are skipped.

What makes it faster than FlashAttention-2 at 40, 80 and 160 features is that a head is two tiles of 32 + 16, 64 + 16,
128 + 32, not one of 64, 128, 256: see `attention_tiles`.

The grid is flat, the blocks of one head next to one another, so that the programs that run together read the same keys
from L2: it holds them whatever the number of heads. Under a causal mask a head's longest blocks come first.

Source: Dao 2023 (FlashAttention-2), arXiv 2307.08691.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from minimodels.kernels import attention_math as maths
from minimodels.kernels.attention_tiles import LOG2_E, add_product, in_units, parts, product, put, tile
from minimodels.kernels.backend import INTERPRETED, target_of
from minimodels.kernels.launch import Launch, cdiv, jit, tl, wide
from minimodels.kernels.operands import require
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work

MOST_FEATURES = 256


@jit
def _over_keys(
    q_main, q_rest, main, rest, highest, total, k_at, v_at, bias_at, limit, present, first, last, m, k_m, v_m, bias_m,
    scale,
    KEYS: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HEAD_DIM: tl.constexpr, CHECK: tl.constexpr,
    WIDE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Attend to keys `first` to `last`. CHECK: a query sees keys up to its `limit` only, and none from m on exist."""
    for start in tl.range(first, last, KEYS):
        key = start + tl.arange(0, KEYS)
        if WIDE:
            key = key.to(tl.int64)
        scores = product(q_main, tl.trans(tile(k_at, key, m, k_m, 0, D, HEAD_DIM, CHECK)), UPCAST)
        if E > 0:
            scores = add_product(scores, q_rest, tl.trans(tile(k_at, key, m, k_m, D, E, HEAD_DIM, CHECK)), UPCAST)
        if bias_at is not None:
            added = tl.load(bias_at[:, None] + key[None, :] * bias_m, mask=present & (key < m)[None, :], other=0.0)
            scores = scores * scale + added.to(tl.float32) * 1.4426950408889634
        if CHECK:
            scores = tl.where(key[None, :] <= limit[:, None], scores, float("-inf"))
        if bias_at is not None:
            higher = tl.maximum(highest, tl.max(scores, 1))
            base = tl.where(higher == float("-inf"), 0.0, higher)  # a bias can hide all keys so far
            weight = tl.exp2(scores - base[:, None])
        else:
            higher = tl.maximum(highest, tl.max(scores, 1) * scale)
            base = higher
            weight = tl.exp2(scores * scale - base[:, None])
        shrink = tl.exp2(highest - base)
        highest = higher
        total = total * shrink + tl.sum(weight, 1)
        weight = weight.to(q_main.dtype)
        main = add_product(main * shrink[:, None], weight, tile(v_at, key, m, v_m, 0, D, HEAD_DIM, CHECK), UPCAST)
        if E > 0:
            rest = add_product(rest * shrink[:, None], weight, tile(v_at, key, m, v_m, D, E, HEAD_DIM, CHECK), UPCAST)
    return main, rest, highest, total


@jit
def _flash(
    q, k, v, out, bias,
    q_b, q_p, q_h, q_n, k_b, k_p, k_h, k_m, v_b, v_p, v_h, v_m, o_b, o_p, o_h, o_n,
    bias_b, bias_p, bias_h, bias_n, bias_m,
    positions, heads, n, m, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr, CAUSAL: tl.constexpr, WIDE: tl.constexpr, UPCAST: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """ROWS queries of one head. Strides of q, k, v, out are in UNITs; scale is that of powers of 2."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    blocks = tl.cdiv(n, ROWS)
    block, rest = program % blocks, program // blocks
    if CAUSAL:
        block = blocks - 1 - block
    head, rest = rest % heads, rest // heads
    position, batch = rest % positions, rest // positions
    row = block * ROWS + tl.arange(0, ROWS)
    q_at = q + (batch * q_b + position * q_p + head * q_h) * UNIT
    k_at = k + (batch * k_b + position * k_p + head // GROUP * k_h) * UNIT
    v_at = v + (batch * v_b + position * v_p + head // GROUP * v_h) * UNIT
    o_at = out + (batch * o_b + position * o_p + head * o_h) * UNIT
    bias_at = None
    if bias is not None:
        bias_at = bias + batch * bias_b + position * bias_p + head * bias_h + row * bias_n
    limit = tl.minimum(row + (m - n if CAUSAL else m), m - 1)  # the last key that a query sees
    last = m
    seen_by_all = m
    if CAUSAL:
        last = tl.minimum(m, (block + 1) * ROWS + (m - n)).to(tl.int32)
        seen_by_all = tl.minimum(m, block * ROWS + (m - n) + 1).to(tl.int32)
    whole = seen_by_all // KEYS * KEYS

    q_main = tile(q_at, row, n, q_n * UNIT, 0, D, HEAD_DIM, True)
    q_rest, rest = 0.0, 0.0
    main = tl.zeros((ROWS, D), tl.float32)
    if E > 0:
        q_rest = tile(q_at, row, n, q_n * UNIT, D, E, HEAD_DIM, True)
        rest = tl.zeros((ROWS, E), tl.float32)
    highest, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    present = (row < n)[:, None]
    main, rest, highest, total = _over_keys(
        q_main, q_rest, main, rest, highest, total, k_at, v_at, bias_at, limit, present, 0, whole, m, k_m * UNIT,
        v_m * UNIT, bias_m, scale, KEYS, D, E, HEAD_DIM, False, WIDE, UPCAST,
    )  # fmt: skip
    main, rest, highest, total = _over_keys(
        q_main, q_rest, main, rest, highest, total, k_at, v_at, bias_at, limit, present, whole, last, m, k_m * UNIT,
        v_m * UNIT, bias_m, scale, KEYS, D, E, HEAD_DIM, True, WIDE, UPCAST,
    )  # fmt: skip
    total = tl.where(total == 0.0, 1.0, total)  # of queries that see no key
    put(o_at, main / total[:, None], row, n, o_n * UNIT, 0, D, HEAD_DIM)
    if E > 0:
        put(o_at, rest / total[:, None], row, n, o_n * UNIT, D, E, HEAD_DIM)


class Tiles(NamedTuple):
    """Queries and keys of a tile, warps of a program, and buffers of keys and values on their way."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int


def tiles(target: str, head_dim: int, dtype: torch.dtype, biased: bool) -> Tiles:
    """What fits a target's registers and shared memory without spills, as the compile matrix shows.

    sm90 and newer: up to 64 features two programs share a multiprocessor (at most 128 registers a thread), so that the
    exponentials of one run beside the products of the other; above, one does, with the most keys that fit.
    Others: queries stay in registers too, which leaves less for keys. gfx942 has 64 KB of shared memory.
    """
    width = sum(parts(head_dim))
    if dtype == torch.float32:  # no tensor cores: products of sums in registers
        return Tiles(32, 32, 4, 1) if width <= 64 else Tiles(16, 16, 4, 1)
    if target.startswith("gfx"):
        return Tiles(128, 64 if width <= 96 else 32, 4, 1)
    if target in ("sm90", "sm100", "sm103"):
        if width <= 64:
            return Tiles(128, 64, 8, 3 if target == "sm90" else 4)  # with 3 Triton 3.6 spills on sm100
        if biased:  # which is in registers, beside the scores
            return Tiles(128, 64 if width <= 128 else 32, 8, 2)
        return Tiles(128, 128 if width <= 80 else 64, 8, 2)
    if width > 128:
        return Tiles(64, 32, 8, 2) if width == 256 else Tiles(128, 16, 8, 1 if biased and width > 160 else 2)
    return Tiles(128, 64, 8, 2) if 64 <= width <= 80 else Tiles(128, 32, 8, 3)


def takes(q: Tensor) -> bool:
    """Whether the heads of q are narrow enough."""
    return q.shape[-1] <= MOST_FEATURES


def _check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float) -> None:
    maths.check(q, k, v, bias, causal, scale)
    require(takes(q), f"a head has at most {MOST_FEATURES} features, not {q.shape[-1]}")


def plan(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, list[Launch]]:
    """The result, and the launch that fills it."""
    out = maths.empty_result(q, v)
    batch, positions, heads, n, head_dim = q.shape
    m = k.shape[3]
    rows, keys, num_warps, num_stages = tiles(target_of(q), head_dim, q.dtype, bias is not None)
    unit, strides = in_units(q, k, v, out, dims=4)
    bias_strides = (0, 0, 0, 0, 0) if bias is None else bias.expand(*q.shape[:-1], m).stride()
    args = (q, k, v, out, bias, *strides, *bias_strides, positions, heads, n, m, scale * LOG2_E)
    main, rest = parts(head_dim)
    constants = {
        "ROWS": rows, "KEYS": keys, "D": main, "E": rest, "HEAD_DIM": head_dim, "GROUP": heads // k.shape[2],
        "CAUSAL": causal, "WIDE": wide(q, k, v, out, bias), "UPCAST": INTERPRETED and q.dtype == torch.bfloat16,
        "UNIT": unit,
    }  # fmt: skip
    programs = batch * positions * heads * cdiv(n, rows)
    return out, [Launch(_flash, (programs, 1, 1), args, constants, num_warps, num_stages)]


def reference(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float) -> Tensor:
    """The same in plain torch, in float32 at least."""
    return maths.attend(q, k, v, bias, causal, scale)


def eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float) -> Tensor:
    """torch's fused attention, positions folded into the batch."""
    return maths.attend_eagerly(q, k, v, bias, causal, scale)


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return maths.empty_result(q, v)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return maths.work(*args[:4], out=out)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v and bias, in plain torch: the scores are in memory meanwhile."""
    return *maths.gradients(grad, *ctx.saved_tensors, ctx.causal, ctx.scale), None, None


flash_attention = define(
    "flash_attention(Tensor q, Tensor k, Tensor v, Tensor? bias, bool causal, float scale) -> Tensor",
    plan=plan,
    reference=reference,
    eager=eager,
    fake=_fake,
    work=_work,
    check=_check,
    backward=_backward,
    save=_save,
)
"""flash_attention(q, k, v, bias, causal, scale) -> Tensor: see the module.

bias: added to the scaled scores, broadcast to (b, p, heads, n, m); causal: the last query is aligned with the last key.
"""
