"""The command as a user meets it: what it prints, what it costs, and that no input shows a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from minimodels.cli import main
from minimodels.kernels.backend import BACKENDS
from minimodels.run import DTYPES
from minimodels.sim.profile import Profile

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "minimodels.cli"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def fails(*arguments: str) -> str:
    """The one message of a call that must end with exit code 2, without a traceback."""
    result = run(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stderr.startswith(("Error: ", "Usage: "))
    return result.stderr


def test_list_names_every_model_with_parameters_and_paper() -> None:
    rows = json.loads(run("list", "--json").stdout)
    assert {"name", "family", "params", "paper"} == set(rows[0])
    assert {row["name"]: row["params"] for row in rows}["llama2-7b"] == 6_738_415_616
    assert "parti-20b" in run("list").stdout


def test_show_counts_a_part_once_beside_its_published_count() -> None:
    record = json.loads(run("show", "parti-20b-config", "--json").stdout)
    assert record["name"] == "parti-20b"
    assert record["total_params"] == sum(part["params"] for part in record["parts"])
    assert record["parts"][0] == {
        "name": "transformer",
        "params": 20_540_313_600,
        "published": 20_000_000_000,
        "source": record["parts"][0]["source"],
    }
    assert record["parts"][0]["source"].startswith("Parti, Table 1")
    assert "20,540,313,600" in run("show", "parti-20b").stdout


def test_show_drops_the_published_count_of_a_changed_part() -> None:
    parts = json.loads(run("show", "parti-tiny", "--set", "transformer.decoder.depth=1", "--json").stdout)["parts"]
    assert all(part["published"] is None for part in parts)
    parts = json.loads(run("show", "parti-3b", "--set", "transformer.decoder.depth=5", "--json").stdout)["parts"]
    assert [part["published"] is None for part in parts] == [True, False, False]


def test_profile_says_simulated_and_its_defaults_first() -> None:
    lines = run("profile", "parti-tiny", "--device", "h200").stdout.splitlines()
    assert "SIMULATED" in lines[0]
    heading = " ".join(lines[:4])
    for default in ("h200", "attention sdpa", "dtype bfloat16", "batch 1", "mode eager"):
        assert default in heading


def test_json_and_out_are_the_same_profile(tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    printed = run("profile", "llama-tiny", "--device", "a100-80gb", "--json", "--out", str(out)).stdout
    assert Profile.from_json(printed) == Profile.load(out)


@pytest.mark.parametrize("by", ["stage", "category", "module"])
def test_by_selects_the_detailed_table(by: str) -> None:
    first = {"stage": "Stage", "category": "Category", "module": "Module"}[by]
    assert first in run("profile", "llama-tiny", "--device", "h200", "--by", by).stdout


def test_compare_and_plot_take_what_profile_wrote(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for path, attention in zip(files, ("baseline", "flash"), strict=True):
        assert run("profile", "parti-tiny", "--device", "h200", "--attention", attention, "--out", path).exit_code == 0
    assert "Ratios are to A" in run("compare", *files).stdout
    for kind in ("breakdown", "stages", "roofline", "memory", "seqlen"):
        picture = tmp_path / f"{kind}.png"
        assert run("plot", kind, *files, "--out", str(picture)).exit_code == 0
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_help_names_every_choice_the_library_takes() -> None:
    text = " ".join(run("profile", "--help").stdout.split())
    for name in {name.removesuffix("!") for name in BACKENDS} | set(DTYPES) | {"eager", "graph", "compiled"}:
        assert name in text


def test_help_says_where_graphs_are_measured() -> None:
    assert "CUDA graphs (measured on a GPU only)" in " ".join(run("profile", "--help").stdout.split())


BAD = {
    "storage overflows": (["profile", "imagen", "--image-size", "1048576", "--batch", "100000", "--device", "h200"],
        "imagen: too large"),
    "latents overflow": (["profile", "sdxl", "--batch", "4194304", "--image-size", "1048576", "--device", "h200"],
        "sdxl: too large"),
    "frames overflow": (["profile", "make-a-video", "--image-size", "196608", "--batch", "4194304", "--device",
        "h200"], "lower --batch"),
    "operator overflows": (["profile", "stable-diffusion-1.5", "--image-size", "4194304", "--device", "h200"],
        "2^80 FLOPs"),
    "overflow here": (["profile", "sdxl", "--batch", "4194304", "--image-size", "1048576", "--device", "cpu"],
        "too large"),
    "steps of each loop": (["profile", "imagen", "--steps", "3"],
        "--steps: imagen has one each for unet, super_resolution_1, super_resolution_2; use --set run.unet.steps=3"),
    "near names": (["profile", "parti-2b"], "parti-20b"),
    "nothing near": (["profile", "zzzzzz"], "known: "),
    "missing file": (["profile", "none.toml"], "No such file"),
    "plot of nothing": (["plot", "breakdown", "none.json", "--out", "x.png"], "No such file"),
    "unknown device": (["profile", "parti-tiny", "--device", "h30"], "did you mean"),
    "no cuda": (["profile", "parti-tiny", "--device", "cuda"], "a100-80gb"),
    "pinned": (["profile", "parti-tiny", "--device", "h200", "--attention", "flash!", "--dtype", "float32"], "float32"),
    "backend": (["profile", "parti-tiny", "--attention", "quick"], "flash"),
    "mode": (["profile", "parti-tiny", "--mode", "fast"], "compiled"),
    "mode here": (["profile", "parti-tiny", "--device", "cpu", "--mode", "graph"], "--device a100-80gb"),
    "compare on a cpu": (["profile", "parti-tiny", "--device", "cpu", "--compare"], "no prediction for a CPU"),
    "compare of nothing measured": (["profile", "parti-tiny", "--device", "h200", "--compare"], "only simulated"),
    "compare of no gpu": (["profile", "parti-tiny", "--device", "h2000", "--compare"], "h200"),
    "compare and explain": (["profile", "parti-tiny", "--compare", "--explain"], "take one of them"),
    "compare without cuda": (["profile", "parti-tiny", "--compare"], "torch finds no CUDA device here"),
    "batch zero": (["profile", "parti-tiny", "--batch", "0"], "greater"),
    "batch huge": (["profile", "parti-tiny", "--batch", "1" + 21 * "0"], "less"),
    "no such length": (["profile", "parti-tiny", "--gen-len", "3"], "no such length"),
    "length over context": (["profile", "llama-tiny", "--gen-len", "30"], "context_len 29"),
    "set without value": (["profile", "parti-tiny", "--set", "transformer"], "key.path=value"),
    "set nowhere": (["profile", "parti-tiny", "--set", "transformer.deep.x=1"], "decoder"),
    "heads": (["profile", "parti-20b", "--set", "transformer.decoder.num_heads=63"], "not divisible"),
    "bool for int": (["profile", "parti-tiny", "--set", "transformer.decoder.depth=true"], "integer"),
    "float for int": (["profile", "parti-tiny", "--set", "transformer.decoder.depth=2.0"], "integer"),
    "absurd": (["profile", "parti-tiny", "--set", "transformer.decoder.depth=1" + 21 * "0"], "4096"),
    "picture": (["profile", "parti-tiny", "--plot", "x.bmp"], ".png"),
    "picture out": (["plot", "breakdown", "x.json", "--out", "x.gif"], ".png"),
    "plot kind": (["plot", "pie", "x.json", "--out", "x.png"], "roofline"),
    "unwritable": (["profile", "parti-tiny", "--out", "/proc/none/x.json"], "cannot write"),
    "compare one": (["compare", "x.json"], "two profiles"),
    "truth missing": (["validate", "none.csv"], "No such file"),
    "one path": (["profile", "parti-tiny", "--out", "x.png", "--plot", "./x.png"], "named twice"),
    "its own config": (["profile", "x.toml", "--out", "x.toml"], "named twice"),
    "plot over input": (["plot", "breakdown", "x.png", "--out", "x.png"], "named twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_exit_2(case: str) -> None:
    arguments, said = BAD[case]
    message = fails(*arguments)
    assert said in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    (
        ["show", "imagenn"],
        ["profile", "imagenn"],
        ["profile", "imagen", "--device", "h30"],
        ["profile", "imagen", "--dtype", "fp16"],
        ["profile", "imagen", "--batch", "0"],
        ["profile", "imagen", "--mode", "fast"],
        ["profile", "imagen", "--steps", "3"],
    ),
)
def test_wrong_input_is_said_before_torch_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from minimodels.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert end.code == 2 and 'torch' not in sys.modules, 'torch'"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.startswith("Error: "), done.stderr


@pytest.mark.parametrize(
    "arguments", (["list", "--json"], pytest.param(["validate", "--json"], marks=pytest.mark.slow))
)
def test_what_takes_long_tells_its_progress(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minimodels.sim.progress.INTERVAL", 0.0)
    result = run(*arguments)
    assert re.match(r"(Architectures: counted|Validation: row) 0 of [\d,]+\n", result.stderr), result.stderr
    json.loads(result.stdout)


def test_list_counts_like_show() -> None:
    listed = {row["name"]: row["params"] for row in json.loads(run("list", "--json").stdout)}
    for name in ("sdxl", "parti-3b", "make-a-video"):
        assert listed[name] == json.loads(run("show", name, "--json").stdout)["total_params"]


def test_a_wrong_truth_table_is_one_message_with_file_and_row(tmp_path: Path) -> None:
    header = "id,model,phase_or_kernel,gpu,dtype,shape_or_settings,metric,source,value,unit,batch"
    path = tmp_path / "truth.csv"
    path.write_text(f"{header}\na,llama-7b,prefill,g,fp16,s,m,s,1,ms\n")
    assert "truth.csv: row a: it has more or fewer" in fails("validate", str(path))
    path.write_text(f"{header}\na,llama-7b,prefill,g,fp16,s,m,s,1,ms,many\n")
    shown = run("validate", str(path))
    assert shown.exit_code == 0 and "not predicted: a: batch 'many' is neither" in shown.stdout


def test_what_cannot_be_measured_rightly_is_a_message_and_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minimodels.sim.session.LOST", -1.0)  # no share of attributed time is enough
    result = run("profile", "llama-tiny", "--device", "cpu", "--warmup", "0", "--repeats", "1")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: cannot measure ")
    assert "end other work on the machine" in result.stderr and "defect in minimodels" in result.stderr


def test_progress_is_plain_lines_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minimodels.sim.progress.INTERVAL", 0.0)
    result = run("profile", "parti-tiny", "--device", "h200", "--full", "--json")
    lines = result.stderr.splitlines()
    assert any(re.fullmatch(r"Parti.*: decode \d+ of \d+", line) for line in lines), lines
    assert "\x1b" not in result.stderr
    Profile.from_json(result.stdout)  # nothing of it on stdout


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2", b"\x00\xff\x80", b'{"schema": 2}'])
def test_a_corrupt_profile_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    assert "bad.json" in fails("compare", str(path), str(path))
    assert "bad.json" in fails("plot", "breakdown", str(path), "--out", str(tmp_path / "x.png"))
    assert not (tmp_path / "x.png").exists()


def test_a_directory_or_binary_file_as_config_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "dir.toml"
    folder.mkdir()
    assert "dir.toml" in fails("profile", str(folder))
    binary = tmp_path / "bin.toml"
    binary.write_bytes(bytes(range(256)))
    assert "UTF-8" in fails("profile", str(binary))
    broken = tmp_path / "broken.toml"
    broken.write_text('base = "parti-tiny"\n\n[transformer\n')
    assert "line 3" in fails("profile", str(broken))


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "taken.json"
    target.mkdir()
    fails("profile", "llama-tiny", "--device", "h200", "--out", str(target))
    assert list(tmp_path.iterdir()) == [target]


def test_what_does_not_fit_is_simulated_and_says_what_would() -> None:
    result = run("profile", "llama2-70b", "--device", "a100-80gb", "--gen-len", "2")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert (
        "does not fit: needs 139 GB of 85.0 GB, 700 MB of it kept" in text
    )  # 138 GB of weights, and what the prompt takes
    assert "smallest listed GPU that holds it is NVIDIA H200" in text


def test_an_interrupt_leaves_no_file_and_one_line(tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    arguments = ["profile", "parti-20b", "--device", "h200", "--full", "--out", str(out)]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (in the background it is ignored)
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Parti 20B: decode "), "past the imports, into a walk of 1,024 steps"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    *progress, said = errors.strip().splitlines()
    assert said.startswith("Interrupted") and all(line.startswith("Parti 20B: ") for line in progress), errors
    assert list(tmp_path.iterdir()) == []


def _cold(*arguments: str) -> tuple[float, float]:
    """Processor seconds and peak resident megabytes of a cold process.

    Processor time stands for wall time, which is no more than that on an idle machine and has nothing to do
    with the command on a busy one.
    """
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    command = [sys.executable, "-c", code, *COMMAND, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    status, seconds, kilobytes = map(float, done.stdout.split())
    assert status == 0
    return seconds, kilobytes / 1e3


def test_help_is_instant() -> None:
    assert min(_cold("--help")[0] for _ in range(3)) < 0.3


def test_the_first_profile_takes_six_seconds_and_500_megabytes() -> None:
    runs = [_cold("profile", "parti-20b-config", "--device", "a100-80gb") for _ in range(2)]
    assert min(seconds for seconds, _ in runs) < 6
    most = 500 if torch.version.cuda is None else 800  # with the libraries of CUDA
    assert max(megabytes for _, megabytes in runs) < most


def test_show_folds_what_lies_deeper_than_asked() -> None:
    short, long = (run("show", "make-a-video", "--depth", depth).stdout for depth in ("1", "9"))
    assert len(short.splitlines()) < 140 and len(long.splitlines()) > 1000
    assert "to_q" in long and "to_q" not in short and "..." in short and "..." not in long
