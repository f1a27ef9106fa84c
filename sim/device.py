"""GPUs as data: one TOML file per device in `sim/devices`, numbers with their sources.

`Datasheet` holds the vendor's numbers, `Constants` those of the cost model, fitted to measurements
(`provenance = "calibrated"`, with the measurement named) or carried over from a relative
(`provenance = "datasheet"`).
"""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from minimodels.config import Strict
from minimodels.kernels.work import Kernel

Fraction = Annotated[float, Field(gt=0, le=1)]


class Datasheet(Strict):
    """The vendor's numbers: bytes per second, FLOP/s (dense), hertz, watts; memory is what programs get."""

    memory_bytes: PositiveInt = Field(description="bytes that torch reports where anyone published it")
    bandwidth: PositiveFloat
    compute_units: PositiveInt
    clock: PositiveFloat
    l2_bytes: PositiveInt
    power: PositiveFloat
    flops: dict[Literal["float32", "tf32", "float16", "bfloat16", "float8"], PositiveFloat]


class Constants(Strict):
    """The cost model's numbers for this device: seconds, or fractions of a datasheet rate.

    A floor is what an empty kernel takes, the gap before it left out.
    """

    provenance: Literal["calibrated", "datasheet"]
    source: str = Field(description="the measurement fitted to, or the relative the numbers were taken from")
    calibrated: tuple[Kernel | Literal["memory_floor"], ...] = Field(
        strict=False,
        description="kinds of kernel whose numbers were fitted on this device, and memory_floor where it was",
    )
    kernel_gap: PositiveFloat = Field(description="seconds between two kernels that are both queued")
    gemm_floor: PositiveFloat = Field(description="seconds of an empty matrix product or convolution")
    gemm_efficiency: Fraction = Field(description="of the tensor peak, large matrix products")
    gemm_bandwidth: Fraction = Field(description="of the bandwidth, matrix products that stream weights")
    attention_floor: PositiveFloat = Field(description="seconds of an empty fused attention kernel")
    attention_efficiency: Fraction = Field(description="of the tensor peak, flash attention on whole tiles")
    cudnn_efficiency: Fraction = Field(description="of the tensor peak, cuDNN's fused attention on whole tiles")
    memory_floor: PositiveFloat = Field(description="seconds of an empty elementwise kernel")
    memory_bandwidth: Fraction = Field(description="of the bandwidth, large elementwise, norm, copy and gather kernels")
    softmax_bandwidth: Fraction = Field(description="of the bandwidth, large softmax kernels")
    host_per_op: PositiveFloat = Field(description="host seconds per operator, eager: Python, views and dispatch")
    host_per_launch: PositiveFloat = Field(description="host seconds per kernel launched, eager or compiled")


class Device(Strict):
    """One GPU: its name on the command line, its datasheet and its cost-model constants."""

    name: str
    title: str
    vendor: Literal["nvidia", "amd"]
    arch: str = Field(description="sm80, sm89, sm90, sm100, gfx942")
    datasheet: Datasheet
    constants: Constants

    def peak_flops(self, dtype: str) -> float:
        """Dense FLOP/s for matrix products in `dtype` ("float32", "bfloat16", "float16")."""
        return self.datasheet.flops[dtype]  # type: ignore[index]


def names() -> list[str]:
    """The names of all devices, sorted."""
    folder = resources.files("minimodels.sim") / "devices"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


@cache
def load(name: str) -> Device:
    """The device called `name`.

    Raises:
        ValueError: there is no such device; the message lists the nearest names.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise ValueError(f"unknown device {name!r}; did you mean {', '.join(near)}? `minibench devices` lists all")
    text = (resources.files("minimodels.sim") / "devices" / f"{name}.toml").read_text("utf-8")
    try:
        return Device.model_validate(tomllib.loads(text) | {"name": name})
    except ValidationError as error:
        raise AssertionError(f"device file {name}.toml: {error}") from error
