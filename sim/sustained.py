"""What the tensor cores of Volta and Turing sustain, from whole pipelines.

Of these GPUs there is no table of products or attention, and their clock under their power limit is not on a datasheet.
One share, by which their relative's rates are multiplied, is fitted to Stable Diffusion 1.5, compiled, at one batch;
rates that a table of kernels gave stay as they are. How the rates of different kernels compare is taken over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from minimodels.sim import device as devices
from minimodels.sim import truth_models as models
from minimodels.sim.device import Constants, Device
from minimodels.sim.fit import Vector, minimise
from minimodels.sim.truth_gpus import device_of
from minimodels.sim.validate import Row

FEWEST = 3  # rows
STEPS = 40  # of the simplex
RATES = {"gemm_efficiency": "gemm", "gemm_sustained": "gemm", "conv_efficiency": "conv"}
KERNEL = "efficient"  # the attention kernel that runs there: FlashAttention wants Ampere


def pipelines(rows: Iterable[Row], device: Device) -> list[tuple[models.Iteration, float]]:
    """What the rows of a device measured that its rates are fitted to, and the seconds of each; nothing if too few."""
    if device.arch not in models.WITHOUT_FLASH:
        return []
    name = device.name
    found = _iterations((row for row in rows if device_of(row.gpu) == name and models.gives_rates(row)), name)
    return found if len(found) >= FEWEST else []


def others(rows: Iterable[Row], name: str) -> list[tuple[models.Iteration, float]]:
    """The same of its other pipelines, which nothing is fitted to."""
    return _iterations((row for row in rows if device_of(row.gpu) == name and not models.gives_rates(row)), name)


def _iterations(rows: Iterable[Row], name: str) -> list[tuple[models.Iteration, float]]:
    found, rates = [], devices.load(name).datasheet.flops
    for row in rows:
        if row.measured is None or row.reason or not row.claimed or row.phase != models.DENOISING:
            continue
        try:
            one = models.iteration(row)
        except models.Unpredicted:
            continue
        if one.dtype in rates:
            found.append((one, 1 / row.measured if row.unit == "it/s" else row.measured))
    return found


def logs(found: list[tuple[models.Iteration, float]], device: Device) -> list[float]:
    """log(predicted / measured) of the seconds of some iterations."""
    seconds = {one: models.seconds_of(one, device) for one in {one for one, _ in found}}
    return [math.log(seconds[one] / measured) for one, measured in found]


def unlimited(device: Device) -> Device:
    """The device as kernels meet it that are timed one by one, too short for its power limit."""
    assert device.constants_from is not None, device.name
    return device.with_constants(gemm_sustained=devices.load(device.constants_from).constants.gemm_sustained)


def fit(found: list[tuple[models.Iteration, float]], device: Device, digits: int) -> tuple[Device, tuple[str, ...]]:
    """The device with the rates that fit best, and the names of those constants that changed, attention's aside."""
    assert device.constants_from is not None, device.name
    relative, own = devices.load(device.constants_from).constants, device.constants
    names = tuple(name for name, family in RATES.items() if family not in own.calibrated)

    def at(share: float, digits: int = 12) -> Device:
        def scaled(value: float) -> float:
            return float(f"{min(1.0, share * value):.{digits}g}")

        kernel, kernels = relative.attention[KERNEL], own.attention
        if "attention" not in own.calibrated:
            update = {"efficiency": scaled(kernel.efficiency), "error": None}
            kernels = kernels | {KERNEL: kernel.model_copy(update=update)}
        rates = {name: scaled(getattr(relative, name)) for name in names}
        constants: Constants = own.model_copy(update=rates | {"attention": kernels})
        return device.model_copy(update={"constants": constants})

    def loss(point: Vector) -> float:
        return float(np.mean(np.abs(logs(found, at(float(np.exp(point[0])))))))

    best = minimise(loss, np.zeros(1), 0.25, STEPS)
    return at(float(np.exp(best[0])), digits), names
