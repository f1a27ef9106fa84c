"""Fitting a device file to a table: the shipped files come out of it, and a file it writes is one that loads."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from minimodels.sim import device as devices
from minimodels.sim import device_writer
from minimodels.sim.calibrate import calibrate
from minimodels.sim.fit import minimise
from minimodels.sim.validate import COLUMNS, shipped


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a100-80gb", "l40s", "t4", "v100-32gb"])
def test_a_shipped_device_file_is_what_a_fit_to_the_shipped_table_gives(name: str) -> None:
    device = devices.load(name)
    fitted, done = calibrate(shipped(), device)
    assert device_writer.rewritten(device_writer.original(name), fitted, done) == device_writer.original(name)
    assert fitted.constants == device.constants
    assert all(part.kept for part in done), "every error comes from rows that were kept out"


@pytest.mark.slow
def test_only_fitted_constants_change_in_a_written_file() -> None:
    fitted, done = calibrate(shipped(), devices.load("v100-32gb"))
    before = tomllib.loads(device_writer.original("t4"))
    after = tomllib.loads(device_writer.rewritten(device_writer.original("t4"), fitted, done))
    assert after["datasheet"] == before["datasheet"]
    changed = {key for key, value in after["constants"].items() if before["constants"].get(key) != value}
    rates = {"gemm_efficiency", "gemm_sustained", "attention"}
    fitted_here = {"conv_efficiency", "conv_bandwidth"}  # conv_floor is the same in both files
    assert changed == rates | fitted_here | {"provenance", "calibrated", "errors"}
    assert after["constants"]["conv_efficiency"] == fitted.constants.conv_efficiency


def test_a_table_without_rows_of_the_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mine\.csv: no family has 8 rows of h200"):
        calibrate(",".join(COLUMNS) + "\n", devices.load("h200"), "mine.csv")


def test_the_simplex_finds_the_bottom_of_a_valley() -> None:
    target = np.array([0.3, -1.2, 2.0])
    found = minimise(lambda x: float(np.sum((x - target) ** 2)), np.zeros(3), 0.5, 300)
    assert found == pytest.approx(target, abs=1e-4)
