"""Which rows of a truth table constants are fitted to, and which are kept out to report on.

The rule is a function of what a row measures: not of its value, its spelling or the table it stands in. Rows stay
together by what they have in common (`Kernel.key`): the (N, K) of a product, the heads and head dim of attention,
channels and window of a convolution, the size of a norm; a key is kept out if the first byte of the SHA-256 of
"family key" is even, or if there is none (products that Vidur timed one by one, and those of low precision). Whole GPUs
are kept out where one is named in `GPUS`. Of whole models `truth_models.fitted` says which rows give constants.
"""

from __future__ import annotations

from hashlib import sha256

GPUS = frozenset({"h200", "a100-80gb-pcie", "rtx-a5000"})  # known from relatives and datasheets alone


def held_out(family: str, key: str, device: str) -> bool:
    """Whether rows of a family with this key are kept out of the fit of a device."""
    return not key or device in GPUS or sha256(f"{family} {key}".encode()).digest()[0] % 2 == 0
