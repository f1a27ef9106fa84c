"""Rows of a truth table that measure the memory of a whole pipeline.

Phase `peak memory`, in GiB, GB, MiB or bytes: the most that torch's allocator held during one inference with all parts
on the GPU, the runtime's context left out. `model` is the name of a config; the settings may hold the image's size as
"1024x1024". The attention is torch's choice for the GPU.
"""

from __future__ import annotations

import re
from functools import cache

from minimodels.sim.truth_kernels import Unpredicted, precision
from minimodels.sim.truth_models import Measured

PHASE = "peak memory"
BYTES = {"B": 1, "MiB": 1 << 20, "GB": 10**9, "GiB": 1 << 30}  # per unit


def family(model: str, phase: str) -> str | None:
    """The family of a row about memory, None if it is none or of a model without a config."""
    from minimodels import loader

    return f"{PHASE} {model}" if phase == PHASE and model in loader.names() else None


def predicted(row: Measured, device: str) -> float:
    """The peak of a row on a device, in the row's unit.

    Raises:
        Unpredicted: its unit, dtype or size is not one that the model runs at.
    """
    if row.unit not in BYTES:
        raise Unpredicted(f"unit {row.unit!r} is not predicted for {PHASE}")
    size = re.search(r"\b(\d{2,4})x\1\b", row.settings)
    overrides = () if size is None else (f"run.image_size={size[1]}",)
    return _peak(row.model, overrides, device, precision(row.dtype) or row.dtype, row.batch or 1) / BYTES[row.unit]


@cache
def _peak(model: str, overrides: tuple[str, ...], device: str, dtype: str, batch: int) -> int:
    """Peak bytes of one inference, weights included."""
    from minimodels import loader
    from minimodels.options import parse
    from minimodels.run import Run
    from minimodels.sim.capacity import needed

    try:
        config = loader.load(model, overrides)
        return needed(config, parse(Run, {"device": device, "batch": batch, "dtype": dtype}))
    except ValueError as error:
        raise Unpredicted(str(error)) from None
