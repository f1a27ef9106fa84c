"""What each operator does: FLOPs, bytes read and written, kernels launched. One formula per operator.

FLOPs are 2 x multiply-accumulates of matrix products, convolutions and attention; an operator that only
moves, adds or normalises counts zero, as in torch's FlopCounterMode. Bytes are those of each argument read
once and each result written once; a tensor expanded over a dimension is read as often as it is stored.
Copies that torch makes inside an operator (non-contiguous input) are part of its bytes, launches and
workspace. An operator without a formula gets `flops=None`: it is listed as unmodelled, never silently zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.scope import AttentionCall
from minimodels.sim.call import Work

Formula = Callable[[tuple[Any, ...], dict[str, Any], tuple[Tensor, ...]], Work]
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def run(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], core: AttentionCall | None) -> Any:
    """What `func` returns on `meta`, laid out as the kernel lays it out.

    On `meta` torch takes its math path for attention, whose result is contiguous. The fused kernels keep the
    layout of q, `efficient` puts heads next to head_dim: what follows needs no copy.
    Source: torch/_meta_registrations.py, the kernels' own shape rules.
    """
    if func is not ATTENTION or core is None or core.backend == "math":
        return func(*args, **kwargs)
    q, v = args[0], args[2]
    shape = (*q.shape[:-1], v.shape[-1])
    if core.backend == "efficient":
        return torch.empty_permuted(shape, (0, 2, 1, 3), dtype=q.dtype, device=q.device)
    order = sorted(range(q.dim()), key=q.stride().__getitem__, reverse=True)
    return torch.empty_permuted(shape, order, dtype=q.dtype, device=q.device)


def work_of(
    func: torch._ops.OpOverload,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: tuple[Tensor, ...],
    core: AttentionCall | None = None,
) -> Work:
    """The work of one call of `func`; `out` holds its result tensors, `core` is the attention it runs in."""
    name = operator(func)
    if func is ATTENTION and core is not None and core.backend == "math":
        return _math_attention(args, kwargs, out)
    if name in FORMULAS:
        return FORMULAS[name](args, kwargs, out)
    if torch.Tag.pointwise in func.tags:
        return _pointwise(args, kwargs, out)
    read, written = _traffic(args, kwargs, out)
    return Work("other", None, read, written)


def operator(func: torch._ops.OpOverload) -> str:
    """An operator's name without namespace or overload for torch's own, "namespace::name" for others."""
    namespace, _, name = func._schema.name.partition("::")
    return name if namespace == "aten" else func._schema.name


def category(name: str, work: Work, in_attention_core: bool) -> str:
    """The category of an operator, by what it is itself; in the core of attention its compute is Attention."""
    own = CATEGORY_OF_KERNEL[work.kernel]
    if in_attention_core and own in ("Linear", "Norm", "Elementwise"):
        return "Attention"
    return "Embedding" if name == "embedding" else own


CATEGORY_OF_KERNEL = {
    "none": "Memory",
    "gemm": "Linear",
    "conv": "Convolution",
    "attention": "Attention",
    "norm": "Norm",
    "softmax": "Elementwise",
    "elementwise": "Elementwise",
    "copy": "Memory",
    "gather": "Memory",
    "other": "Other",
}


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors among arguments, lists included, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(item for item in value if isinstance(item, Tensor))
    return found


def stored_bytes(x: Tensor) -> int:
    """Bytes of the distinct elements of x: dimensions of stride 0 are stored once."""
    sizes = (size for size, stride in zip(x.shape, x.stride(), strict=True) if stride != 0)
    return prod(sizes) * x.element_size()


def _traffic(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> tuple[int, int]:
    read = sum(map(stored_bytes, tensors_in((*args, *kwargs.values()))))
    return read, sum(map(stored_bytes, out))


def _pointwise(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = _traffic(args, kwargs, out)
    return Work("elementwise", 0, read, written)


def _copy_bytes(x: Tensor) -> int:
    """Bytes of the contiguous copy that a matrix product makes of x, 0 if its strides will do."""
    if x.dim() < 2 or x.is_contiguous():
        return 0
    rows, columns = x.stride(-2), x.stride(-1)
    plain = (columns == 1 and rows >= max(1, x.shape[-1])) or (rows == 1 and columns >= max(1, x.shape[-2]))
    batch = _one_dimension(x.shape[:-2], x.stride()[:-2])
    return 0 if plain and batch else x.numel() * x.element_size()


def _one_dimension(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether dimensions of these sizes and strides view as one."""
    long = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    return all(a[1] == b[0] * b[1] for a, b in pairwise(long))


def _copying(work: Work, *copies: int) -> Work:
    """The work, after copies of some arguments of these bytes: the copies are read in their place."""
    copied, launches = sum(copies), work.launches + sum(size > 0 for size in copies)
    read, written, workspace = work.bytes_read + copied, work.bytes_written + copied, work.workspace + copied
    return replace(work, bytes_read=read, bytes_written=written, launches=launches, workspace=workspace)


def _gemm(batch: int, m: int, n: int, k: int, read: int, written: int, copies: tuple[int, ...]) -> Work:
    return _copying(Work("gemm", 2 * batch * m * n * k, read, written, 1, (batch, m, n, k)), *copies)


def _linear(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    x, weight = args[0], args[1]
    read, written = _traffic(args, kwargs, out)
    n, k = weight.shape
    rows = x if x.dim() <= 2 else _rows(x)
    if rows is None:  # they do not view as one dimension: torch multiplies sample by sample
        work = _gemm(prod(x.shape[:-2]), x.shape[-2], n, k, read, written, (_copy_bytes(x),))
    else:
        work = _gemm(1, rows.numel() // k, n, k, read, written, (_copy_bytes(rows),))
    if x.dim() <= 2 or x.is_contiguous() or len(args) < 3 or args[2] is None:
        return work
    # addmm takes a bias with contiguous rows only: here it is added afterwards
    apart = replace(work, bytes_read=work.bytes_read + written, bytes_written=work.bytes_written + written)
    return replace(apart, launches=work.launches + 1)


def _rows(x: Tensor) -> Tensor | None:
    """x (..., k) seen as (rows, k), or None where that takes a copy."""
    try:
        return x.view(-1, x.shape[-1])
    except RuntimeError:
        return None


def _matmul(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    a, b = args[0], args[1]
    read, written = _traffic(args, kwargs, out)
    batch = prod(out[0].shape[:-2]) if a.dim() > 2 or b.dim() > 2 else 1
    m = a.shape[-2] if a.dim() > 1 else 1
    n = b.shape[-1] if b.dim() > 1 else 1
    return _gemm(batch, m, n, a.shape[-1], read, written, (_copy_bytes(a), _copy_bytes(b)))


def _addmm(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = _traffic(args, kwargs, out)
    a, b = args[1], args[2]
    batch = a.shape[0] if a.dim() == 3 else 1
    return _gemm(batch, a.shape[-2], b.shape[-1], a.shape[-1], read, written, (_copy_bytes(a), _copy_bytes(b)))


def _convolution(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    weight, (y,) = args[1], out
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    read, written = _traffic(args, kwargs, out)
    pixels = y.shape[0] * prod(y.shape[2:])
    channels, taps = weight.shape[0] // groups, prod(weight.shape[1:])
    flops = 2 * groups * pixels * channels * taps
    work = Work("conv", flops, read, written, 1, (groups, pixels, channels, taps))
    return _copying(work, _uncontiguous(args[0]))


def _uncontiguous(x: Tensor) -> int:
    """Bytes of the copy that a convolution makes of x, 0 if it lies in one of the orders the kernels know."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if x.is_contiguous() or channels_last is not None and x.is_contiguous(memory_format=channels_last):
        return 0
    return x.numel() * x.element_size()


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    q, k, v = args[:3]
    read, written = _traffic(args, kwargs, out)
    batch_heads, n, m = prod(q.shape[:-2]), q.shape[-2], k.shape[-2]
    return Work("attention", 2 * batch_heads * n * m * (q.shape[-1] + v.shape[-1]), read, written)


def _math_attention(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """torch's fallback: scale q and k, multiply, softmax, find rows that are all -inf, multiply; in float32 at least.

    Source: torch/native/transformers/attention.cpp, _scaled_dot_product_attention_math.
    """
    q, k = args[:2]
    work, widened = _attention(args, kwargs, out), max(4, q.element_size()) / q.element_size()
    scaled = round((q.numel() + k.numel()) * q.element_size() * widened)
    scores = round(q.numel() // q.shape[-1] * k.shape[-2] * q.element_size() * widened)
    read, written = work.bytes_read + 2 * scaled + 4 * scores, work.bytes_written + scaled + 3 * scores
    return replace(work, bytes_read=read, bytes_written=written, launches=8, workspace=scaled + scores)


def _norm(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = _traffic(args, kwargs, out)
    x = args[0]
    copied = 0 if x.is_contiguous() else x.numel() * x.element_size()
    return _copying(Work("norm", 0, read, written, workspace=_statistics(args)), copied)


def _statistics(args: tuple[Any, ...]) -> int:
    """Bytes of what a norm remembers of each row: mean and 1/deviation, in float32 at least."""
    x, groups = args[:2]
    rows = x.shape[0] * groups if isinstance(groups, int) else x.numel() // prod(groups)
    return 2 * rows * max(4, x.element_size())


def _softmax(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = _traffic(args, kwargs, out)
    return Work("softmax", 0, read, written)


def _reduce(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = _traffic(args, kwargs, out)
    return Work("norm" if args[0].numel() > out[0].numel() else "elementwise", 0, read, written)


def _embedding(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    index = args[1]
    copied = 0 if _one_dimension(index.shape, index.stride()) else index.numel() * index.element_size()
    return _copying(_gather(args, kwargs, out), copied)


def _masked_fill(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """A copy, then a pass over it with the mask."""
    read, written = _traffic(args, kwargs, out)
    return Work("elementwise", 0, read + written, 2 * written, 2)


def _gather(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    written = sum(map(stored_bytes, out))
    index = sum(x.numel() * x.element_size() for x in tensors_in(args) if not x.dtype.is_floating_point)
    return Work("gather", 0, written + index, written)


def _copy(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = _traffic(args, kwargs, out)
    return Work("copy", 0, read, written)


def _resample(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = _traffic(args, kwargs, out)
    return _copying(Work("gather", 0, read, written), _uncontiguous(args[0]))


def _copy_into(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("copy", 0, stored_bytes(args[1]), stored_bytes(args[0]))


def _fill(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("elementwise", 0, 0, sum(map(stored_bytes, out)))


def _nothing(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("none", 0, 0, 0, 0)


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("linear",), _linear),
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm"), _norm),
    "softmax": _softmax,
    "upsample_nearest2d": _resample,
    **dict.fromkeys(("argmax", "sum", "mean", "amax", "linalg_vector_norm", "avg_pool2d"), _reduce),
    **dict.fromkeys(("index", "index_select", "gather"), _gather),
    "embedding": _embedding,
    "masked_fill": _masked_fill,
    **dict.fromkeys(
        (
            "cat",
            "clone",
            "contiguous",
            "reshape",
            "to",
            "roll",
            "repeat_interleave",
            "pixel_shuffle",
            "triu",
        ),
        _copy,
    ),
    "copy_": _copy_into,
    **dict.fromkeys(
        ("zeros", "zeros_like", "new_zeros", "ones", "full", "arange", "randint", "randn", "fill_", "zero_"), _fill
    ),
    **dict.fromkeys(("exponential_", "normal_", "uniform_", "random_"), _fill),
    **dict.fromkeys(("empty", "empty_like", "new_empty", "empty_strided"), _nothing),
}
