"""Attention of other packages, and torch's own flex_attention: q (b, heads, n, d), k, v (b, kv_heads, m, d) -> as q.

Each takes (q, k, v, bias, causal, scale) as `attention()` means them: a causal mask aligns the last query with the last
key. flash-attn and xformers want (b, n, heads, d), which is a view; they read any strides whose last one is 1. What a
call may be, `limits` says.
Sources: the packages' own signatures, flash_attn/flash_attn_interface.py, hopper/flash_attn_interface.py,
xformers/ops/fmha/__init__.py, torch/nn/attention/flex_attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.packages import load

Attend = Callable[[Tensor, Tensor, Tensor, "Tensor | None", bool, float], Tensor]


def flash_attn(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float) -> Tensor:
    """FlashAttention-2 of the package flash-attn."""
    assert bias is None, "checked by limits"
    call = load("flash-attn").flash_attn_func
    return call(*(x.transpose(1, 2) for x in (q, k, v)), softmax_scale=scale, causal=causal).transpose(1, 2)


def flash_attn_3(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float) -> Tensor:
    """FlashAttention-3, the module flash_attn_interface; its first releases return the logarithms of sums, too."""
    assert bias is None, "checked by limits"
    call = load("flash-attn-3").flash_attn_func
    found = call(*(x.transpose(1, 2) for x in (q, k, v)), softmax_scale=scale, causal=causal)
    return (found[0] if isinstance(found, tuple) else found).transpose(1, 2)


def xformers(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float) -> Tensor:
    """The kernel that xformers chooses; grouped keys are told to it as a dimension of their own."""
    assert bias is None, "checked by limits"
    ops = load("xformers", ".ops")
    mask = ops.fmha.attn_bias.LowerTriangularFromBottomRightMask() if causal else None
    kv_heads, group = k.shape[1], q.shape[1] // k.shape[1]
    queries, keys, values = (x.transpose(1, 2) for x in (q, k, v))
    if group == 1:
        return ops.memory_efficient_attention(queries, keys, values, mask, 0.0, scale).transpose(1, 2)
    queries = queries.unflatten(2, (kv_heads, group))
    keys, values = (x[:, :, :, None].expand(-1, -1, -1, group, -1) for x in (keys, values))
    found = ops.memory_efficient_attention(queries, keys, values, mask, 0.0, scale)
    return found.flatten(2, 3).transpose(1, 2)


def with_cache(
    package: str, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, pos: int, scale: float
) -> Tensor:
    """Append k, v (b, kv_heads, n, d) to caches (b, kv_heads, capacity, d) at `pos` and attend: flash-attn or its 3."""
    queries, keys, values, new_keys, new_values = (x.transpose(1, 2) for x in (q, keys, values, k, v))
    found = load(package).flash_attn_with_kvcache(
        queries, keys, values, new_keys, new_values, cache_seqlens=pos, softmax_scale=scale, causal=True
    )
    return (found[0] if isinstance(found, tuple) else found).transpose(1, 2)


def flex_mask(n: int, m: int, device: torch.device) -> Any:
    """The causal mask of n queries and m keys that flex_attention takes, by blocks, the last query seeing all."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda b, head, query, key: key <= query + (m - n), None, None, n, m, device=str(device))


def flex_masked(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, block_mask: Any, scale: float) -> Tensor:
    """torch's flex_attention, of which torch.compile makes one kernel on a GPU; unfused as it is."""
    from torch.nn.attention.flex_attention import flex_attention

    added = None if bias is None else _added(bias.expand(*q.shape[:3], k.shape[2]))
    return flex_attention(q, k, v, added, block_mask, scale, q.shape[1] != k.shape[1])


def _added(bias: Tensor) -> Callable[..., Tensor]:
    """The change of a score that a bias (b, heads, n, m) is."""

    def add(score: Tensor, b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + bias[b, head, query, key]

    return add
