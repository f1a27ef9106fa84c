"""What a call of attention must be, whichever backend runs it: floats of one dtype that fit, a positive scale."""

from __future__ import annotations

import torch
from torch import Tensor


def check(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float | None) -> None:
    """q (*batch, heads, n, d), k and v (*batch, kv_heads, m, d), bias broadcast to (*batch, heads, n, m).

    Raises:
        ValueError: they are not; the message says what was given and what is allowed.
    """
    if min(x.dim() for x in (q, k, v)) < 3:
        given = " and ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"queries, keys and values are (*batch, heads, length, head_dim), not {given}")
    _check_shapes(q, k, v)
    if not q.is_floating_point():
        raise ValueError(f"queries, keys and values are floats, not {q.dtype}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"queries, keys and values have one dtype, not {q.dtype}, {k.dtype} and {v.dtype}")
    n, m = q.shape[-2], k.shape[-2]
    if causal and n > m:
        raise ValueError(f"causal attention needs a key for every query, not {n:,} queries and {m:,} keys")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale multiplies the scores and is positive, not {scale}")
    if bias is not None:
        _check_bias(bias, q, m)


def check_cache(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, pos: int) -> None:
    """q (b, heads, n, d), k and v (b, kv_heads, n, d) at `pos` of a cache (b, kv_heads, capacity, d).

    Raises:
        ValueError: they are not, or the cache is full.
    """
    check(q, k, v, False, None, None)
    if k.dim() != 4 or not keys.shape == values.shape == (*k.shape[:2], keys.shape[-2], k.shape[3]):
        given = " and ".join(str(tuple(x.shape)) for x in (keys, values))
        raise ValueError(f"a cache of keys {tuple(k.shape)} is (b, kv_heads, capacity, head_dim), not {given}")
    if not k.dtype == keys.dtype == values.dtype:
        raise ValueError(f"a cache has the keys' dtype, {k.dtype}, not {keys.dtype} and {values.dtype}")
    capacity, more = keys.shape[-2], k.shape[-2]
    if pos < 0 or pos + more > capacity:
        raise ValueError(f"a cache of {capacity:,} has no room for {more:,} more at {pos:,}")


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    heads, kv_heads, head_dim = q.shape[-3], k.shape[-3], q.shape[-1]
    if k.shape != v.shape:
        raise ValueError(f"keys and values have one shape, not {tuple(k.shape)} and {tuple(v.shape)}")
    if q.shape[:-3] != k.shape[:-3] or k.shape[-1] != head_dim:
        raise ValueError(
            f"queries and keys have the same batch and head_dim, not {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if not min(heads, kv_heads, head_dim):
        raise ValueError(f"heads, kv_heads and head_dim are at least 1, not {heads}, {kv_heads} and {head_dim}")
    if heads % kv_heads:
        raise ValueError(f"heads are a multiple of kv_heads, not {heads} and {kv_heads}")


def _check_bias(bias: Tensor, q: Tensor, m: int) -> None:
    if not bias.is_floating_point():
        raise ValueError(f"bias is added to the scores, so it must be floats, not {bias.dtype}; -inf hides a key")
    if bias.dtype not in (q.dtype, torch.float32):
        raise ValueError(f"bias has the queries' dtype, {q.dtype}, or is float32, not {bias.dtype}")
    scores, own = (*q.shape[:-1], m), tuple(bias.shape)
    if len(own) > len(scores) or any(a not in (1, b) for a, b in zip(own[::-1], scores[::-1], strict=False)):
        raise ValueError(f"bias is broadcast to the scores, {scores}, which {own} cannot be")
