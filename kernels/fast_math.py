"""Functions in one or two instructions of the special function unit, for kernels that issue binds before memory.

Triton's own exp and division guard against denormal numbers, with two or three instructions more each; its logarithm
is a polynomial. They are as exact as those to two units in the last place; denormal results are 0. The interpreter,
which has no libdevice, takes Triton's.
"""

from __future__ import annotations

from minimodels.kernels.backend import INTERPRETED
from minimodels.kernels.launch import jit, tl

if tl is not None:
    from triton.language.extra import libdevice

    PLAIN = tl.constexpr(INTERPRETED)


@jit
def exp(x):
    """e to the power of x."""
    return tl.exp(x) if PLAIN else libdevice.fast_expf(x)


@jit
def silu(x):
    """x / (1 + exp(-x))."""
    if PLAIN:
        result = x / (1.0 + tl.exp(-x))
    else:
        result = libdevice.fast_dividef(x, 1.0 + libdevice.fast_expf(-x))
    return result
