"""Attention of the newest token to all before it, whose keys and values are appended to the cache by the same launch.

q (b, heads, n, d), new k and v (b, kv_heads, n, d), caches (b, kv_heads, capacity, d): n is 1, or a few while a few
tokens come at once; any strides with the last dimension contiguous. The new rows go into the cache at position `pos`,
and query i attends to positions 0 to pos + i.

Why: a step reads the whole cache once and computes next to nothing, so it is as fast as memory is, if enough of it is
on its way at a time. With one program a head most multiprocessors would idle: the keys are split, a program takes its
share of them for all query heads of a key head, so that grouped keys are read once, and a second kernel joins the
parts in a fixed order: two runs are equal to the bit. Appending by copies takes two more launches, and a launch takes
as long as reading 10 MB. The program with the last share writes the new rows; it attends to them as they come, not from
the cache, so that no program waits for another.

Queries are padded to 16 rows for the tensor cores. A program is one warp per 16 rows, since each warp would read all
keys of a tile from shared memory anew; four programs of 48 KB share a multiprocessor and keep 128 KB on the way, five
times what hides the latency of an H100's memory (computed, not measured).

Source: Dao et al. 2023, Flash-Decoding, crfm.stanford.edu/2023/10/12/flashdecoding.html.
"""

from __future__ import annotations

from functools import cache
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels import attention_math as maths
from minimodels.kernels.attention_check import check_cache
from minimodels.kernels.attention_tiles import LOG2_E, add_product, in_units, parts, product, put, tile
from minimodels.kernels.backend import INTERPRETED, compute_units, target_of
from minimodels.kernels.launch import Launch, cdiv, jit, power_of_2, tl, wide
from minimodels.kernels.operands import require
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, size_bytes, stored_bytes

MOST_ROWS = 64  # queries of all heads that share keys
MOST_FEATURES = 256
HELD, HELD_FLOAT32 = 6144, 2048  # elements of a result, of all rows, that registers hold beside a tile without spills
FEW = 4096  # up to which a warp takes 16 rows
TILE_BYTES = 4 << 10  # of a tile of keys
TOGETHER = 8  # programs of a multiprocessor at a time
LEAST_TILES = 2  # of a share: less does not pay for joining it
MOST_SPLITS = 64
FILLED = 0.85  # of the best filling of the last wave of programs: more splits would be joined for little


@jit
def _attend(
    q_main, q_rest, k_main, k_rest, v_main, v_rest, main, rest, highest, total, bias_at, bias_m, there, key, exists,
    seen, scale, E: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Attend to a tile of keys at positions `key`, of which some exist, and rows see `seen` ones."""
    scores = product(q_main, tl.trans(k_main), UPCAST)
    if E > 0:
        scores = add_product(scores, q_rest, tl.trans(k_rest), UPCAST)
    scores *= scale
    if bias_at is not None:
        shown = there[:, None] & exists[None, :]
        added = tl.load(bias_at[:, None] + key[None, :] * bias_m, mask=shown, other=0.0)
        scores += added.to(tl.float32) * 1.4426950408889634
    scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # a bias can hide all keys so far
    weight, shrink = tl.exp2(scores - base[:, None]), tl.exp2(highest - base)
    total = total * shrink + tl.sum(weight, 1)
    weight = weight.to(q_main.dtype)
    main = add_product(main * shrink[:, None], weight, v_main, UPCAST)
    if E > 0:
        rest = add_product(rest * shrink[:, None], weight, v_rest, UPCAST)
    return main, rest, higher, total


@jit(varying=("pos", "splits"))  # keys_each is a multiple of a tile
def _decode(
    q, new_k, new_v, cache_k, cache_v, bias, position, out, part, stats,
    q_b, q_h, q_n, nk_b, nk_h, nk_n, nv_b, nv_h, nv_n, k_b, k_h, k_m, v_b, v_h, v_m, o_b, o_h, o_n,
    bias_b, bias_h, bias_n, bias_m,
    kv_heads, n, pos, keys_each, splits, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, NEW: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
    HEAD_DIM: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr, UPCAST: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """One share of the keys of one key head; the last also has the new ones. WHOLE: the only share is the result."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    split, sequence = program % splits, program // splits
    kv_head, batch = sequence % kv_heads, sequence // kv_heads
    row = tl.arange(0, ROWS)
    head, query, there = kv_head * GROUP + row // n, row % n, row < GROUP * n
    first = pos
    if position is not None:
        first = tl.minimum(tl.maximum(tl.load(position), 0), pos).to(tl.int32)  # nothing is written outside the cache
    if WIDE:
        first = tl.cast(first, tl.int64)
    q_at = (q + (batch * q_b + head * q_h + query * q_n) * UNIT)[:, None]
    k_at, v_at = cache_k + (batch * k_b + kv_head * k_h) * UNIT, cache_v + (batch * v_b + kv_head * v_h) * UNIT
    bias_at = None
    if bias is not None:
        bias_at = bias + batch * bias_b + head * bias_h + query * bias_n
    q_main = tile(q_at, row, GROUP * n, 0, 0, D, HEAD_DIM, True)
    q_rest, rest = 0.0, 0.0
    main = tl.zeros((ROWS, D), tl.float32)
    if E > 0:
        q_rest = tile(q_at, row, GROUP * n, 0, D, E, HEAD_DIM, True)
        rest = tl.zeros((ROWS, E), tl.float32)
    highest, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    start = split * keys_each
    end = tl.minimum(start + keys_each, first)
    for at in tl.range(start, end, KEYS):
        key = at + tl.arange(0, KEYS)
        k_rest, v_rest = 0.0, 0.0
        k_main = tile(k_at, key, end, k_m * UNIT, 0, D, HEAD_DIM, True)
        v_main = tile(v_at, key, end, v_m * UNIT, 0, D, HEAD_DIM, True)
        if E > 0:
            k_rest = tile(k_at, key, end, k_m * UNIT, D, E, HEAD_DIM, True)
            v_rest = tile(v_at, key, end, v_m * UNIT, D, E, HEAD_DIM, True)
        main, rest, highest, total = _attend(
            q_main, q_rest, k_main, k_rest, v_main, v_rest, main, rest, highest, total, bias_at, bias_m, there, key,
            key < end, (key < end)[None, :], scale, E, UPCAST,
        )  # fmt: skip
    if split == splits - 1:
        k_from, v_from = new_k + (batch * nk_b + kv_head * nk_h) * UNIT, new_v + (batch * nv_b + kv_head * nv_h) * UNIT
        k_to, v_to = k_at + first * k_m * UNIT, v_at + first * v_m * UNIT
        for some in tl.static_range(0, NEW, 16):  # a tile of all has no room beside many queries
            new = some + tl.arange(0, 16)
            new_k_rest, new_v_rest = 0.0, 0.0
            new_k_main = tile(k_from, new, n, nk_n * UNIT, 0, D, HEAD_DIM, True)
            new_v_main = tile(v_from, new, n, nv_n * UNIT, 0, D, HEAD_DIM, True)
            put(k_to, new_k_main, new, n, k_m * UNIT, 0, D, HEAD_DIM)
            put(v_to, new_v_main, new, n, v_m * UNIT, 0, D, HEAD_DIM)
            if E > 0:
                new_k_rest = tile(k_from, new, n, nk_n * UNIT, D, E, HEAD_DIM, True)
                new_v_rest = tile(v_from, new, n, nv_n * UNIT, D, E, HEAD_DIM, True)
                put(k_to, new_k_rest, new, n, k_m * UNIT, D, E, HEAD_DIM)
                put(v_to, new_v_rest, new, n, v_m * UNIT, D, E, HEAD_DIM)
            main, rest, highest, total = _attend(
                q_main, q_rest, new_k_main, new_k_rest, new_v_main, new_v_rest, main, rest, highest, total, bias_at,
                bias_m, there, first + new, new < n, new[None, :] <= query[:, None], scale, E, UPCAST,
            )  # fmt: skip
    if WHOLE:
        total = tl.where(total == 0.0, 1.0, total)  # of queries that see no key
        o_at = (out + (batch * o_b + head * o_h + query * o_n) * UNIT)[:, None]
        put(o_at, main / total[:, None], row, GROUP * n, 0, 0, D, HEAD_DIM)
        if E > 0:
            put(o_at, rest / total[:, None], row, GROUP * n, 0, D, E, HEAD_DIM)
    else:
        part_at, stats_at = part + program * GROUP * n * HEAD_DIM, stats + program * 2 * GROUP * n
        put(part_at, main, row, GROUP * n, HEAD_DIM, 0, D, HEAD_DIM)
        if E > 0:
            put(part_at, rest, row, GROUP * n, HEAD_DIM, D, E, HEAD_DIM)
        tl.store(stats_at + row, highest, mask=there)
        tl.store(stats_at + GROUP * n + row, total, mask=there)


@jit(varying=("splits",))
def _join(
    part, stats, out, o_b, o_h, o_n, heads, n, splits,
    SPLITS: tl.constexpr, D: tl.constexpr, HEAD_DIM: tl.constexpr, GROUP: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """The result of one query of one head, from its parts."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    rows = GROUP * n
    sequence, row = program // rows, program % rows
    split, feature = tl.arange(0, SPLITS), tl.arange(0, D)
    at = sequence * splits + split
    here = split < splits
    highest = tl.load(stats + at * 2 * rows + row, mask=here, other=float("-inf"))
    total = tl.load(stats + (at * 2 + 1) * rows + row, mask=here, other=0.0)
    weight = tl.exp2(highest - tl.maximum(tl.max(highest, 0), -3.0e38))  # finite where the query sees no key
    shown = here[:, None] & (feature < HEAD_DIM)[None, :]
    values = tl.load(part + (at * rows + row)[:, None] * HEAD_DIM + feature[None, :], mask=shown, other=0.0)
    result = tl.sum(values * weight[:, None], 0) / tl.maximum(tl.sum(total * weight, 0), 1.0e-30)  # 1 at least, or 0
    batch, head = sequence * GROUP // heads, sequence * GROUP % heads + row // n
    o_at = out + (batch * o_b + head * o_h + row % n * o_n) * UNIT + feature
    tl.store(o_at, result.to(out.dtype.element_ty), mask=feature < HEAD_DIM)


def takes(q: Tensor, k: Tensor) -> bool:
    """Whether the queries of all heads that share keys are few enough to be held without spills."""
    held = power_of_2(_queries(q, k), 16) * sum(parts(q.shape[-1]))
    return _fits(q, k) and held <= (HELD if q.element_size() == 2 else HELD_FLOAT32)


def _fits(q: Tensor, k: Tensor) -> bool:
    return q.dim() == 4 and _queries(q, k) <= MOST_ROWS and q.shape[3] <= MOST_FEATURES


def _queries(q: Tensor, k: Tensor) -> int:
    """Of all heads that share keys."""
    return q.shape[-2] * (q.shape[-3] // k.shape[-3])


def _check(
    q: Tensor, k: Tensor, v: Tensor, cache_k: Tensor, cache_v: Tensor, bias: Tensor | None, position: Tensor | None,
    pos: int, scale: float,
) -> None:  # fmt: skip
    check_cache(q, k, v, cache_k, cache_v, pos)
    n, filled = q.shape[2], pos + q.shape[2]
    maths.check(q, cache_k[:, :, :filled], cache_v[:, :, :filled], bias, True, scale, dims=4)
    maths.check(q, k, v, None, True, scale, dims=4)
    require(k.shape[2] == n, f"as many new keys as queries, not {k.shape[2]} and {n}")
    require(_fits(q, k), f"at most {MOST_ROWS} queries a key head, of {MOST_FEATURES} features; not {tuple(q.shape)}")
    one = position is None or position.numel() == 1 and position.dtype == torch.int64
    require(one, "position is one int64")


def _keys(cache_k: Tensor) -> int:
    """Keys of a tile."""
    return min(64, max(16, power_of_2(TILE_BYTES // (power_of_2(cache_k.shape[3]) * cache_k.element_size()))))


def _warps(rows: int, q: Tensor) -> int:
    """One per 16 rows, more where the registers of one do not hold a result, or what sm100 schedules beside it."""
    if q.dtype == torch.float32 or rows * sum(parts(q.shape[3])) > FEW:
        return 8
    two = q.shape[3] > 128 or target_of(q) in ("sm100", "sm103")
    return max(rows // 16, 4 if q.shape[3] > 192 else 2 if two else 1)


def _shares(q: Tensor, cache_k: Tensor, pos: int) -> tuple[int, int]:
    """Into how many shares the `pos` keys of the cache are split, and the keys of each."""
    keys = _keys(cache_k)
    tiles = max(1, cdiv(pos, keys))
    each = cdiv(tiles, _splits(q.shape[0] * cache_k.shape[1], tiles, TOGETHER * compute_units(q)))
    return cdiv(tiles, each), each * keys


@cache
def _splits(sequences: int, tiles: int, slots: int) -> int:
    """The fewest splits of `tiles` that leave few of the `slots`, programs that run together, idle in the last wave."""

    def filling(splits: int) -> float:
        waves = sequences * splits / slots
        return waves / ceil(waves)

    allowed = range(1, max(1, min(MOST_SPLITS, tiles // LEAST_TILES)) + 1)
    enough = FILLED * max(map(filling, allowed))
    return next(splits for splits in allowed if filling(splits) >= enough)


def plan(
    q: Tensor, k: Tensor, v: Tensor, cache_k: Tensor, cache_v: Tensor, bias: Tensor | None, position: Tensor | None,
    pos: int, scale: float,
) -> tuple[Tensor, list[Launch]]:  # fmt: skip
    """The result, and the launches that fill it and append k and v."""
    out = maths.empty_result(q, v)
    (batch, heads, n, head_dim), kv_heads, filled = q.shape, k.shape[1], pos + q.shape[2]
    group, sequences = heads // kv_heads, batch * kv_heads
    splits, keys_each = _shares(q, cache_k, pos)
    part = stats = None
    if splits > 1:
        part = q.new_empty((sequences * splits, group * n, head_dim), dtype=torch.float32)
        stats = q.new_empty((sequences * splits, 2, group * n), dtype=torch.float32)
    (main, rest), rows = parts(head_dim), power_of_2(group * n, 16)
    num_stages = 2 if target_of(q).startswith("gfx") else 3
    unit, strides = in_units(q, k, v, cache_k, cache_v, out, dims=3)
    bias_strides = (0, 0, 0, 0) if bias is None else bias.expand(batch, heads, n, filled).stride()
    args = (
        q, k, v, cache_k, cache_v, bias, position, out, part, stats, *strides, *bias_strides, kv_heads, n, pos,
        keys_each, splits, scale * LOG2_E,
    )  # fmt: skip
    constants = {
        "ROWS": rows, "KEYS": _keys(cache_k), "NEW": power_of_2(n, 16), "D": main, "E": rest, "HEAD_DIM": head_dim,
        "GROUP": group,
        "WHOLE": splits == 1, "WIDE": wide(q, k, v, cache_k, cache_v, bias, out, part),
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16, "UNIT": unit,
    }  # fmt: skip
    launches = [Launch(_decode, (sequences * splits, 1, 1), args, constants, _warps(rows, q), num_stages)]
    if splits > 1:
        args = (part, stats, out, *strides[-3:], heads, n, splits)
        constants = {
            "SPLITS": MOST_SPLITS, "D": power_of_2(head_dim, 16), "HEAD_DIM": head_dim, "GROUP": group,
            "WIDE": constants["WIDE"], "UNIT": unit,
        }  # fmt: skip
        launches.append(Launch(_join, (batch * heads * n, 1, 1), args, constants, 4))
    return out, launches


def _append(
    q: Tensor, k: Tensor, v: Tensor, cache_k: Tensor, cache_v: Tensor, bias: Tensor | None, position: Tensor | None,
    pos: int,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Append by torch's operators: all keys and values up to the new ones, and the bias that hides later ones."""
    n, filled = q.shape[2], pos + q.shape[2]
    first = pos
    if position is None:
        cache_k[:, :, pos:filled], cache_v[:, :, pos:filled] = k, v
    else:
        first = position.reshape(()).clamp(0, pos)
        rows = first + torch.arange(n, device=q.device)
        cache_k.index_copy_(2, rows, k)
        cache_v.index_copy_(2, rows, v)
    if position is not None or n > 1:
        at = torch.arange(filled, device=q.device)
        later = at > (first + torch.arange(n, device=q.device))[:, None]
        hidden = torch.zeros(n, filled, dtype=q.dtype, device=q.device).masked_fill(later, float("-inf"))
        bias = hidden if bias is None else bias + hidden
    return cache_k[:, :, :filled], cache_v[:, :, :filled], bias


def reference(
    q: Tensor, k: Tensor, v: Tensor, cache_k: Tensor, cache_v: Tensor, bias: Tensor | None, position: Tensor | None,
    pos: int, scale: float,
) -> Tensor:  # fmt: skip
    """The same in plain torch, in float32 at least."""
    keys, values, bias = _append(q, k, v, cache_k, cache_v, bias, position, pos)
    return maths.attend(q, keys, values, bias, False, scale)


def eager(
    q: Tensor, k: Tensor, v: Tensor, cache_k: Tensor, cache_v: Tensor, bias: Tensor | None, position: Tensor | None,
    pos: int, scale: float,
) -> Tensor:  # fmt: skip
    """Two copies and torch's fused attention."""
    keys, values, bias = _append(q, k, v, cache_k, cache_v, bias, position, pos)
    grouped = q.shape[1] != k.shape[1]
    if bias is not None:
        bias = bias.to(q.dtype).expand(*q.shape[:3], keys.shape[2])
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias, scale=scale, enable_gqa=grouped)


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return maths.empty_result(q, v)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """All keys up to `pos` are read from the cache once, the new ones from where they come, and written to it."""
    q, k, v, cache_k, _, bias, position, pos, _ = args
    batch, heads, n, d = q.shape
    filled, appended = pos + n, size_bytes(k) + size_bytes(v)
    read = sum(stored_bytes(x) for x in (q, k, v, bias, position) if x is not None) + appended // n * pos
    splits, _ = _shares(q, cache_k, pos)
    space = 4 * batch * heads * n * splits * (d + 2) if splits > 1 else 0
    written = appended + sum(map(stored_bytes, out))
    flops = 4 * batch * heads * n * filled * d
    return Work("attention", flops, read + space, written + space, launches=1 + (splits > 1), workspace=space)


decode_attention = define(
    "decode_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) cache_k, Tensor(b!) cache_v, Tensor? bias,"
    " Tensor? position, SymInt pos, float scale) -> Tensor",
    plan=plan,
    reference=reference,
    eager=eager,
    fake=_fake,
    work=_work,
    check=_check,
)
"""decode_attention(q, k, v, cache_k, cache_v, bias, position, pos, scale) -> Tensor: see the module.

bias: added to the scaled scores, broadcast to (b, heads, n, pos + n); position: where given, an int64 on the device
that holds the position of the first new row, of which `pos` is the largest (a larger one is taken as `pos`, a negative
one as 0): what is launched and how large the bias is then depends on `pos` alone, so that one captured graph serves all
positions up to it. Our own graph mode captures every position that it measures, and gives none.
"""
