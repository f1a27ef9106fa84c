"""What the attention kernels are written with: tiles read from memory, and products of tiles.

A head of 40, 80 or 160 features is two tiles whose widths are powers of two (32 + 16, 64 + 16, 128 + 32): padded to one
tile it would be multiplied as 64, 128 or 256. `parts` says which.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from minimodels.kernels.launch import jit, power_of_2, tl

UNIT = 8  # elements: what strides are multiples of, so that rows of 40 features too are read 16 bytes at once
LOG2_E = 1.4426950408889634  # the kernels' exponentials are powers of two


@jit
def load(base, row, column, rows, columns, stride, present):
    """Rows of a tile (..., rows, columns): zero where a row or a column does not exist."""
    return tl.load(base + row * stride + column, mask=present & (row < rows) & (column < columns), other=0.0)


@jit
def tile(base, row, rows, stride, FIRST: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr,
         CHECK: tl.constexpr):  # fmt: skip
    """Features FIRST to FIRST + WIDTH of a column of rows: (len(row), WIDTH), zero beyond the head.

    CHECK: rows from `rows` on do not exist, and are zero.
    """
    column = FIRST + tl.arange(0, WIDTH)[None, :]
    at = base + row[:, None] * stride + column
    if CHECK:
        if FIRST + WIDTH > HEAD_DIM:
            values = tl.load(at, mask=(row < rows)[:, None] & (column < HEAD_DIM), other=0.0)
        else:
            values = tl.load(at, mask=(row < rows)[:, None], other=0.0)
    elif FIRST + WIDTH > HEAD_DIM:
        values = tl.load(at, mask=column < HEAD_DIM, other=0.0)
    else:
        values = tl.load(at)
    return values


@jit
def put(base, values, row, rows, stride, FIRST: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Write a tile back: the counterpart of `tile` with CHECK."""
    column = FIRST + tl.arange(0, WIDTH)[None, :]
    at = base + row[:, None] * stride + column
    tl.store(at, values.to(base.dtype.element_ty), mask=(row < rows)[:, None] & (column < HEAD_DIM))


@jit
def product(a, b, UPCAST: tl.constexpr):
    """a @ b in float32; UPCAST: the interpreter cannot multiply bfloat16."""
    if UPCAST:
        result = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        result = tl.dot(a, b, input_precision="ieee")
    return result


@jit
def add_product(total, a, b, UPCAST: tl.constexpr):
    """total + a @ b in float32."""
    if UPCAST:
        result = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        result = tl.dot(a, b, total, input_precision="ieee")
    return result


def parts(head_dim: int) -> tuple[int, int]:
    """The widths of the one or two tiles, powers of two from 16 on, that hold a head; the second is 0 for one."""
    whole = power_of_2(head_dim, 16)
    main = whole // 2
    rest = power_of_2(head_dim - main, 16)
    return (main, rest) if main >= 16 and main + rest < whole else (whole, 0)


def in_units(*tensors: Tensor, dims: int) -> tuple[int, Sequence[int]]:
    """The first `dims` strides of each tensor, one after the other, in units, and the unit: `UNIT` or 1 element."""
    strides = [stride for x in tensors for stride in x.stride()[:dims]]
    unit = UNIT if all(stride % UNIT == 0 for stride in strides) else 1
    return unit, [stride // unit for stride in strides]
