"""What each operator does: FLOPs, bytes read and written, kernels launched. One formula per operator.

The formulas stand in `formulas_matrix`, `formulas_memory`, `formulas_others` and, of what only training runs,
`formulas_training`, their table here. FLOPs are 2 x multiply-accumulates of matrix products, convolutions and
attention; an operator that only moves, adds or normalises counts zero, as in torch's FlopCounterMode. Copies that torch
makes inside an operator (non-contiguous input) are part of its bytes, launches and workspace. An operator without a
formula gets `flops=None`: it is listed as unmodelled, never silently zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.backend import choice
from minimodels.kernels.layout import format_of
from minimodels.kernels.scope import AttentionCall
from minimodels.kernels.work import OURS, Formula, Work
from minimodels.sim import formulas_matrix as matrix
from minimodels.sim import formulas_memory as memory
from minimodels.sim.formulas_others import OTHERS
from minimodels.sim.formulas_training import TRAINING
from minimodels.sim.traffic import convolved_format, traffic

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
GROUP_NORM = torch.ops.aten.group_norm.default
CONVOLUTIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default, torch.ops.aten.conv_transpose2d.input)


def run(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], core: AttentionCall | None) -> Any:
    """What `func` returns on `meta`, laid out as the kernel lays it out.

    On `meta` torch takes its math path for attention, whose result is contiguous. The fused kernels keep the
    layout of q, `efficient` puts heads next to head_dim: what follows needs no copy.
    Source: torch/_meta_registrations.py, the kernels' own shape rules. A group norm takes torch 5 ms of small
    operators there; on a GPU it is contiguous, whatever it is given, on a CPU it keeps channels-last. Source:
    torch/native/group_norm.cpp. A convolution is channels-last where its weight alone is, too: not so on `meta`.
    """
    if func is GROUP_NORM:
        keeps = choice().target == "cpu"
        return torch.empty_like(args[0], memory_format=format_of(args[0]) if keeps else torch.contiguous_format)
    if func in CONVOLUTIONS:
        return torch.empty_like(func(*args, **kwargs), memory_format=convolved_format(args[0], args[1]))
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
        return matrix.math_attention(args, kwargs, out)
    if name in OURS:
        return OURS[name](args, kwargs, out)
    if name in FORMULAS:
        return FORMULAS[name](args, kwargs, out)
    if torch.Tag.pointwise in func.tags:
        return memory.pointwise(args, kwargs, out)
    return Work("other", None, *traffic(args, kwargs, out))


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
    "math": "Attention",
    "norm": "Norm",
    "softmax": "Elementwise",
    "elementwise": "Elementwise",
    "copy": "Memory",
    "gather": "Memory",
    "other": "Other",
}


FORMULAS: dict[str, Formula] = {
    "linear": matrix.linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), matrix.matmul),
    **dict.fromkeys(("addmm", "baddbmm"), matrix.addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), matrix.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), matrix.transposed_convolution),
    "scaled_dot_product_attention": matrix.attention,
    "cdist": matrix.cdist,
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm"), memory.norm),
    "softmax": memory.softmax,
    **dict.fromkeys(("sum", "mean", "std", "var", "var_mean", "std_mean", "linalg_vector_norm"), memory.reduce),
    **dict.fromkeys(("max", "min", "amax", "amin", "aminmax", "argmax", "argmin"), memory.reduce),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), memory.reduce),
    "cumsum": memory.scan,
    **dict.fromkeys(("where", "masked_fill_", "outer", "__and__", "__or__"), memory.pointwise),
    "masked_fill": memory.masked_fill,
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"), memory.resample),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), memory.resample_any),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), memory.resample_any),
    **dict.fromkeys(("index", "index_select", "gather"), memory.gather),
    "embedding": memory.embedding,
    "sort": memory.sort,
    "topk": memory.topk,
    "argsort": memory.argsort,
    "quantile": memory.quantile,
    **dict.fromkeys(("scatter", "scatter_"), memory.scatter),
    **dict.fromkeys(("index_fill", "index_fill_"), memory.index_fill),
    "one_hot": memory.one_hot,
    **dict.fromkeys(("pad", "constant_pad_nd"), memory.pad),
    **dict.fromkeys(("cat", "stack", "clone", "contiguous", "reshape", "to", "repeat", "tile"), memory.copy),
    **dict.fromkeys(("roll", "flip", "repeat_interleave", "triu", "tril"), memory.copy),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), memory.copy),
    "copy_": memory.copy_into,
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros", "ones", "full", "arange", "linspace"), memory.fill),
    **dict.fromkeys(("randint", "rand", "randn", "fill_", "zero_", "scalar_tensor"), memory.fill),
    **dict.fromkeys(("exponential_", "normal_", "uniform_", "random_"), memory.fill),
    **OTHERS,
    **dict.fromkeys(("empty", "empty_like", "new_empty", "empty_strided", "promote_types", "detach_"), memory.nothing),
    **TRAINING,
}
