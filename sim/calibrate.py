"""Fit the constants of a device to a table of measurements, without the device.

Per family, the constants that its rows decide are varied together to the smallest mean of |log(predicted / measured)|
over the rows that `split` does not keep out; from the rest come the errors that the device file states. Constants
without rows keep their values. Of a GPU of Volta or Turing, whole pipelines give the rates that
its kernels do not (`sustained`). The same table gives the same file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from minimodels.sim import sustained
from minimodels.sim import truth_models as models
from minimodels.sim.device import HALF, AttentionKernel, Constants, Device, Family
from minimodels.sim.fit import Vector, minimise
from minimodels.sim.split import held_out
from minimodels.sim.truth_kernels import SCALE, Kernel
from minimodels.sim.validate import RATES, Row, fittable, parse, seconds_of, shipped

STEPS = 160  # of the simplex
STARTS = (0.0, -0.3, 0.3)  # of its first corner, in log space, relative to `TYPICAL`
PULL = 0.01  # towards `TYPICAL`, per square of the logarithm: few rows do not decide every constant
PULL_FLOOR = 0.1  # the same for the floor of attention, which tables of long sequences say little about
MOST_BANDWIDTH = 0.93  # of the datasheet's: refresh and turning from reads to writes take the rest
TYPICAL = {
    "memory_floor": 1.5e-6, "memory_bandwidth": 0.82, "softmax_bandwidth": 0.5, "norm_bandwidth": 0.8,
    "gemm_floor": 4e-6, "gemm_efficiency": 0.9, "gemm_bandwidth": 0.82, "l2_rate": 50.0,
    "conv_floor": 4e-6, "conv_efficiency": 0.8, "conv_bandwidth": 0.7,
    "floor": 8e-6, "efficiency": 0.65, "prologue": 1.5e-6,
}  # fmt: skip
FEWEST = 8  # rows that a family must have to be fitted
DIGITS = 3  # significant digits of a fitted constant
ATTENTION = ("floor", "efficiency", "prologue")


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit of one family did: rows fitted to and kept out, and their median errors before and after."""

    family: str
    names: tuple[str, ...]
    rows: int
    kept: int
    before: float
    after: float
    fit: float


@dataclass(frozen=True, slots=True)
class _Part:
    """Some constants, and the rows that decide them."""

    family: Family
    label: str
    names: tuple[str, ...]
    takes: Callable[[Kernel], bool]
    write: Callable[[Constants, dict[str, float]], Constants]


def calibrate(text: str, device: Device, origin: str = "truth table") -> tuple[Device, list[Fitted]]:
    """The device with the constants that fit a truth table best, and what was fitted.

    Raises:
        ValueError: the table is none, or has no row that a constant of this device can be fitted to.
    """
    table = list(parse(text, origin))
    rows = [(row, one) for row, one, name in fittable(table) if name == device.name]
    kept_out = device.name if text == shipped() else ""  # whole GPUs are kept out of the shipped table alone
    found = sustained.pipelines(table, device)
    if found:
        device = sustained.unlimited(device)
    done: list[Fitted] = []
    calibrated: dict[Family, float] = {}
    for part in _parts(rows):
        members = [(row, one) for row, one in rows if part.takes(one)]
        chosen = [not held_out(one.family, one.key, kept_out) for _, one in members]
        fit = [member for member, taken in zip(members, chosen, strict=True) if taken]
        kept = [member for member, taken in zip(members, chosen, strict=True) if not taken]
        if len(fit) < FEWEST:
            continue
        before = _error(kept or fit, device)
        device = _fit(part, fit, device)
        after = _error(kept or fit, device)
        if part.family == "attention":
            device = _with_error(device, part.label.removeprefix("attention, "), _rounded(after, 2))
        done.append(Fitted(part.label, part.names, len(fit), len(kept), before, after, _error(fit, device)))
        calibrated.setdefault(part.family, after)  # of attention that of the first kernel, flash
    if found:
        device, rates = _sustaining(table, found, device, calibrated)
        done.append(rates)
    if not done:
        raise ValueError(f"{origin}: no family has {FEWEST} rows of {device.name} to fit its constants to")
    families = tuple(dict.fromkeys((*calibrated, *device.constants.calibrated)))
    constants = device.constants.model_copy(
        update={
            "provenance": "calibrated" if families else device.constants.provenance,
            "calibrated": families,
            "errors": {family: _rounded(error, 2) for family, error in calibrated.items()}
            | {name: error for name, error in device.constants.errors.items() if name not in calibrated},
        }
    )
    return device.model_copy(update={"constants": constants}), done


def _sustaining(
    table: Sequence[Row], found: list[tuple[models.Iteration, float]], device: Device, calibrated: dict[Family, float]
) -> tuple[Device, Fitted]:
    """The device with the rates that its pipelines sustain; those of families fitted here stay."""
    device = device.with_constants(calibrated=tuple(dict.fromkeys((*calibrated, *device.constants.calibrated))))
    kept = sustained.others(table, device.name)
    before = _median(sustained.logs(kept or found, device))
    device, names = sustained.fit(found, device, DIGITS)
    after, fit = _median(sustained.logs(kept or found, device)), _median(sustained.logs(found, device))
    return device, Fitted("pipelines", names, len(found), len(kept), before, after, fit)


def _with_error(device: Device, name: str, error: float) -> Device:
    kernels = device.constants.attention
    kernel = kernels[name].model_copy(update={"error": error})
    return device.model_copy(
        update={"constants": device.constants.model_copy(update={"attention": kernels | {name: kernel}})}
    )


def _parts(rows: Sequence[tuple[Row, Kernel]]) -> Iterator[_Part]:
    """Memory first, since other families move bytes too."""
    yield _plain("elementwise", ("elementwise", "gelu", "copy"), ("memory_floor", "memory_bandwidth"))
    yield _plain("softmax", ("softmax",), ("softmax_bandwidth",))
    yield _plain("norm", ("layernorm", "norm"), ("norm_bandwidth",))
    yield _plain("gemm", ("gemm",), ("gemm_floor", "gemm_efficiency", "gemm_bandwidth", "l2_rate"))
    yield _plain("conv", ("conv2d fwd", "conv2d bwd-data"), ("conv_floor", "conv_efficiency", "conv_bandwidth"))
    forward = {attention[0] for _, one in rows if len(attention := backends(one)) == 1}
    both = {attention[0] for _, one in rows if len(attention := backends(one)) == 2}
    rows_of = {name: [name] if name in forward else [name, f"{name}-backward"] for name in forward | both}
    for name in ("flash", "flash3"):  # one set of constants for both, where only the paged one was timed
        if name not in forward and f"{name}-paged" in forward:
            rows_of[name] = rows_of.pop(f"{name}-paged")
            forward.add(name)
    for backend in sorted(rows_of, key=lambda name: (name != "flash", name)):
        yield _attention(backend, rows_of[backend])
    for backend in sorted(forward & both):
        yield _attention(f"{backend}-backward", [backend, f"{backend}-backward"])


def backends(one: Kernel) -> list[str]:
    """The fused attention kernels among those of a row."""
    return [call.attention.backend for call in one.calls if call.attention is not None]


def _plain(family: Family, families: tuple[str, ...], names: tuple[str, ...]) -> _Part:
    return _Part(
        family, family, names,
        lambda one: one.family in families and one.dtype in HALF,
        lambda constants, values: constants.model_copy(update=values),
    )  # fmt: skip


def _attention(name: str, among: list[str]) -> _Part:
    """A kernel by the rows that launch these; a backward pass of which nothing else is known is as fast as forward."""

    def takes(one: Kernel) -> bool:
        return one.dtype in HALF and backends(one) == among

    def write(constants: Constants, values: dict[str, float]) -> Constants:
        kernel = AttentionKernel.model_validate(values)
        return constants.model_copy(update={"attention": constants.attention | {name: kernel}})

    return _Part("attention", f"attention, {name}", ATTENTION, takes, write)


def _fit(part: _Part, rows: Sequence[tuple[Row, Kernel]], device: Device) -> Device:
    typical = np.log([TYPICAL[name] for name in part.names])
    pulls = np.array([PULL_FLOOR if name == "floor" else PULL for name in part.names])
    most = np.array([math.log(_most(name)) for name in part.names])

    def with_values(point: Vector, digits: int = 12) -> Device:
        values = np.exp(np.minimum(point, most)).tolist()
        named = {name: _rounded(value, digits) for name, value in zip(part.names, values, strict=True)}
        return device.model_copy(update={"constants": part.write(device.constants, named)})

    def loss(point: Vector) -> float:
        logs = _logs(rows, with_values(point))
        pull = float(np.sum(pulls * (point - typical) ** 2)) + float(np.sum(np.maximum(0, point - most)))
        return float(np.mean(np.abs(logs))) + pull

    found = [minimise(loss, typical + shift, 0.25, STEPS) for shift in STARTS]
    return with_values(min(found, key=loss), DIGITS)


def _most(name: str) -> float:
    return 1.0 if name.endswith("efficiency") else MOST_BANDWIDTH if name.endswith("bandwidth") else math.inf


def _logs(rows: Sequence[tuple[Row, Kernel]], device: Device) -> list[float]:
    """log(predicted / measured) of the seconds of some rows."""
    predicted = seconds_of([one for _, one in rows], device)
    return [math.log(seconds / measured(row, one)) for (row, one), seconds in zip(rows, predicted, strict=True)]


def measured(row: Row, one: Kernel) -> float:
    """The seconds of a row, whatever its unit."""
    assert row.measured is not None
    if row.unit in SCALE:
        return row.measured / SCALE[row.unit]
    scale = next(value for unit, value in RATES.items() if row.unit.startswith(unit))
    assert one.amount is not None
    return one.amount / (row.measured * scale)


def _error(rows: Sequence[tuple[Row, Kernel]], device: Device) -> float:
    return _median(_logs(rows, device))


def _median(logs: Sequence[float]) -> float:
    return median(abs(math.expm1(log)) for log in logs)


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
