"""The study again: every target writes what it promises, is reused, and no number of the study is left out."""

from __future__ import annotations

import csv
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minimodels.cli import main
from minimodels.kinds import Config
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim import figures
from minimodels.sim.paper import finished, flash, frames, study, targets
from minimodels.sim.paper.result import COLUMNS, numbers, scoreboard
from minimodels.sim.paper.study import Study, of_device
from minimodels.sim.profile import Profile
from minimodels.sim.progress import Advance, silent
from minimodels.sim.simulate import simulate

TINY = {
    "LLaMA": "llama-tiny", "Imagen": "imagen-tiny", "StableDiffusion": "stable-diffusion-tiny", "Muse": "muse-tiny",
    "Parti": "parti-tiny", "Prod Image": "sdxl-tiny", "MakeAVideo": "make-a-video-tiny", "Phenaki": "phenaki-tiny",
}  # fmt: skip
SMALL = {
    "stable-diffusion-2.1": "stable-diffusion-tiny", "ldm-1.45b": "stable-diffusion-tiny", "llama2-7b": "llama-tiny",
    "llama2-13b": "llama-tiny", "llama2-70b": "llama-tiny",
}  # fmt: skip

QUICK = ("table2", "fig7", "fig11", "fig12")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study on configs that take milliseconds."""
    monkeypatch.setattr(study, "WORKLOADS", TINY | SMALL)
    monkeypatch.setattr(flash, "SETTINGS", {name: (("compiled", {"mode": "compiled"}),) for name in TINY})
    monkeypatch.setattr(frames, "SCALES", (1.0, 2.0, 4.0))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in targets.TARGETS]
)
def test_a_target_leaves_pictures_a_table_and_its_rows(name: str, tmp_path: Path) -> None:
    board = targets.run([name], of_device("a100-80gb"), tmp_path)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
    table = list(csv.reader((tmp_path / f"{name}.csv").open()))
    assert len(table) > 2 and len({len(row) for row in table}) == 1
    assert any(row["target"] == name for row in board)
    written = list(csv.DictReader((tmp_path / "scoreboard.csv").open()))
    assert written == board and tuple(written[0]) == COLUMNS
    assert {row["id"] for row in written} == set(numbers()), "every number of the study has a row"


@pytest.mark.usefixtures("tiny")
def test_finished_targets_are_reused_for_the_same_device_alone(tmp_path: Path) -> None:
    runs: list[str] = []

    def counted(config: Config, run: Run, progress: Advance = silent) -> Profile:
        runs.append(run.device)
        return simulate(config, run, progress)

    first = targets.run(["fig11"], Study("a100-80gb", counted), tmp_path)
    made = len(runs)
    assert made and targets.run(["fig11"], Study("a100-80gb", counted), tmp_path) == first and len(runs) == made
    targets.run(["fig11"], Study("a100-80gb", counted), tmp_path, force=True)
    assert len(runs) == 2 * made
    (tmp_path / "fig11.csv").unlink()
    targets.run(["fig11"], Study("a100-80gb", counted), tmp_path)
    assert (tmp_path / "fig11.csv").exists()
    board = (tmp_path / "scoreboard.csv").read_bytes()
    with pytest.raises(ValueError, match="holds the study for a100-80gb; give --out another folder for h100-sxm"):
        targets.run(["fig11"], Study("h100-sxm", counted), tmp_path, force=True)
    assert (tmp_path / "scoreboard.csv").read_bytes() == board


@pytest.mark.usefixtures("tiny")
def test_a_scoreboard_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "scoreboard.csv").write_bytes(b"id,target\n\xff\xfe,fig11\n")
    shown = CliRunner().invoke(main, ["paper", "fig11", "--out", str(tmp_path)])
    assert shown.exit_code == 2 and f"cannot read {tmp_path / 'scoreboard.csv'}: it is not UTF-8" in shown.stderr


@pytest.mark.usefixtures("tiny")
def test_what_stops_a_run_leaves_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(study: Study) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(targets.TARGETS, "fig7", stopped)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        targets.run(["table2", "fig7"], of_device("a100-80gb"), tmp_path)
    rows = list(csv.DictReader((tmp_path / "scoreboard.csv").open()))
    assert any(row["target"] == "table2" for row in rows) and not (tmp_path / "fig7.png").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def speed_ups(setting: str, **constants: float) -> dict[str, float]:
    """Table II under one of its settings, on an A100 with other constants."""
    changed = devices.load("a100-80gb").with_constants(**constants)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "load", lambda name: changed)
        return {row[0]: row[2] for row in flash.table2(of_device("a100-80gb")).rows if row[1] == setting}


@pytest.mark.usefixtures("tiny")
def test_a_stop_between_two_files_of_a_target_leaves_it_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_of, save = of_device("a100-80gb"), figures.save

    def stopped(figure: Any, path: Path) -> None:
        if path.name == "fig11.svg":
            raise KeyboardInterrupt
        save(figure, path)

    monkeypatch.setattr(figures, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        targets.run(["fig11", "fig7"], study_of, tmp_path)  # fig7 comes first
    key = finished.key(study_of)
    assert (tmp_path / "fig11.png").exists() and targets.done(tmp_path, key) == ["fig7"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    monkeypatch.setattr(figures, "save", save)
    kept = (tmp_path / "fig7.png").stat().st_mtime_ns
    targets.run(["fig11", "fig7"], study_of, tmp_path)
    assert targets.done(tmp_path, key) == ["fig7", "fig11"] and (tmp_path / "fig7.png").stat().st_mtime_ns == kept


@pytest.mark.usefixtures("tiny")
def test_the_command_says_what_an_interruption_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(study: Study) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(targets.TARGETS, "fig12", stopped)  # type: ignore[arg-type]
    shown = CliRunner().invoke(main, ["paper", "fig11", "fig12", "--out", str(tmp_path)])
    assert shown.exit_code == 130 and f"what is finished is kept in {tmp_path}" in shown.stderr
    assert (tmp_path / "fig11.csv").exists() and not (tmp_path / "fig12.csv").exists()


def test_half_the_bandwidth_is_another_scoreboard_and_nothing_of_the_old_one_is_kept(tmp_path: Path) -> None:
    text = (resources.files("minimodels.sim") / "devices" / "a100-80gb.toml").read_text("utf-8")
    whole = re.search(r"^bandwidth = ([0-9.e]+)", text, re.MULTILINE)
    assert whole, "the datasheet states it"
    halved = text.replace(whole[0], f"bandwidth = {float(whole[1]) / 2}")
    found = []
    for contents in (text, halved):
        file = tmp_path / "gpu.toml"  # the same name: only what is in it tells
        file.write_text(contents)
        devices.load.cache_clear()
        board = targets.run(["fig12"], of_device(str(file)), tmp_path)
        found.append({row["id"]: row["ours"] for row in board if row["target"]})
        assert targets.done(tmp_path, finished.key(of_device(str(file)))) == ["fig12"]
    devices.load.cache_clear()
    assert found[0].keys() == found[1].keys() and found[0] != found[1]


@pytest.mark.usefixtures("tiny")
def test_a_key_changes_with_code_version_device_and_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [finished.key(of_device(name)) for name in ("a100-80gb", "h100-sxm")]
    keys.append(finished.key(of_device("a100-80gb", lengths={"frames": 6})))
    monkeypatch.setattr(finished, "_code", lambda: "other code")
    keys.append(finished.key(of_device("a100-80gb")))
    monkeypatch.setattr(finished, "VERSION", "0.0.0")
    keys.append(finished.key(of_device("a100-80gb")))
    assert len(set(keys)) == len(keys)


@pytest.mark.usefixtures("tiny")
def test_other_lengths_go_into_a_folder_of_their_own_and_are_not_scored(tmp_path: Path) -> None:
    own = CliRunner().invoke(main, ["paper", "fig12", "--out", str(tmp_path)])
    assert own.exit_code == 0, own.output
    board = (tmp_path / "scoreboard.csv").read_bytes()
    shown = CliRunner().invoke(main, ["paper", "fig12", "--frames", "6", "--out", str(tmp_path)])
    assert shown.exit_code == 0 and "nothing is scored" in shown.stdout, shown.output
    folder = tmp_path / "frames-6"
    assert (tmp_path / "scoreboard.csv").read_bytes() == board and not (folder / "scoreboard.csv").exists()
    assert (folder / "fig12.csv").read_text() != (tmp_path / "fig12.csv").read_text()
    rows = {row["workload"]: row for row in csv.DictReader((folder / "settings.csv").open())}
    assert rows["MakeAVideo"]["changed"] == "6" and rows["MakeAVideo"]["own"] != "6"
    assert "LLaMA" not in rows, "it has no frames"
    assert rows["Phenaki"]["changed"] or rows["Phenaki"]["why"]
    assert "Not the study" in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_another_cost_model_gives_other_speed_ups() -> None:
    """Nothing of the scoreboard is typed in."""
    before, after = speed_ups("as configured"), speed_ups("as configured", memory_floor=1e-9)
    assert len(before) == len(TINY) and all(before[name] != after[name] for name in before)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_table_2_compares_kernels_and_waits_for_the_host_are_a_setting() -> None:
    slow = {"host_per_op": 1e-3, "host_per_launch": 1e-3}
    assert speed_ups("as configured", **slow) == speed_ups("as configured")
    waits, none = speed_ups("with waits for the host", **slow), speed_ups("with waits for the host")
    assert all(waits[name] != none[name] for name in TINY)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_all_targets_together_score_every_number() -> None:
    study_of = of_device("a100-80gb")
    assert {score.id for target in targets.TARGETS.values() for score in target(study_of).scores} == set(numbers())


def test_numbers_are_complete_and_those_that_cannot_be_told_say_why() -> None:
    assert len(numbers()) == 150
    for row in scoreboard([]):
        assert row["holds"] == "cannot be told" and row["why"]


def test_ranks_correlate_as_they_should() -> None:
    assert flash.spearman([1, 5, 2], [10, 30, 20]) == pytest.approx(1)
    assert flash.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert flash.removed(2.0) == 0.5


@pytest.mark.usefixtures("tiny")
def test_the_command_prints_the_scoreboard(tmp_path: Path) -> None:
    out = str(tmp_path / "made")
    shown = CliRunner().invoke(main, ["paper", "table2", "--out", out])
    assert shown.exit_code == 0 and "SIMULATED on a100-80gb" in shown.stdout and "LLaMA" in shown.stdout
    found = json.loads(CliRunner().invoke(main, ["paper", "table2", "--out", out, "--json"]).stdout)
    assert len({row["id"] for row in found}) == 150


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tabel2"], "unknown target 'tabel2'; allowed: all, table1, table2"),
        (["table2", "--device", "a1000"], "unknown device 'a1000'"),
        (["table2", "--out", "/dev/null/x"], "cannot make /dev/null/x"),
        (["table2", "--frames", "32"], "table2 has the study's own lengths; with others there are fig7, fig8, fig12"),
        (["fig12", "--frames", "0"], "--frames 0: MakeAVideo:"),
        (["fig12", "--image-size", "7"], "--image-size 7: Imagen:"),
    ],
)
def test_wrong_input_is_one_message(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["paper", *arguments])
    assert result.exit_code == 2 and said in result.stderr
