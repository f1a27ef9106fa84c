"""What one execution of an operator does: FLOPs, bytes, launches. Formulas of our own operators return it.

Imports no torch, so that what only lists devices or profiles does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Kernel = Literal[
    "none",  # a view or a factory that launches nothing
    "gemm",  # dense matrix products, `gemm` holds (batch, m, n, k)
    "conv",  # convolutions as implicit GEMM, `gemm` holds (groups, m, n, k)
    "attention",  # a fused attention kernel
    "math",  # torch's unfused attention: products and passes over the scores, `gemm` holds (batch x heads, n, m, d)
    "norm",  # reductions over rows: LayerNorm, RMSNorm, GroupNorm
    "softmax",
    "elementwise",  # reads and writes each element once
    "copy",  # moves data and computes nothing
    "gather",  # embedding, index
    "other",  # no formula: bytes only
]


class Conv(NamedTuple):
    """What the (pixels, channels, taps) of a convolution do not say: tensors in bytes, how they lie, what is added."""

    channels: int  # of the input, per group
    input: int
    weight: int
    output: int
    channels_last: bool
    bias: bool
    backward: bool = False  # to the data, whose gradient is the output
    direct: bool = False  # no 3x3 window in two dimensions with stride 1, undilated: `is_direct`


@dataclass(frozen=True, slots=True)
class Work:
    """What one execution of an operator does; `flops` is None where no formula exists."""

    kernel: Kernel
    flops: int | None
    bytes_read: int
    bytes_written: int
    launches: int = 1
    gemm: tuple[int, int, int, int] | None = None
    workspace: int = 0  # bytes allocated and freed inside the operator
    conv: Conv | None = None
    strided: bool = False  # element by element, since layouts differ or one is broadcast
    turned: int = 0  # elements that are read across the lines in which they are written
    blocks: int | None = None  # thread blocks of a reduction that has no more, such as one per group
    parts: tuple[Work, ...] = ()  # kernels of several families that run one after another, each priced by its own

    def product_type(self, dtype: str) -> str:
        """The type that a GPU multiplies in: convolutions, ours and by default torch's, take float32 as TF32."""
        return "tf32" if self.kernel == "conv" and dtype == "float32" else dtype


def is_direct(window: Sequence[int], *steps: int | Sequence[int]) -> bool:
    """Whether Winograd's algorithm for 3x3 windows cannot be used: for others, or with a stride or dilation."""
    apart = [size for step in steps for size in ((step,) if isinstance(step, int) else step)]
    return tuple(window) != (3, 3) or any(size != 1 for size in apart)


Formula = Callable[[tuple[Any, ...], dict[str, Any], "tuple[Tensor, ...]"], Work]
"""(positional arguments, keyword arguments, result tensors) -> Work."""

OURS: dict[str, Formula] = {}
"""Formulas of our own operators by name, "minimodels::name"; `kernels.operator.define` fills it."""


def stored_bytes(x: Tensor) -> int:
    """Bytes of the distinct elements of x: dimensions of stride 0 are stored once."""
    sizes = (size for size, stride in zip(x.shape, x.stride(), strict=True) if stride != 0)
    return prod(sizes) * x.element_size()


def size_bytes(x: Tensor) -> int:
    """Bytes of all elements of x."""
    return x.numel() * x.element_size()
