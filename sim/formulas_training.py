"""Formulas of the operators of training: those that torch takes composite ones apart into under autograd, and backward.

FLOPs equal torch's FlopCounterMode. An operator of several unlike kernels has them as `Work.parts`, each priced by its
family: a convolution backward is one convolution to the data, one product over all pixels to the weight, one sum to the
bias. Backward to the data takes the gradient for its input.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod
from typing import Any

from torch import Tensor

from minimodels.kernels.layout import LAST
from minimodels.kernels.work import Conv, Formula, Work, is_direct, size_bytes
from minimodels.sim import formulas_matrix as matrix
from minimodels.sim import formulas_memory as memory
from minimodels.sim.traffic import tensors_in, traffic

# torch/native/cuda/MultiTensorApply.cuh: tensors and blocks of one launch with four lists, elements of a block
TENSORS, BLOCKS, CHUNK = 36, 320, 65536


def together(kernel: Any, parts: list[Work], workspace: int = 0) -> Work:
    """The work of kernels that run one after another as one operator."""
    return Work(
        kernel, sum(part.flops or 0 for part in parts), sum(part.bytes_read for part in parts),
        sum(part.bytes_written for part in parts), sum(part.launches for part in parts), workspace=workspace,
        parts=tuple(parts),
    )  # fmt: skip


def convolution(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    x, weight, bias, stride, padding, dilation, transposed, added, groups = args
    if transposed:
        return matrix.transposed_convolution((x, weight, bias, stride, padding, added, groups, dilation), {}, out)
    return matrix.convolution((x, weight, bias, stride, padding, dilation, groups), {}, out)


def convolution_backward(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Backward of a convolution of x: to the data, to the weight, to the bias, each where `wanted` says so."""
    grad, x, weight = args[:3]
    transposed, groups, wanted = args[7], args[9], args[10]
    if transposed:
        return Work("other", None, *traffic(args, kwargs, out))
    filters, window = weight.shape[0] // groups, prod(weight.shape[2:])
    channels, pixels = weight.shape[1], grad.shape[0] * prod(grad.shape[2:])
    flops = 2 * groups * pixels * filters * channels * window
    sizes = size_bytes(x), size_bytes(weight), size_bytes(grad)
    last = x.dim() in LAST and x.is_contiguous(memory_format=LAST[x.dim()])
    parts = []
    if wanted[0]:
        strides = prod(args[4])  # a pixel of x meets a part of the window
        gemm = groups, x.shape[0] * prod(x.shape[2:]), channels, ceil(filters * window / strides)
        conv = Conv(filters, sizes[2], sizes[1], sizes[0], last, False, True, is_direct(weight.shape[2:], *args[4:7:2]))
        parts.append(Work("conv", flops, sizes[2] + sizes[1], sizes[0], 1, gemm, conv=conv))
    if wanted[1]:
        if not last:
            parts += [Work("copy", 0, size, size, strided=True) for size in (sizes[0], sizes[2])]
        gemm = groups, channels * window, filters, pixels
        parts.append(Work("conv", flops, sizes[0] + sizes[2], sizes[1], 1, gemm))
    if wanted[2]:
        parts.append(Work("norm", 0, sizes[2], filters * groups * grad.element_size()))
    return together("conv", parts, 0 if last else sizes[0] + sizes[2])


def group_norm(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    x, weight, bias, groups = *args[:3], args[6]
    return _told_statistics(memory.norm((x, groups, weight, bias), {}, out), out)


def _told_statistics(work: Work, out: tuple[Tensor, ...]) -> Work:
    """The work of a norm whose statistics are results, not held inside."""
    return replace(work, workspace=max(0, work.workspace - sum(map(size_bytes, out[1:]))))


def group_norm_backward(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Sums over the pixels of every channel, factors of every group, a pass that applies them.

    Source: torch/native/cuda/group_norm_kernel.cu, GroupNormBackwardKernelImplInternal.
    """
    grad, x = size_bytes(args[0]), size_bytes(args[1])
    rows = args[5] * args[6] * 4  # float32, one per sample and channel
    parts = [
        Work("norm", 0, grad + x, 2 * rows),
        Work("elementwise", 0, 2 * rows, 2 * rows),
        Work("elementwise", 0, grad + x, size_bytes(out[0])),
        Work("norm", 0, 2 * rows, sum(map(size_bytes, out[1:]))),
    ]
    return together("norm", parts, 4 * rows)


def layer_norm(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    x, shape, weight, bias = args[:4]
    return _told_statistics(memory.norm((x, shape, weight, bias), {}, out), out)


def layer_norm_backward(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """One kernel to the data, one to weight and bias; both read gradient and input.

    Source: torch/native/cuda/layer_norm_kernel.cu, LayerNormBackwardKernelImplInternal.
    """
    moved = size_bytes(args[0]) + size_bytes(args[1])
    data = Work("norm", 0, moved, size_bytes(out[0]))
    return together("norm", [data, Work("norm", 0, moved, sum(map(size_bytes, out[1:])))])


def softmax_backward(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("softmax", 0, *traffic(args, kwargs, out))


def attention(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """A fused kernel that also writes the logarithm of every row's sum."""
    work = matrix.attention(args[:3], {}, out[:1])
    bias = [x for x in tensors_in(args[3:4])]
    return replace(
        work,
        bytes_read=work.bytes_read + sum(map(size_bytes, bias)),
        bytes_written=work.bytes_written + size_bytes(out[1]),
    )


def attention_backward(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Five products where the forward pass has two: the scores are computed anew.

    Source: Dao 2023 (FlashAttention-2), arXiv 2307.08691, algorithm 2.
    """
    q, k, v = args[1:4]
    read, written = traffic(args, kwargs, out)
    pairs = prod(q.shape[:-1]) * k.shape[-2]
    return Work("attention", 2 * pairs * (3 * q.shape[-1] + 2 * v.shape[-1]), read, written)


def mean_squares(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Squares of differences, then their mean."""
    read, written = traffic(args, kwargs, out)
    return together("norm", [Work("elementwise", 0, read, read // 2), Work("norm", 0, read // 2, written)], read // 2)


def streamed(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return Work("elementwise", 0, *traffic(args, kwargs, out))


def into_zeros(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """The gradient of a part: zeros for the whole, then the part copied in."""
    part, whole = size_bytes(args[0]), size_bytes(out[0])
    return Work("copy", 0, part, whole + part, 2)


def embedding_backward(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Zeros for every row, indices sorted with their positions, the rows of equal indices added up."""
    grad, index = size_bytes(args[0]), size_bytes(args[1])
    parts = [Work("elementwise", 0, 0, size_bytes(out[0])), Work("gather", 0, 2 * index, 4 * index, 3)]
    return together("gather", [*parts, Work("gather", 0, grad + 2 * index, grad)], 4 * index)


def nll_backward(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Zeros, and one entry of each row."""
    rows = size_bytes(args[2])
    return Work("gather", 0, rows, size_bytes(out[0]) + rows, 2)


def fused_adamw(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Weights, gradients and both moments are read; all but the gradients are written."""
    weights, grads, first, second = args[:4]
    kept = sum(map(size_bytes, (*weights, *first, *second)))
    chunks = sum(ceil(x.numel() / CHUNK) for x in weights)
    launches = max(ceil(len(weights) / TENSORS), ceil(chunks / BLOCKS))
    return Work("elementwise", 0, kept + sum(map(size_bytes, grads)), kept, launches)


def counted_up(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """A number added to every tensor of a list, in place."""
    moved = sum(map(size_bytes, args[0]))
    return Work("elementwise", 0, moved, moved, ceil(len(args[0]) / TENSORS))


FUSED = ("flash", "efficient", "cudnn")  # torch's attention kernels that have a backward pass

TRAINING: dict[str, Formula] = {
    "convolution": convolution,
    "convolution_backward": convolution_backward,
    "native_group_norm": group_norm,
    "native_group_norm_backward": group_norm_backward,
    "native_layer_norm": layer_norm,
    "native_layer_norm_backward": layer_norm_backward,
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), memory.softmax),
    **dict.fromkeys(("_softmax_backward_data", "_log_softmax_backward_data"), softmax_backward),
    **{f"_scaled_dot_product_{name}_attention": attention for name in FUSED},
    **{f"_scaled_dot_product_{name}_attention_backward": attention_backward for name in FUSED},
    "mse_loss": mean_squares,
    "mse_loss_backward": streamed,
    "nll_loss_forward": memory.gather,
    "nll_loss_backward": nll_backward,
    **dict.fromkeys(("upsample_nearest2d_backward", "avg_pool2d_backward"), memory.resample_any),
    **dict.fromkeys(("slice_backward", "select_backward"), into_zeros),
    "embedding_dense_backward": embedding_backward,
    "_to_copy": memory.copy,
    "ones_like": memory.fill,
    "_foreach_add_": counted_up,
    "_fused_adamw_": fused_adamw,
}
