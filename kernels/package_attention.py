"""FlashAttention-2 of the package flash-attn as an operator: q (b, heads, n, d), k, v (b, kv_heads, m, d) -> as q.

One operator to a walk, to torch.compile and to a profiler, whatever the package calls its own; it is not asked whether
it is there until it runs, so a walk predicts it without. Its result lies as q does. For inference: a gradient is
refused. It has not met a GPU yet.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from minimodels.kernels import attention_math as maths
from minimodels.kernels import attention_packages as others
from minimodels.kernels.operator import register
from minimodels.kernels.work import Work


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    found = others.flash_attn(q, k, v, None, causal, scale)
    out = maths.empty_result(q, v)
    return found if found.stride() == out.stride() else out.copy_(found)


def _fake(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    return maths.empty_result(q, v)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return maths.work(*args[:3], out=out)


flash_attn = register(
    "flash_attn(Tensor q, Tensor k, Tensor v, bool causal, float scale) -> Tensor",
    {"CUDA": _attend, "CPU": _attend},
    _fake,
    _work,
)
"""flash_attn(q, k, v, causal, scale) -> Tensor: see the module; what it cannot do, `limits.flash_attn_limit` says."""
