"""Which goals a record meets. The records here are made up, so that each verdict is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minimodels import loader
from minimodels.kernels.bench import work_of
from minimodels.kernels.case import Case
from minimodels.kernels.operator import every
from minimodels.run import Run
from minimodels.sim import bench_report, gpu_parts
from minimodels.sim.bench_goals import GOAL, SIZES, goals, marked
from minimodels.sim.bench_verdicts import GOALS, MODELS, NEEDED, PROFILES, SDPA, Verdict, judged
from minimodels.sim.simulate import simulate
from minimodels.sim.tables import console

COPY, MATMUL = 4e12, 8e14
BASELINES = ("eager", "compile", "conv1d", "flash-attn", *SDPA, *NEEDED)
Seconds = Callable[[Case], float]


def _row(case: Case, name: str, seconds: float | None, **more: Any) -> dict[str, Any]:
    work = work_of(every()[case.operator], case)
    moved = work.bytes_read + work.bytes_written
    known = {"bandwidth": None, "flops": None} if seconds is None else {
        "bandwidth": moved / seconds, "flops": work.flops / seconds if work.flops else None,
    }  # fmt: skip
    labels = {"operator": case.operator, "case": case.title(), "where": case.where, "weight": 1.0, "bound": "memory"}
    figures = {"seconds": seconds, "host_seconds": 1e-5, "percent": 50.0, "error": 1.0, "eager_error": 1.0}
    return {**labels, "implementation": name, **figures, **known, "wrong": [], "note": "", **more}


def _ideal(case: Case) -> float:
    """What a copy and the matrix products of a call take."""
    work = work_of(every()[case.operator], case)
    return max((work.bytes_read + work.bytes_written) / COPY, (work.flops or 0) / MATMUL)


def _record(ours: float, others: float, cases: list[Case] | None = None) -> dict[str, Any]:
    """Ours takes `ours` times what the card needs, all others `others` times as long as ours."""
    rows = []
    for case in goals() if cases is None else cases:
        seconds = ours * _ideal(case)
        rows.append(_row(case, "ours", seconds))
        rows += [_row(case, name, others * seconds) for name in BASELINES]
    ceilings = {"copy": COPY, "l2_copy": COPY, "matmul": {"bfloat16": MATMUL}, "launch": 1e-6, "launches": {}}
    facts = {"device": "a card", "torch": "2", "triton": "3", "driver": None, "power_limit": None}
    return {"rows": rows, "ceilings": ceilings, "packages": {"apex": "not installed"}, "environment": facts}


def _of(verdicts: list[Verdict], kernel: str, aim: str) -> Verdict:
    (found,) = [v for v in verdicts if v.kernel.startswith(kernel) and aim in v.aim]
    return found


@pytest.fixture(scope="module")
def fast() -> dict[str, Any]:
    return _record(1.02, 25.0)


def test_every_row_of_the_issue_has_goals() -> None:
    """Its table: temporal attention, GroupNorm, flash, temporal conv1d, around convolutions, norms, decode, MaskGIT,
    whole models."""
    kernels = {goal.kernel.partition(",")[0] for goal in GOALS}
    assert kernels == {
        "temporal attention", "GroupNorm + SiLU", "flash forward", "temporal conv1d", "upsample + conv", "upsample",
        "bias + residual", "norms", "decode", "MaskGIT step",
    }  # fmt: skip
    assert [model for _, model, _ in MODELS] == ["stable-diffusion-1.5", "make-a-video"]
    assert {name for goal in GOALS for name in goal.sizes} <= set(SIZES)


def test_without_a_measurement_nothing_is_met_or_missed() -> None:
    assert {verdict.word for verdict in judged([])} == {"not measured"}
    assert len(judged([])) == len(GOALS) + 2 * len(MODELS)


def test_what_is_fast_enough_meets_all_goals_but_those_nobody_can_judge(fast: dict[str, Any]) -> None:
    missed = [verdict for verdict in judged([fast]) if verdict.word != "met"]
    assert [v.kernel.partition(",")[0] for v in missed] == [
        "SD 1.5", "SD 1.5", "Make-A-Video decoder", "Make-A-Video decoder",
    ]  # fmt: skip
    assert {verdict.word for verdict in missed} == {"not measured"}


def test_a_goal_is_missed_where_its_figure_falls_short() -> None:
    slow = judged([_record(2.0, 1.1)])
    assert {verdict.word for verdict in slow[: len(GOALS)]} == {"met", "missed"}
    met = {(v.kernel, v.aim) for v in slow if v.word == "met"}
    assert {aim for _, aim in met} == {"frames to a power ≤ 1.1", "≥ 1 x cuDNN", "≥ 1 x torch.compile"}
    share = _of(slow, "decode", "copy")
    assert share.found.startswith("50 %") and share.word == "missed"


@pytest.mark.parametrize(("factor", "word"), [(0.999, "missed"), (1.001, "met")])
def test_a_goal_is_met_from_its_figure_on(factor: float, word: str) -> None:
    for aim, ratio in (("best SDPA", 5.0), ("with rearranges", 6.0)):
        assert _of(judged([_record(1.0, factor * ratio)]), "temporal attention", aim).word == word
    assert _of(judged([_record(1 / (factor * 0.65), 1.0)]), "temporal conv1d", "matmul").word == word


def test_the_worst_size_decides(fast: dict[str, Any]) -> None:
    (case, *_) = SIZES["image norms"]()
    rows = [
        row | {"seconds": row["seconds"] / 20}
        if row["case"] == case.title() and row["implementation"] == "eager"
        else row
        for row in fast["rows"]
    ]
    found = _of(judged([fast | {"rows": rows}]), "GroupNorm + SiLU, SD", "eager")
    assert found.word == "missed" and found.found == "1.25x, worst of 3"


def test_the_fastest_of_several_is_what_ours_is_compared_with(fast: dict[str, Any]) -> None:
    rows = [
        row | {"seconds": row["seconds"] / 20} if row["implementation"] == "flash-attn" else row for row in fast["rows"]
    ]
    assert _of(judged([fast | {"rows": rows}]), "flash forward, d 40", "FA2").found.startswith("1.25x")
    wrong = [row | {"wrong": ["off"]} if row["implementation"] == "flash-attn" else row for row in rows]
    assert _of(judged([fast | {"rows": wrong}]), "flash forward, d 40", "FA2").found.startswith("25.0x")


def test_a_size_that_others_cannot_do_does_not_count(fast: dict[str, Any]) -> None:
    def without(*heads: int) -> Verdict:
        rows = [
            row | {"seconds": None, "note": "head_dim"}
            if row["implementation"] == "cudnn" and row["case"].endswith(tuple(f"x{d} bf16" for d in heads)) else row
            for row in fast["rows"]
        ]  # fmt: skip
        return _of(judged([fast | {"rows": rows}]), "flash forward, d 40", "cuDNN")

    assert without(160).word == "met" and without(160).found.endswith("worst of 2 of 3")
    assert without(40, 80, 160) == without(40, 80, 160)._replace(found="-", word="not measured")


def test_ours_wrong_is_missed_however_fast(fast: dict[str, Any]) -> None:
    rows = [
        row | {"wrong": ["off by 1"], "percent": None} if row["implementation"] == "ours" else row
        for row in fast["rows"]
    ]
    verdicts = judged([fast | {"rows": rows}])[: len(GOALS)]
    assert {(verdict.word, verdict.found) for verdict in verdicts} == {("missed", "ours is wrong")}


def test_time_over_frames_is_fitted_and_a_square_is_told() -> None:
    frames = list(SIZES["frames"]())
    assert [case.views()[0].shape[3] for case in frames] == [8, 16, 32, 64]
    assert len({case.views()[0].shape[1] for case in frames}) == 1, "positions are equal"

    def verdict(power: float, cases: list[Case]) -> Verdict:
        rows = [_row(case, "ours", 1e-4 * (case.views()[0].shape[3] / 16) ** power) for case in cases]
        return _of(judged([_record(1.0, 1.0) | {"rows": rows}]), "temporal attention, 8", "power")

    assert verdict(1.0, frames) == verdict(1.0, frames)._replace(found="power 1.00", word="met")
    assert verdict(2.0, frames) == verdict(2.0, frames)._replace(found="power 2.00", word="missed")
    assert verdict(1.0, frames[:3]).word == "not measured"


def test_some_sizes_missing_are_not_enough_to_meet_a_goal(fast: dict[str, Any]) -> None:
    norms = [case for case in SIZES["norms"]() if case.operator.endswith("::layer_norm")]
    assert _of(judged([_record(1.02, 25.0, norms)]), "norms", "eager").word == "not measured"
    assert _of(judged([_record(1.02, 2.0, norms)]), "norms", "eager").word == "missed"


def test_a_call_of_a_model_that_is_a_size_of_a_goal_is_timed_once_and_counts_for_both() -> None:
    (decode, *_) = SIZES["decode"]()
    model = Case(decode.operator, decode.args, decode.storages, "llama2-7b", 32.0)
    (both, *rest) = marked([model], goals())
    assert both.where == f"llama2-7b, {GOAL}" and both.weight == 32.0
    assert decode.key not in {case.key for case in rest} and len(rest) == len(goals()) - 1
    found = _record(1.02, 1.0, [both, *(case for case in rest if case.operator == decode.operator)])
    assert _of(judged([found]), "decode", "copy").word == "met"
    elsewhere = _record(1.02, 1.0, [model])
    assert _of(judged([elsewhere]), "decode", "copy").word == "not measured", "a record of before the goal"


def test_sizes_of_goals_are_told_apart_by_their_titles() -> None:
    at = [(case.operator, case.title()) for case in goals()]
    assert len(set(at)) == len(at)


def test_whole_models_are_judged_by_measured_profiles(tmp_path: Path) -> None:
    files = {part.file for part in gpu_parts.parts([])}
    assert {file.format(model=model) for file in PROFILES.values() for _, model, _ in MODELS} <= files
    profile = simulate(loader.load("stable-diffusion-tiny"), Run(device="h100-sxm"))
    for factor, name in ((3.0, "eager-sdpa"), (0.5, "compiled-sdpa"), (1.0, "graph-triton")):
        stages = tuple(stage.model_copy(update={"wall_seconds": factor}) for stage in profile.stages)
        timed = profile.model_copy(update={"source": "measured", "stages": stages})
        timed.save(tmp_path / PROFILES[name].format(model="stable-diffusion-1.5"))
    verdicts = judged([], tmp_path)
    eager, compiled = (_of(verdicts, "SD 1.5", name) for name in ("eager sdpa", "torch.compile"))
    assert (eager.found, eager.word) == ("3.00x", "met")
    assert (compiled.found, compiled.word) == ("0.50x", "missed")
    assert _of(verdicts, "Make-A-Video", "eager").word == "not measured"
    profile.save(tmp_path / PROFILES["graph-triton"].format(model="stable-diffusion-1.5"))
    assert _of(judged([], tmp_path), "SD 1.5", "eager sdpa").word == "not measured", "a prediction is no result"


def test_the_report_ends_with_the_goals(fast: dict[str, Any]) -> None:
    out = console()
    out.width = 110
    with out.capture() as kept:
        out.print(bench_report.report(fast))
    text = kept.get()
    assert "not installed: apex" in text and "Others" in text
    assert text.index("Goal, set for an H200") > text.index("upsample_conv")
    assert text.count("not measured") == 2 * len(MODELS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_composite_is_a_kernel_to_the_command_and_a_part_of_make_gpu() -> None:
    assert "bench-upsample_conv" in [part.name for part in gpu_parts.parts([name[12:] for name in every()])]
