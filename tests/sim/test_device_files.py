"""A device file of one's own: read by its path, calibrated without losing what was known."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from minimodels.cli import main
from minimodels.sim import device as devices
from minimodels.sim import device_writer
from minimodels.sim.calibrate import calibrate
from minimodels.sim.validate import shipped


def test_a_device_is_read_from_a_file_and_is_what_it_was_by_name(tmp_path: Path) -> None:
    for name in ("h100-sxm", "h200"):
        path = tmp_path / f"{name}.toml"
        path.write_text(device_writer.original(name))
        assert devices.load(str(path)) == devices.load(name)
    shown = CliRunner().invoke(main, ["profile", "llama-tiny", "--device", str(tmp_path / "h200.toml")])
    assert shown.exit_code == 0 and "SIMULATED" in shown.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is not TOML"),
        ('title = "x"', "is no device file"),
        ('constants_from = "h100-sxm"', "it lacks 'vendor'"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_no_device_is_one_message(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    result = CliRunner().invoke(main, ["profile", "llama-tiny", "--device", str(path)])
    assert result.exit_code == 2 and said in result.stderr, result.stderr


def test_a_fit_of_one_family_keeps_what_is_known_of_the_others() -> None:
    lines = shipped().splitlines()
    gemm = [line for line in lines[1:] if ",gemm,NVIDIA H100-80GB-SXM," in line]
    assert len(gemm) > 50
    before = devices.load("h100-sxm")
    fitted, done = calibrate("\n".join([lines[0], *gemm]), before)
    assert [part.family for part in done] == ["gemm"]
    assert set(fitted.constants.calibrated) == set(before.constants.calibrated)
    others = {name: error for name, error in before.constants.errors.items() if name != "gemm"}
    assert others.items() <= fitted.constants.errors.items()
    text = device_writer.rewritten(device_writer.original("h100-sxm"), fitted, done, source="Fitted to mine.csv: gemm.")
    assert 'source = "Fitted to mine.csv: gemm."' in text
