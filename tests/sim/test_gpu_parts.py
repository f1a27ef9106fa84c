"""The parts of `make gpu`: run once, resumed, stopped. The commands here are small; those on a GPU run there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minimodels import loader
from minimodels.run import Run
from minimodels.sim import gpu_parts, views
from minimodels.sim.gpu_parts import Part, outcomes, parts
from minimodels.sim.gpu_parts import run as run_part
from minimodels.sim.session import MORE_WARMUPS
from minimodels.sim.simulate import simulate

ROOT = Path(__file__).resolve().parents[2]


def _part(code: str) -> Part:
    return Part("one", "one.json", (sys.executable, "-c", code, "{file}"))


def test_a_finished_part_is_skipped_unless_forced(tmp_path: Path) -> None:
    part = _part("import sys, time; open(sys.argv[1], 'w').write(str(time.time()))")
    assert run_part(part, tmp_path / "gpu").startswith("done in")
    first = (tmp_path / "gpu" / "one.json").read_text()
    assert run_part(part, tmp_path / "gpu") == "there is a result"
    assert (tmp_path / "gpu" / "one.json").read_text() == first
    assert run_part(part, tmp_path / "gpu", force=True).startswith("done in")
    assert (tmp_path / "gpu" / "one.json").read_text() != first
    assert [path.name for path in (tmp_path / "gpu").iterdir()] == ["one.json"]


def test_a_part_that_is_stopped_leaves_nothing_running(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    assert run_part(_part(code), tmp_path / "gpu", limit=2) == "stopped after 2 s"
    state = Path(f"/proc/{child.read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_part_that_fails_stops_or_writes_nothing_is_said_to(tmp_path: Path) -> None:
    assert run_part(_part("raise SystemExit(3)"), tmp_path).startswith("FAILED in")
    assert run_part(_part("pass"), tmp_path) == "FAILED: it wrote nothing"
    assert run_part(_part("import time; time.sleep(60)"), tmp_path, limit=0.5) == "stopped after 0 s"
    broken = _part("import sys; open(sys.argv[1], 'w').write('wrong'); raise SystemExit(1)")
    assert run_part(broken, tmp_path).startswith("FAILED in")
    assert [path.name for path in tmp_path.iterdir()] == ["failed-one.json"], "evidence, not a result"
    assert run_part(_part("pass"), tmp_path) == "FAILED: it wrote nothing" and not list(tmp_path.iterdir())
    half = _part("import sys, time; open(sys.argv[1], 'w').write('half'); time.sleep(60)")
    assert run_part(half, tmp_path, limit=1.5).startswith("stopped")
    assert not list(tmp_path.iterdir()), "what was stopped is no result"


def test_parts_are_distinct_and_their_models_exist() -> None:
    listed = parts(["temporal_attention", "group_norm"])
    assert len({part.name for part in listed}) == len({part.file for part in listed}) == len(listed)
    assert {"ceilings", "tests", "limits", "bench-group_norm", "profile-parti-20b-triton"} <= {p.name for p in listed}
    for model in gpu_parts.MODELS:
        loader.load(model, gpu_parts.SET.get(model, ()))
        assert sum(part.name.startswith((f"profile-{model}-", f"check-{model}-")) for part in listed) >= 6
    assert sorted(gpu_parts.MODELS) == [name for name in loader.names() if not name.endswith("-tiny")]
    for part in listed:
        assert "{file}" in part.command
        for word in part.command:
            assert not word.startswith("tests/") or (ROOT / word).exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", gpu_parts.MODELS)
def test_every_model_fits_an_h200_and_its_longest_part_takes_under_nine_minutes(model: str) -> None:
    run = Run(device="h200", attention="baseline")
    profile = simulate(loader.load(model, gpu_parts.SET.get(model, ())), run)
    assert profile.memory.fits
    runs = run.warmup + MORE_WARMUPS + run.repeats + 1  # the profiled ones are a few steps of each loop
    assert runs * (views.elapsed(profile) or 0) < gpu_parts.LIMIT
    if model in gpu_parts.SET and model != "wan-factorised":  # which takes as many steps as what it is compared with
        assert runs * (views.elapsed(simulate(loader.load(model), run)) or 0) > gpu_parts.LIMIT, "no need to cut it"


def test_outcomes_of_tests_are_counted_and_what_failed_is_named() -> None:
    report = """<testsuites><testsuite>
      <testcase classname="tests.a" name="one"/>
      <testcase classname="tests.a" name="two"><failure message="no"/></testcase>
      <testcase classname="tests.a" name="three"><skipped/></testcase>
      <testcase classname="tests.a" name="four">
        <properties><property name="sdpa_limits" value='{"flash": {"65536": "right"}}'/></properties></testcase>
    </testsuite></testsuites>"""
    assert outcomes(report) == {
        "tests": 4, "skipped": 1, "failed": ["tests.a::two"],
        "recorded": {"sdpa_limits": {"flash": {"65536": "right"}}},
    }  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_runs() -> None:
    command, before = [sys.executable, "-m", "minimodels.sim.gpu_parts"], sorted((ROOT / "results").rglob("*"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no CUDA device" in done.stderr
    assert sorted((ROOT / "results").rglob("*")) == before
