"""Formulas of operators that no model of ours calls and other people's do: einsum, batch norms, pools, and the like.

FLOPs are 2 x multiply-accumulates and equal torch's FlopCounterMode. A recurrent network has none here: it is listed
as unmodelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from minimodels.kernels.work import Formula, Work, size_bytes, stored_bytes
from minimodels.sim import formulas_memory as memory
from minimodels.sim.formulas_matrix import copy_bytes
from minimodels.sim.traffic import copying, one_dimension, traffic

Labels = dict[str, int]  # a letter and the size of its dimension, in the order of the dimensions


def einsum(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """einsum(equation, operands): from left to right one batched product for each further operand.

    Two operands are copied where their dimensions do not view as those of a batched product; of more, which torch
    contracts two by two, no copies are counted.
    """
    equation, operands = args[0].replace(" ", ""), args[1]
    inputs, _, result = equation.partition("->")
    named = [_labels(text, x) for text, x in zip(inputs.split(","), operands, strict=True)]
    kept = _spelled(result, out[0].dim()) if "->" in equation else _once(inputs)
    wanted = set(kept)
    read, written = sum(map(stored_bytes, operands)), sum(map(stored_bytes, out))
    left, flops, gemm = named[0], 0, None
    for place, right in enumerate(named[1:], 1):
        later = wanted.union(*named[place + 1 :])
        product = _product(left, right, later)
        if product[-1] > 1:  # nothing is summed over otherwise: a pass over the elements
            flops += 2 * prod(product)
            gemm = max(gemm or product, product, key=prod)
        left = {name: size for name, size in (left | right).items() if name in later}
    if gemm is None:
        return Work("elementwise" if len(named) > 1 else "copy", 0, read, written)
    work = Work("gemm", flops, read, written, len(named) - 1, gemm)
    return copying(work, *_copies(named, operands, kept)) if len(named) == 2 else work


def _copies(named: Sequence[Labels], operands: Sequence[Tensor], kept: Sequence[str]) -> list[int]:
    """Bytes of the copies that a batched product of two operands begins with, 0 where a view will do."""
    shared, copies = named[0].keys() & named[1].keys(), []
    for own, x in zip(named, operands, strict=True):
        letters = list(own)
        if len(letters) < x.dim() or own.keys() - shared - set(kept):  # a diagonal, or a sum of its own, comes first
            copies.append(0)
            continue
        alone = [name for name in kept if name in own and name not in shared]
        ordered = [name for name in kept if name in shared], alone, sorted(shared - set(kept))
        groups = [[letters.index(name) for name in some] for some in ordered]
        if all(one_dimension([x.shape[i] for i in some], [x.stride(i) for i in some]) for some in groups):
            shape = [prod(x.shape[i] for i in some) for some in groups]
            copies.append(copy_bytes(x.permute([i for some in groups for i in some]).view(shape)))
        else:
            copies.append(size_bytes(x))
    return copies


def _spelled(text: str, dims: int) -> list[str]:
    """The letters of one operand or result; "..." becomes as many numbered names as there are dimensions left."""
    before, dots, after = text.partition("...")
    if not dots:
        return list(text)
    hidden = dims - len(before) - len(after)
    return [*before, *(f".{number}" for number in range(hidden, 0, -1)), *after]


def _labels(text: str, x: Tensor) -> Labels:
    return dict(zip(_spelled(text, x.dim()), x.shape, strict=True))


def _once(inputs: str) -> list[str]:
    """What an equation without an arrow keeps: letters that occur once, in the order of the alphabet."""
    letters = inputs.replace(",", "").replace(".", "")
    return [f".{number}" for number in range(8, 0, -1)] + sorted(one for one in letters if letters.count(one) == 1)


def _product(left: Labels, right: Labels, later: set[str]) -> tuple[int, int, int, int]:
    """The product of two operands as (batch, m, n, k): `later` holds the letters that are still needed."""
    both = left.keys() & right.keys()
    size = {name: max(left.get(name, 1), right.get(name, 1)) for name in left | right}
    return (
        prod(size[name] for name in both & later),
        prod(left[name] for name in left.keys() - both if name in later),
        prod(right[name] for name in right.keys() - both if name in later),
        prod(size[name] for name in both - later),
    )


def batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """batch_norm(x, weight, bias, mean, variance, training, ...): x is read once more for its own statistics."""
    read, written = traffic(args, kwargs, out)
    training = args[5]
    return Work("norm", 0, read + (size_bytes(args[0]) if training else 0), written, 1 + bool(training))


def dropout(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """dropout(x, p, train): nothing outside training."""
    train = args[2]
    return memory.pointwise(args, kwargs, out) if train and args[1] else memory.nothing(args, kwargs, out)


POOLS = [f"{how}_pool{n}d" for how in ("max", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)]
OTHERS: dict[str, Formula] = {
    "einsum": einsum,
    "batch_norm": batch_norm,
    "instance_norm": memory.reduce,
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout"), dropout),
    **dict.fromkeys((*POOLS, *(f"max_pool{n}d_with_indices" for n in (1, 2, 3))), memory.reduce),
    **dict.fromkeys(("logsumexp", "prod", "any", "all", "norm"), memory.reduce),
    "log_softmax": memory.softmax,
    **dict.fromkeys(("cumprod", "logcumsumexp", "cummax", "cummin"), memory.scan),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), memory.resample_any),
    **dict.fromkeys(("im2col", "col2im", "channel_shuffle", "native_channel_shuffle"), memory.copy),
    **dict.fromkeys(("glu", "prelu", "hardswish"), memory.pointwise),
}
