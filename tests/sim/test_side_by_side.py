"""A measured profile beside a predicted one: made by hand, so that every error can be checked on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minimodels import cli, loader
from minimodels.run import Run
from minimodels.sim import tables
from minimodels.sim.profile import Profile
from minimodels.sim.side_by_side import as_json, check, family, report, rows
from minimodels.sim.simulate import simulate
from tests.sim.profiles import image, op


def slower(profile: Profile, category: str, times: float) -> Profile:
    """The profile with the device seconds of a category multiplied."""
    ops = [
        one.model_copy(update={"device_seconds": times * (one.device_seconds or 0)})
        if one.category == category
        else one
        for one in profile.ops
    ]
    return profile.model_copy(update={"ops": tuple(ops)})


def test_errors_are_those_of_the_prediction_by_stage_and_family() -> None:
    found = {(row.what, row.name): row for row in rows(image("measured"), slower(image(), "Linear", 1.5))}
    # Linear: 14 x (2 ms, of which none is gap, and 0.5 ms of gap) and 7 x 3 ms; all in decode, which takes 70 ms
    linear = found["family", "Linear"]
    assert (linear.measured, linear.predicted) == pytest.approx((56e-3, 80.5e-3))
    assert (linear.measured_kernels, linear.predicted_kernels) == pytest.approx((49e-3, 73.5e-3))
    assert found["family", "Linear"].error == pytest.approx(80.5 / 56 - 1)
    assert found["family", "Linear"].kernels_error == pytest.approx(0.5)
    assert found["stage", "decode"].error == pytest.approx(24.5 / 70)
    assert found["stage", "detokenize"].error == 0
    assert found["all", "all"].error == pytest.approx(24.5 / 79)
    assert ("family", "Norm, norm") in found and ("family", "Attention, gemm") in found


def test_stages_keep_their_order_and_families_are_sorted_by_time() -> None:
    found = rows(image("measured"), image())
    assert [row.name for row in found if row.what == "stage"] == ["text_encoder", "decode", "detokenize"]
    times = [row.measured for row in found if row.what == "family"]
    assert times == sorted(times, reverse=True) and sum(times) == pytest.approx(79e-3)


def test_what_only_one_side_has_is_listed_without_an_error() -> None:
    fewer = image("measured")
    fewer = fewer.model_copy(update={"ops": fewer.ops[:-1], "calls": fewer.calls[:-1]})
    (norm,) = [row for row in rows(fewer, image()) if row.name == "Norm, norm"]
    assert (norm.measured, norm.error, norm.kernels_error) == (0, None, None)


@pytest.mark.parametrize(
    ("category", "name", "expected"),
    [
        ("Attention", "scaled_dot_product_attention", "Attention, fused attention"),
        ("Attention", "minimodels::temporal_attention", "Attention, fused attention"),
        ("Attention", "bmm", "Attention, gemm"),
        ("Attention", "softmax", "Attention, softmax"),
        ("Attention", "mul", "Attention, elementwise"),
        ("Linear", "addmm", "Linear"),
        ("Convolution", "conv3d", "Convolution"),
        ("Norm", "argmax", "Norm, elementwise"),
        ("Memory", "cat", "Memory, copy"),
        ("Memory", "normal_", "Memory, random"),
        ("Elementwise", "addcmul", "Elementwise, elementwise"),
    ],
)
def test_a_family_is_a_category_and_a_kind_of_kernel(category: str, name: str, expected: str) -> None:
    assert family(op("decode", category, name)) == expected


def test_every_operator_of_a_walk_has_a_family_and_its_time_is_in_one_row() -> None:
    profile = simulate(loader.load("parti-tiny"), Run(device="h200", attention="baseline"))
    found = rows(profile, profile)
    whole = found[0]
    for what in ("stage", "family"):
        assert sum(row.measured for row in found if row.what == what) == pytest.approx(whole.measured)
    assert all(row.error == 0 for row in found)


def test_a_compiled_run_is_compared_by_category() -> None:
    found = rows(image("measured", mode="compiled"), image(mode="compiled"))
    assert {row.name for row in found if row.what == "family"} == {op.category for op in image().ops}


def test_the_table_and_the_json_hold_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    measured, predicted = image("measured"), slower(image(), "Linear", 1.5)
    tables.console().print(report(measured, predicted))
    text = capsys.readouterr().out
    assert "SIMULATED" in text and "measured on Toy GPU" in text and "+35%" in text and "+50%" in text
    assert max(map(len, text.splitlines())) <= 80
    found = json.loads(json.dumps(as_json(measured, predicted)))
    assert [row["name"] for row in found["rows"]] == [row.name for row in rows(measured, predicted)]
    assert found["rows"][0]["error"] == pytest.approx(24.5 / 79)
    assert Profile.from_json(json.dumps(found["measured"])) == measured


def test_a_cpu_cannot_be_compared_and_what_can_is_said() -> None:
    with pytest.raises(ValueError, match="no prediction for a CPU.*--device cuda.*minibench compare"):
        check("cpu")


def test_the_command_predicts_what_it_measured_for_the_same_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []

    def profiled(config: object, options: dict[str, Any]) -> Profile:
        asked.append(options)
        return image("measured") if len(asked) == 1 else slower(image(), "Linear", 1.5)

    monkeypatch.setattr(cli, "_profile", profiled)
    monkeypatch.setattr("minimodels.sim.side_by_side.check", lambda device: None)
    out, picture = tmp_path / "out.json", tmp_path / "both.svg"
    words = ["profile", "llama-tiny", "--device", "cuda", "--batch", "3", "--mode", "graph", "--compare"]
    done = CliRunner().invoke(cli.main, [*words, "--out", str(out), "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    assert "+35%" in done.output
    measured, predicted = asked
    assert measured["device"] == "cuda"
    assert predicted == measured | {"device": image().device.name, "dtype": "bfloat16"}
    assert Profile.from_json(out.read_text()) == image("measured")
    assert picture.stat().st_size > 0
    asked.clear()
    done = CliRunner().invoke(cli.main, [*words, "--json"])
    assert json.loads(done.output)["rows"][0]["error"] == pytest.approx(24.5 / 79)


@pytest.mark.gpu
def test_a_listed_gpu_can_be_compared_and_the_prediction_is_for_it() -> None:
    from minimodels.sim.measure import measure

    check("cuda")
    measured = measure(loader.load("llama-tiny"), Run(device="cuda", repeats=2, warmup=1))
    predicted = simulate(loader.load("llama-tiny"), Run(device=measured.device.name))
    found = rows(measured, predicted)
    assert all(row.error is not None for row in found if row.what in ("all", "stage"))
