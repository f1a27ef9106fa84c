"""What a pipeline's host does beside lean code is fitted to rows that are not reported, like the constants of a GPU."""

from __future__ import annotations

import math
from statistics import median

import pytest

from minimodels.sim import device as devices
from minimodels.sim import truth_models as models
from minimodels.sim.truth_gpus import device_of
from minimodels.sim.validate import Row, parse, shipped

A100 = "a100-80gb"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The rows of denoising loops that constants are fitted to."""
    return [row for row in parse(shipped(), "shipped table") if models.fitted(row, device_of(row.gpu) or "")]


@pytest.mark.parametrize(("mode", "constant", "step"), [("eager", "PYTHON", 0.1), ("compiled", "AROUND", 5)])
def test_the_host_of_a_pipeline_is_what_its_rows_give(
    rows: list[Row], monkeypatch: pytest.MonkeyPatch, mode: str, constant: str, step: float
) -> None:
    ours = [row for row in rows if device_of(row.gpu) == A100 and models.iteration(row).mode == mode]
    assert len(ours) == 6 and {row.batch for row in ours} == {1}
    chosen = [row for row in ours if mode == "eager" or "nightly" in row.settings]  # `truth_models` says why
    measured = median(row.measured if row.unit == "s/it" else 1 / row.measured for row in chosen if row.measured)
    one, value = models.iteration(ours[0]), getattr(models, constant)

    def off(constant_value: float) -> float:
        monkeypatch.setattr(models, constant, constant_value)
        return abs(math.log(models.seconds_of(one, devices.load(A100)) / measured))

    assert off(value) <= min(off(value - step), off(value + step))


@pytest.mark.parametrize("name", ["b200", "mi300x", "rtx-4090"])
def test_pipelines_of_other_gpus_give_no_constants(rows: list[Row], name: str) -> None:
    one = next(row for row in rows if device_of(row.gpu) == "t4")
    assert models.fitted(one, "t4") and not models.fitted(one, name)


def test_rows_that_give_constants_are_not_reported_and_others_of_their_gpus_are() -> None:
    found = [row for row in parse(shipped(), "shipped table") if row.family.startswith("denoise")]
    given = [row for row in found if models.fitted(row, device_of(row.gpu) or "")]
    kept = {(device_of(row.gpu), row.batch, "compiled" in row.family) for row in given}
    hosts = {(A100, 1, True), (A100, 1, False)}
    assert kept == hosts | {(name, models.RATE_BATCH, True) for name in ("t4", "v100-32gb")}
    assert all(row.family.startswith("denoise stable-diffusion-1.5") for row in given)
    for name in ("t4", "v100-32gb"):
        reported = {row.family for row in found if row not in given and device_of(row.gpu) == name}
        assert {f"denoise stable-diffusion-1.5 {mode}" for mode in ("eager", "compiled")} < reported, reported
