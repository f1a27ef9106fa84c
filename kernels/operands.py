"""What operators of ours other than attention ask of their tensors: shapes, and that they lie as kernels read them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def require(condition: object, said: str) -> None:
    """Raise a ValueError that says `said` unless the condition holds."""
    if not condition:
        raise ValueError(said)


def vector(name: str, x: Tensor | None, length: int) -> None:
    """One number a channel or feature, side by side: (length,), or nothing.

    Raises:
        ValueError: it is of another shape, or its elements are apart.
    """
    rows(name, x, (length,))


def rows(name: str, x: Tensor | None, shape: Sequence[int]) -> None:
    """A contiguous tensor of a shape, or nothing.

    Raises:
        ValueError: it is of another shape, or its elements are apart.
    """
    if x is None:
        return
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} is {tuple(shape)}, not {tuple(x.shape)}")
    if not x.is_contiguous():
        raise ValueError(f"{name} is contiguous, not of strides {x.stride()}: make it so with {name}.contiguous()")


def alike(**tensors: Tensor | None) -> None:
    """Tensors of one dtype, those that are given.

    Raises:
        ValueError: they have several; the message names each.
    """
    found = {name: x.dtype for name, x in tensors.items() if x is not None}
    if len(set(found.values())) > 1:
        given = ", ".join(f"{name} {dtype}" for name, dtype in found.items())
        raise ValueError(f"tensors of one dtype, not {given}")


def both(name: str, x: Tensor | None, other: str, y: Tensor | None) -> None:
    """Two tensors that come together.

    Raises:
        ValueError: only one of them is given.
    """
    if (x is None) != (y is None):
        raise ValueError(f"{name} and {other} come together: {other if y is None else name} is missing")
