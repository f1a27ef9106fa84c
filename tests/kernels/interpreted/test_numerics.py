"""Every Triton kernel, run by Triton's interpreter on a CPU, against its reference in float64.

The bar is that of FlashAttention's tests: at most twice the error of torch's own operators in the same precision,
plus what rounding the result once may cost. bfloat16 products are wrong in the interpreter, so kernels widen
them there: storage is tested, the product is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.kernels.case import copied
from tests.kernels.all_cases import FIRST, SMALL, operator, small

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _outputs(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result or ())


def _as(args: tuple[Any, ...], dtype: torch.dtype | None = None) -> tuple[Any, ...]:
    """Fresh arguments of the same strides, floating-point ones in another dtype if given."""
    return tuple(copied(x, dtype) if isinstance(x, Tensor) else x for x in args)


def _cases() -> Iterator[Any]:
    """All in float32; of the types that differ in storage alone the first two of a kernel, the others slowly."""
    for (name, case), dtype in product(SMALL, DTYPES):
        quick = dtype == "float32" or (name, case) in FIRST
        yield pytest.param(name, case, dtype, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "case", "dtype"), list(_cases()))
def test_kernel_is_as_exact_as_torch(name: str, case: str, dtype: str) -> None:
    known, args = operator(name), small(name, case, DTYPES[dtype])
    exact = _outputs(known.reference(*_as(args, torch.float64)))
    eager = _outputs(known.eager(*_as(args)))
    given = _as(args)
    found = _outputs(known.call(*given))
    again = _outputs(known.call(*_as(args)))
    for ours, theirs, truth, twice in zip(found, eager, exact, again, strict=True):
        assert ours.dtype == theirs.dtype and ours.isfinite().all()
        assert torch.equal(ours, twice), "two runs are equal to the bit"
        if not ours.is_floating_point():
            assert torch.equal(ours, truth.to(ours.dtype))
            continue
        rounding = torch.finfo(ours.dtype).eps * truth.abs().max().item()
        allowed = 2 * (theirs.double() - truth).abs().max().item() + rounding
        assert (ours.double() - truth).abs().max().item() <= allowed
