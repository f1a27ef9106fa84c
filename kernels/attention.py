"""Scaled dot-product attention: the one entrance, its backends, and what each of them cannot do.

softmax(q k^T * scale + bias) v, with q (*batch, heads, n, d), k and v (*batch, kv_heads, m, d).

- `baseline` materialises the n x m matrix on contiguous 3-D tensors, so that every copy and every pass over
  the matrix is an operator of its own. The softmax keeps the input's dtype (float32 accumulation inside). With a
  bias, what zeroes queries that see no key passes over the bias and the result, not over the matrix.
- `flash`, `efficient`, `cudnn` are torch's fused kernels. `flash` is a policy: the flash kernel where its
  limits allow, `efficient` where they do not. A name with "!" pins the kernel: a call it cannot do raises.
- `sdpa` is the kernel that torch prefers on that GPU, by its published order and limits (`limits.ORDER`), pinned, so
  that what is recorded is what ran.

- `triton` are our own kernels where their limits allow, then as `flash`. On a CPU their reference in plain torch
  runs, and is recorded as `reference`.
- `flash-attn` is the package of that name where it is installed; a walk predicts it without, as the flash kernel that
  it is. It is pinned, as if its name had a "!".

The backend is a property of the run: `with attention_backend("flash"): ...`; limits stand in `limits`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minimodels.kernels.attention_check import check, check_cache
from minimodels.kernels.backend import choice, target_of
from minimodels.kernels.fused import rotate
from minimodels.kernels.limits import resolve
from minimodels.kernels.scope import CORE, AttentionCall, scope


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attend: q (*batch, heads, n, d), k, v (*batch, kv_heads, m, d) -> (*batch, heads, n, d).

    causal: query i sees keys up to m - n + i, so the last query sees all; bias: added to the scaled scores,
    broadcast to (*batch, heads, n, m), of q's dtype or float32, which torch's kernels round to q's; scale: of the
    scores, 1 / sqrt(d) unless given. The result of a query that sees no key, since the bias of all is -inf, is zero.

    Raises:
        ValueError: shapes or dtypes do not fit together, or a pinned backend cannot do the call; the message names
            the limit and the value.
    """
    check(q, k, v, causal, bias, scale)
    causal = causal and q.shape[-2] > 1
    if scale is None:
        scale = q.shape[-1] ** -0.5
    backend = resolve(choice().attention, target_of(q), q, k, causal, bias)
    with scope(CORE, backend, _call(backend, q, k, causal, bias)):
        if backend == "baseline":
            return _baseline(q, k, v, causal, bias, scale)
        if backend in OURS:
            from minimodels.kernels.our_attention import attend  # Triton takes 0.2 s to import

            return attend(q, k, v, causal, bias, scale)
        if backend == "flash-attn":
            return _packaged(q, k, v, causal, scale)
        return _fused(backend, q, k, v, causal, bias, scale)


def attention_rotated(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, *, causal: bool = False, bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """`attention` of q and k (*batch, heads, n, d) of positions 0 to n - 1, rotated by a table (at least n, d).

    Ours rotates inside where sequences are short, as over the frames of a video; otherwise `rotate` goes before.

    Raises:
        ValueError: as `attention` does.
    """
    causal = causal and q.shape[-2] > 1
    if choice().attention.startswith("triton"):
        from minimodels.kernels.our_attention import attend, rotates

        check(q, k, v, causal, bias, scale)
        backend = resolve(choice().attention, target_of(q), q, k, causal, bias)
        if backend in OURS and rotates(q, k, cos, sin):
            scale = q.shape[-1] ** -0.5 if scale is None else scale
            with scope(CORE, backend, _call(backend, q, k, causal, bias)):
                return attend(q, k, v, causal, bias, scale, cos, sin)
    return attention(*rotate(q, k, cos, sin, 0), v, causal=causal, bias=bias, scale=scale)


def attention_with_cache(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, pos: int, *, causal: bool = True,
    bias: Tensor | None = None, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Write k, v (b, kv_heads, n, d) into the cache at `pos`, and attend to all that it then holds.

    q (b, heads, n, d); keys, values: the cache, (b, kv_heads, capacity, d), filled up to `pos`. Ours do both in one
    launch where queries are few; otherwise two copies go before `attention`.

    Raises:
        ValueError: as `attention` does.
    """
    check_cache(q, k, v, keys, values, pos)
    end, one = pos + k.shape[-2], q.shape[-2] == 1
    held, held_values = keys[:, :, :end], values[:, :, :end]
    if choice().attention.startswith("triton") and (causal or one):
        from minimodels.kernels.our_attention import attend_with_cache, takes_cache

        check(q, held, held_values, causal, bias, scale)
        backend = resolve(choice().attention, target_of(q), q, held, not one, bias)
        if backend in OURS and takes_cache(q, k):
            scale = q.shape[-1] ** -0.5 if scale is None else scale
            with scope(CORE, backend, _call(backend, q, held, not one, bias)):
                return attend_with_cache(q, k, v, keys, values, pos, bias, scale)
    keys[:, :, pos:end], values[:, :, pos:end] = k, v
    return attention(q, held, held_values, causal=causal, bias=bias, scale=scale)


OURS = ("triton", "reference")


def _call(backend: str, q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> AttentionCall:
    return AttentionCall(
        backend=backend,
        batch=q.shape[:-3].numel(),
        query_length=q.shape[-2],
        key_length=k.shape[-2],
        heads=q.shape[-3],
        kv_heads=k.shape[-3],
        head_dim=q.shape[-1],
        causal=causal,
        bias=bias is not None,
    )


KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def _baseline(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> Tensor:
    n, m, sequences = q.shape[-2], k.shape[-2], q.shape[:-2].numel()
    k, v = _ungroup(q, k), _ungroup(q, v)
    queries, keys, values = (x.reshape(sequences, x.shape[-2], x.shape[-1]).contiguous() for x in (q, k, v))
    scores = torch.bmm(queries, keys.transpose(1, 2)) * scale
    blind = None
    if bias is not None and m:
        if causal:
            bias = bias.masked_fill(_future(n, m, q.device), float("-inf"))
        blind = bias.amax(-1, keepdim=True) == float("-inf")
        bias = bias.masked_fill(blind, 0.0).to(q.dtype)  # a softmax of -inf alone is NaN, its gradient too
        scores = (scores.view(*q.shape[:-1], m) + bias).view(sequences, n, m)
    elif causal:
        scores = scores.masked_fill(_future(n, m, q.device), float("-inf"))
    out = torch.bmm(torch.softmax(scores, dim=-1), values).view(*q.shape[:-1], v.shape[-1])
    return out if blind is None else out.masked_fill(blind, 0.0)


def _fused(backend: str, q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> Tensor:
    n, m = q.shape[-2], k.shape[-2]
    if not (m and q.numel()):  # which not every kernel of torch takes
        return _baseline(q, k, v, causal, bias, scale)
    if backend in ("efficient", "math"):  # the others take grouped keys as they are
        k, v = _ungroup(q, k), _ungroup(q, v)
    batch = q.shape[:-3]
    if causal and n != m:  # torch aligns a causal mask with the first key, attention() with the last
        future = torch.zeros(n, m, dtype=q.dtype, device=q.device).masked_fill(_future(n, m, q.device), float("-inf"))
        bias, causal = future if bias is None else bias + future, False
    if bias is not None and causal:
        bias, causal = bias.masked_fill(_future(n, m, q.device), float("-inf")), False
    if len(batch) != 1:
        q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    if bias is not None:
        bias = _mask(bias.to(q.dtype), batch)  # efficient refuses another type, cuDNN misreads it without a word
    grouped = q.shape[-3] != k.shape[-3]
    with sdpa_kernel(KERNELS[backend]):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=grouped)
    return out if len(batch) == 1 else out.reshape(*batch, *out.shape[-3:])


def _packaged(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    """The package flash-attn, which aligns a causal mask with the last key, as `attention` does."""
    from minimodels.kernels.our_attention import beside
    from minimodels.kernels.package_attention import flash_attn

    batch = q.shape[:-3]
    if len(batch) != 1:
        q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    out = flash_attn(*(beside(x) for x in (q, k, v)), causal, scale)
    return out if len(batch) == 1 else out.reshape(*batch, *out.shape[-3:])


def _mask(bias: Tensor, batch: torch.Size) -> Tensor:
    """The bias in two or four dimensions, its last one of stride 1: the only ones that torch's kernels take."""
    bias = bias if bias.stride(-1) == 1 else bias.contiguous()
    if bias.dim() > 3 and len(batch) != 1:
        return bias.expand(*batch, *bias.shape[-3:]).reshape(-1, *bias.shape[-3:])
    return bias[None] if bias.dim() % 2 else bias


def _ungroup(q: Tensor, x: Tensor) -> Tensor:
    """Repeat grouped keys or values so that every query head has its own."""
    groups = q.shape[-3] // x.shape[-3]
    return x if groups == 1 else x.repeat_interleave(groups, dim=-3)


def _future(n: int, m: int, device: torch.device) -> Tensor:
    return torch.ones(n, m, dtype=torch.bool, device=device).triu(m - n + 1)
