"""Which calls of real models the benchmark takes, and what it shows."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from minimodels import loader
from minimodels.cli import main
from minimodels.kernels.bench import as_json, bench, work_of
from minimodels.kernels.case import Case
from minimodels.kernels.ceilings import Ceilings
from minimodels.kernels.operator import every
from minimodels.kernels.protocol import CpuTimer
from minimodels.run import Run
from minimodels.sim import bench_cases, bench_report
from minimodels.sim.bench_goals import goals
from minimodels.sim.simulate import simulate
from minimodels.sim.tables import console

CEILINGS = Ceilings(1e18, 1e18, {"float32": 1e21, "bfloat16": 1e21}, 0.0, {"torch": 1e-6}, 1 << 20)
RUN = Run(device="h100-sxm", attention="triton", kernels="triton")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return bench_cases.capture(loader.load("make-a-video-tiny"), Run())


def test_captured_calls_are_all_that_an_inference_makes(cases: list[Case]) -> None:
    profile = simulate(loader.load("make-a-video-tiny"), RUN)
    expected: Counter[str] = Counter()
    for op in profile.ops:
        if op.name.startswith("minimodels::"):
            expected[op.name] += op.weight  # type: ignore[assignment]
    found: Counter[str] = Counter()
    for case in cases:
        found[case.operator] += case.weight  # type: ignore[assignment]
    assert found and found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name] == pytest.approx(weight, rel=1e-9)


def test_captured_arguments_lie_as_the_model_passes_them(cases: list[Case]) -> None:
    temporal = [case for case in cases if case.operator == "minimodels::temporal_attention"]
    assert any(
        case.views()[0].stride != torch.empty(case.views()[0].shape, device="meta").stride() for case in temporal
    )
    assert all(case.where == "make-a-video-tiny" for case in cases)


def test_the_calls_of_a_profile_are_those_of_its_model(cases: list[Case], tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    simulate(loader.load("make-a-video-tiny"), RUN).save(file)
    again = bench_cases.of_profile(file)
    assert {case.key: case.weight for case in again} == {case.key: case.weight for case in cases}


def test_the_heaviest_calls_are_taken_and_equal_ones_once(cases: list[Case]) -> None:
    other = [replace(case, where="another") for case in cases]
    chosen = bench_cases.select([*cases, *other], (), 2)
    assert len({case.key for case in chosen}) == len(chosen)
    weights = {case.key: case.weight for case in cases}
    assert all(case.weight == 2 * weights[case.key] and case.where.endswith(", another") for case in chosen)
    for name in {case.operator for case in cases}:
        costs = sorted(-c.weight * bench_cases.least_seconds(c) for c in cases if c.operator == name)
        kept = [-c.weight * bench_cases.least_seconds(c) / 2 for c in chosen if c.operator == name]
        assert kept == pytest.approx(costs[: len(kept)]) and len(kept) == min(2, len(costs))


def test_an_unknown_kernel_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown kernel 'convolution'.*temporal_attention"):
        bench_cases.select([], ["convolution"], 1)


@pytest.fixture(scope="module")
def record(cases: list[Case]) -> dict[str, Any]:
    chosen = bench_cases.select(cases, (), 1)
    rows = bench(chosen, CpuTimer(1 << 16), CEILINGS, 20, lambda *_: None, compiled=False)
    facts = {"device": "a test's CPU", "torch": "2", "triton": "3", "driver": None, "power_limit": 700.0}
    return json.loads(json.dumps(as_json(rows, CEILINGS) | {"environment": facts}))


def _text(what: Any) -> str:
    out = console()
    out.width = 100
    with out.capture() as kept:
        out.print(what)
    return kept.get()


def test_a_record_is_shown_as_it_was_written(record: dict[str, Any], tmp_path: Path) -> None:
    first, *goals_asked = _text(bench_report.shown(tmp_path)).splitlines()
    assert first == "kernels on a GPU: not measured yet"
    assert [line for line in goals_asked[3:] if not line.rstrip().endswith("not measured")] == []
    (tmp_path / "some-gpu").mkdir()
    (tmp_path / "some-gpu" / "kernels.json").write_text(json.dumps(record))
    text = _text(bench_report.shown(tmp_path))
    assert "a test's CPU, 700 W: MEASURED with torch 2, triton 3" in text
    assert "temporal_attention" in text and "% copy" in text and "WRONG" not in text
    assert bench_report.failures(record) == []


def test_a_kernel_that_is_wrong_shows_no_time(record: dict[str, Any]) -> None:
    spoilt = json.loads(json.dumps(record))
    for row in spoilt["rows"]:
        if row["implementation"] == "ours":
            row["wrong"] = ["off by 1 where 0.1 is allowed"]
    text = _text(bench_report.report(spoilt))
    assert "WRONG: ours of" in text and "% copy" not in text
    assert len(bench_report.failures(spoilt)) == sum(row["implementation"] == "ours" for row in spoilt["rows"])


def test_other_files_are_no_records(tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    for content in ("[]", "{", '{"kind": "profile"}'):
        file.write_text(content)
        with pytest.raises(ValueError, match="no record of `minibench bench`"):
            bench_report.load(file)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_benchmarked() -> None:
    for arguments in ([], ["temporal_attention"], ["--device", "cuda"], ["--device", "h100-sxm"]):
        result = CliRunner().invoke(main, ["bench", *arguments])
        assert result.exit_code == 2
        assert "bench needs a CUDA device: nothing is simulated here" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "--show", "--json"], ["--json"]), (["bench", "nosuch", "--show", "--quick"], ["KERNELS", "--quick"]),
        (["bench", "--device", "cuda", "--show"], ["--device"]), (["demo", "video", "--show"], ["FAMILY"]),
    ],
)  # fmt: skip
def test_nothing_is_given_beside_show(arguments: list[str], said: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "--show takes nothing else, " in result.stderr
    assert all(word in result.stderr for word in said)


def test_show_alone_shows() -> None:
    assert CliRunner().invoke(main, ["bench", "--show"]).exit_code == 0


def test_sizes_that_goals_are_set_at_are_cases_whose_work_is_known() -> None:
    cases = goals()
    assert {case.operator.partition("::")[2] for case in goals(["flash_attention"])} == {"flash_attention"}
    assert len({case.key for case in cases}) == len(cases)
    works = {case.operator: work_of(every()[case.operator], case) for case in cases}
    assert all(work.bytes_read > 0 for work in works.values())
    caches = [work_of(every()[c.operator], c).bytes_read for c in goals(["decode_attention"])]
    assert min(caches) >= 64e6, "more than what the L2 cache holds"
    frames = [case.views()[0].shape[3] for case in goals(["temporal_attention"])]
    assert sorted(frames) == [8, 16, 32, 64]
    assert {case.views()[0].shape[-1] for case in goals(["flash_attention"])} == {40, 64, 80, 128, 160}
