"""GPUs as data: one TOML file per device in `sim/devices`, numbers with their sources.

`Datasheet` holds the vendor's numbers, `Constants` those of the cost model, fitted to measurements
(`provenance = "calibrated"`, with the measurement named) or carried over from a relative
(`provenance = "datasheet"`). A file with `constants_from = "NAME"` has the constants of that device, those it states
itself excepted.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from minimodels.config import Strict
from minimodels.sim.files import read

Family = Literal["gemm", "conv", "attention", "norm", "softmax", "elementwise", "floor"]
Fraction = Annotated[float, Field(gt=0, le=1)]
HALF = ("float16", "bfloat16")
CLOCKED = ("flops", "compute_units", "clock")  # of a datasheet, what a unit does per clock comes from
SATURATED = 0.5  # of its compute units, a block of a product each, saturate a GPU's memory; set with the GEMM tables


class Datasheet(Strict):
    """The vendor's numbers: bytes per second, FLOP/s (dense), hertz, watts; memory is what programs get."""

    memory_bytes: PositiveInt = Field(description="bytes that torch reports where anyone published it")
    bandwidth: PositiveFloat
    compute_units: PositiveInt
    clock: PositiveFloat
    l2_bytes: PositiveInt
    power: PositiveFloat
    link: PositiveFloat | None = Field(default=None, description="bytes/s each way to GPUs of its node, on NVLink")
    exps: PositiveInt = Field(default=16, description="exponentials per clock and compute unit; 16 on every GPU here")
    flops: dict[Literal["float32", "tf32", "float16", "bfloat16", "float8", "float4"], PositiveFloat]


class AttentionKernel(Strict):
    """A fused attention kernel on this device."""

    floor: PositiveFloat = Field(description="seconds of an empty kernel")
    efficiency: Fraction = Field(description="of the tensor peak, its products on whole tiles, exponentials apart")
    prologue: NonNegativeFloat = Field(description="seconds that filling the pipeline of a tile of queries takes")
    error: NonNegativeFloat | None = Field(
        default=None, description="median on rows kept out of the fit; null: not fitted"
    )


class Constants(Strict):
    """The cost model's numbers for this device: seconds, or fractions of a datasheet rate.

    A floor is what an empty kernel takes, the gap before it left out.
    """

    provenance: Literal["calibrated", "datasheet"]
    source: str = Field(description="the measurement fitted to, or the relative the numbers were taken from")
    calibrated: tuple[Family, ...] = Field(
        strict=False, description="families whose numbers were fitted on this device"
    )
    errors: dict[Family, float] = Field(description="median error on rows kept out of the fit, as a share")
    kernel_gap: PositiveFloat = Field(description="seconds between two kernels that are both queued")
    gemm_floor: PositiveFloat = Field(description="seconds of an empty matrix product or convolution")
    gemm_efficiency: Fraction = Field(description="of the tensor peak, a whole tile of a matrix product")
    gemm_sustained: Fraction = Field(description="of the tensor peak, what the power limit sustains")
    gemm_bandwidth: Fraction = Field(description="of the bandwidth, matrix products that stream weights")
    block_bandwidth: PositiveFloat | None = Field(
        default=None, description="bytes/s that a thread block alone reads from memory; null: by `SATURATED`"
    )
    l2_rate: PositiveFloat = Field(description="bytes per clock that a compute unit loads from the L2 cache")
    conv_floor: PositiveFloat = Field(description="seconds of an empty convolution")
    conv_bandwidth: Fraction = Field(description="of the bandwidth, convolutions")
    conv_efficiency: Fraction = Field(description="of the tensor peak, a whole tile of a convolution")
    memory_floor: PositiveFloat = Field(description="seconds of an empty elementwise kernel")
    memory_bandwidth: Fraction = Field(description="of the bandwidth, large elementwise, copy and gather kernels")
    norm_bandwidth: Fraction = Field(description="of the bandwidth, large norms over rows")
    softmax_bandwidth: Fraction = Field(description="of the bandwidth, large softmax kernels")
    host_per_op: PositiveFloat = Field(description="host seconds per operator, eager: Python, views and dispatch")
    host_per_launch: PositiveFloat = Field(description="host seconds per kernel launched, eager or compiled")
    attention: dict[str, AttentionKernel] = Field(description="by backend; flash always, others where measured")


class Device(Strict):
    """One GPU: its name on the command line, its datasheet and its cost-model constants."""

    name: str
    title: str
    vendor: Literal["nvidia", "amd", "google", "intel"]
    arch: str = Field(description="sm80, sm89, sm90, sm100, gfx942")
    datasheet: Datasheet
    constants_from: str | None = Field(default=None, description="the relative whose constants are used")
    constants: Constants

    def with_constants(self, **values: Any) -> Device:
        """The same GPU with other constants of the cost model."""
        return self.model_copy(update={"constants": self.constants.model_copy(update=values)})

    def peak_flops(self, dtype: str) -> float:
        """Dense FLOP/s for matrix products in `dtype` ("float32", "bfloat16", "float16")."""
        return self.datasheet.flops[dtype]  # type: ignore[index]

    def per_clock(self) -> float:
        """FLOPs per clock of the tensor cores of a compute unit, in half precision."""
        sheet = self.datasheet
        return _per_clock(sheet.flops, sheet.compute_units, sheet.clock)

    def generation(self) -> str:
        """What its compute units are like: "nvidia sm8" for sm80, sm86 and sm89, the architecture of other vendors."""
        return f"{self.vendor} {self.arch[:-1] if self.vendor == 'nvidia' else self.arch}"

    def distant(self) -> bool:
        """Whether its constants come from a device of another generation."""
        if self.constants_from is None:
            return False
        relative = load(self.constants_from)
        return relative.distant() or relative.generation() != self.generation()


def names() -> list[str]:
    """The names of all devices, sorted."""
    folder = resources.files("minimodels.sim") / "devices"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


@cache
def load(name: str) -> Device:
    """The device called `name`, or that of a file NAME.toml, as `minibench calibrate` writes it.

    Raises:
        ValueError: there is no such device, with the nearest names, or the file is none of a device.
    """
    if name.endswith(".toml"):
        return _from_file(Path(name))
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise ValueError(f"unknown device {name!r}; did you mean {', '.join(near)}? `minibench devices` lists all")
    try:
        return _validated(_resolved(name), name)
    except ValidationError as error:
        raise AssertionError(f"device file {name}.toml: {error}") from error


def _from_file(path: Path) -> Device:
    try:
        file = tomllib.loads(read(path).decode("utf-8"))
        return _validated(_with_relative(file), path.stem)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path} is no device file: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except KeyError as error:
        raise ValueError(f"{path} is no device file: it lacks {error}") from None


def _validated(file: dict[str, Any], name: str) -> Device:
    """The device; what a block alone gets of its memory is its own from here on, whatever becomes of the datasheet."""
    device = Device.model_validate(file | {"name": name})
    if device.constants.block_bandwidth is not None:
        return device
    sheet = device.datasheet
    return device.with_constants(block_bandwidth=sheet.bandwidth / (SATURATED * sheet.compute_units))


def _resolved(name: str) -> dict[str, Any]:
    return _with_relative(
        tomllib.loads((resources.files("minimodels.sim") / "devices" / f"{name}.toml").read_text("utf-8"))
    )


def _with_relative(file: dict[str, Any]) -> dict[str, Any]:
    """The contents of a device file, with the constants that it takes from a relative."""
    relative = file.get("constants_from")
    if relative is None:
        return file
    own, other = file.get("constants", {}), _resolved(relative)
    ratio = 1.0
    if file["vendor"] == other["vendor"]:
        mine, theirs = ([sheet[key] for key in CLOCKED] for sheet in (file["datasheet"], other["datasheet"]))
        ratio = _per_clock(*mine) / _per_clock(*theirs)
    taken = _carried_over(other["constants"], ratio)
    plain = {"provenance": "datasheet", "calibrated": [], "source": f"Taken over from {relative}."}
    attention = {"attention": taken["attention"] | own.get("attention", {})}
    return file | {"constants": taken | plain | own | attention}


def _per_clock(flops: Mapping[Any, float], compute_units: int, clock: float) -> float:
    """FLOPs per clock of the tensor cores of a compute unit, in half precision."""
    return max(flops.get(name, 0) for name in HALF) / compute_units / clock


def _carried_over(constants: dict[str, Any], ratio: float) -> dict[str, Any]:
    """The constants on a GPU whose compute units do `ratio` times as much per clock as those they were fitted on.

    What a tile loses beside its products (loads, instructions, barriers) takes the same clocks there, and so another
    share of the time. Units of different vendors are not alike: there the shares stay.
    """

    names = ("gemm_efficiency", "gemm_sustained", "conv_efficiency")
    kernels = {
        name: {key: value for key, value in kernel.items() if key != "error"}
        | {"efficiency": carried(kernel["efficiency"], ratio)}
        for name, kernel in constants["attention"].items()
    }
    return constants | {name: carried(constants[name], ratio) for name in names} | {"attention": kernels}


def carried(efficiency: float, ratio: float) -> float:
    """The efficiency of a tile where a compute unit does `ratio` times as much per clock."""
    return 1 / (1 + (1 / efficiency - 1) * ratio)
