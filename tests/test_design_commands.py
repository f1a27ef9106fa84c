"""`minibench new`, `sweep` and `fit` as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimodels import loader
from tests.test_cli import COMMAND, ENVIRONMENT, fails, run

TINY = "llama-tiny"
SWEEP = ["sweep", TINY, "--over", "batch=1,3", "--over", "attention=baseline,flash", "--jobs", "1"]


def test_new_writes_a_file_and_overwrites_none(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    words = ["new", "deep", "--base", "parti-20b-config", "--set", "transformer.decoder.depth=128"]
    said = run(*words, "--out", str(path)).stdout
    assert f"minibench compare parti-20b-config {path}" in said and "call it" not in said
    assert "Commands call it other, as its file." in run(*words, "--out", str(tmp_path / "other.toml")).stdout
    text = path.read_text()
    assert run(*words).stdout == text
    assert loader.load(path).model_dump()["transformer"]["decoder"]["depth"] == 128
    path.write_text("mine")
    assert "--force writes over it" in fails(*words, "--out", str(path)) and path.read_text() == "mine"
    run(*words, "--out", str(path), "--force")
    assert path.read_text() == text
    assert "named FILE.toml" in fails(*words, "--out", str(tmp_path / "deep.json"))


def test_a_sweep_prints_keeps_and_draws_its_points(tmp_path: Path) -> None:
    out, picture = tmp_path / "s.jsonl", tmp_path / "s.png"
    records = json.loads(run(*SWEEP, "--device", "h200,a100-80gb", "--out", str(out), "--json").stdout)
    assert len(records) == 8 and all(record["status"] == "ok" for record in records)
    assert sorted(out.read_text().splitlines()) == sorted(map(json.dumps, records))
    shown = run("sweep", str(out), "--plot", str(picture), "--metric", "core.attention", "--x", "batch").stdout
    assert "8 points, SIMULATED" in shown and picture.read_bytes()[1:4] == b"PNG"
    assert shown.count("a100-80gb") == 4
    picture.unlink()
    front = run("sweep", str(out), "--pareto", "time,flops", "--plot", str(picture)).stdout
    for device in ("h200", "a100-80gb"):
        assert f"Pareto front on {device}, time (less is better) and flops (less is better):" in front
    assert picture.exists()


def test_a_sweep_ends_well_though_points_fail_and_says_why() -> None:
    result = run("sweep", TINY, "--over", "gen_len=3,4,5000", "--jobs", "1")
    assert result.exit_code == 0 and "3 points, SIMULATED on a100-80gb; 1 failed" in result.stdout
    assert "failed (1): llama-tiny: run.prompt_len 7 + run.gen_len 5000" in result.stdout


BAD = {
    "no axis": (["sweep", TINY], "nothing varies"),
    "no key": (["sweep", TINY, "--over", "image_size=1,2"], "no such length"),
    "no path": (["sweep", TINY, "--over", "language_model.decoder.deep=1,2"], "did you mean depth"),
    "no metric": (["sweep", TINY, "--over", "batch=1,2", "--metric", "speed"], "unknown metric 'speed'"),
    "no plot": (["sweep", TINY, "--over", "batch=1,2", "--metric", "flops"], "--metric flops: it says what is drawn"),
    "no front": (["sweep", TINY, "--over", "batch=1,2", "--pareto", "time"], "write two metrics"),
    "no device": (["sweep", TINY, "--over", "batch=1,2", "--device", "h200,h300"], "unknown device 'h300'"),
    "device twice": (["sweep", TINY, "--over", "batch=1,2", "--device", "h200,h200"], "named twice"),
    "axis twice": (["sweep", TINY, "--over", "batch=1,2", "--over", "batch=3"], "given twice"),
    "set too": (["sweep", TINY, "--over", "batch=1,2", "--batch", "3"], "set to one value as well"),
    "nothing can be": (["sweep", TINY, "--over", "gen_len=5000,6000", "--jobs", "1"], "no point could be built: "),
    "not jsonl": (["sweep", TINY, "--over", "batch=1,2", "--out", "x.json"], "named FILE.jsonl"),
    "x of nothing": (["sweep", TINY, "--over", "batch=1,2", "--x", "batch"], "add --plot"),
    "shown only": (["sweep", "x.jsonl", "--over", "batch=1,2"], "only shown"),
    "not there": (["sweep", "x.jsonl"], "No such file"),
    "picture": (["sweep", TINY, "--over", "batch=1,2", "--plot", "x.bmp"], ".png"),
    "unwritable": (["sweep", TINY, "--over", "batch=1,2", "--out", "/proc/none/x.jsonl"], "cannot write"),
    "fit of no axis": (["fit", TINY], "nothing varies"),
    "fit in no time": (["fit", TINY, "--over", "batch=1,2", "--under", "2"], "a number and a unit"),
    "fit in too much": (["fit", TINY, "--over", "batch=1,2", "--memory", "1TB"], "a100-80gb has 85.0 GB"),
    "fit of nothing": (["fit", TINY, "--over", "gen_len=5000,6000"], "can be built"),
    "new of nothing": (["new", "x", "--base", "parti-2b"], "parti-20b"),
    "compare of nothing": (["compare", TINY, "llama-tin"], "llama-tiny"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_exit_2(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, said = BAD[case]
    message = fails(*arguments)
    assert said in message and len(message.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_neither_wrong_input_nor_a_finished_sweep_imports_torch(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    run(*SWEEP, "--out", str(out))
    code = (
        "import sys\n"
        "from minimodels.cli import main\n"
        "for arguments in eval(sys.argv[1]):\n"
        "    try:\n        main(arguments)\n"
        "    except SystemExit as end:\n        assert 'torch' not in sys.modules, (arguments, end)"
    )
    calls = [BAD[case][0] for case in BAD if case not in ("nothing can be", "fit of nothing")]
    calls += [[*SWEEP, "--out", str(out)], ["sweep", str(out)]]
    command = [sys.executable, "-c", code, repr(calls)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Error: ") == len(calls) - 2


@pytest.mark.slow
def test_an_interrupted_sweep_says_what_it_kept(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    words = [*COMMAND, "sweep", TINY, "--over", "batch=1:4000:1", "--jobs", "2", "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen(  # what runs in the background ignores interrupts, and so do those it starts
        words, env=ENVIRONMENT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes,  # noqa: PLW1509
    )  # fmt: skip
    while not (out.exists() and out.stat().st_size):
        assert started.poll() is None
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGINT)
    said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert said[1].splitlines()[-1] == f"Interrupted: finished points are in {out}, and the same command goes on."
    assert "Traceback" not in said[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize("command", [["devices"], ["new", "mine", "--base", "llama-tiny"], ["--help"]])
def test_output_for_which_there_is_no_room_is_said_without_a_traceback(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *command], env=ENVIRONMENT, stdout=full,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "Error: cannot write the output: No space left on device"
