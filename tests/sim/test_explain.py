"""Explanations: error bars add up as said, what-ifs change what they say and nothing else."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from minimodels import loader
from minimodels.cli import main
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim.error_bar import HOST_ERROR, PYTHON, error_of
from minimodels.sim.explain import reasons, what_ifs
from minimodels.sim.profile import Op
from minimodels.sim.simulate import simulate
from minimodels.sim.views import op_seconds, totals

NAME = "stable-diffusion-1.5"


def _op(category: str, seconds: float, error: float | None) -> Op:
    return Op.model_construct(
        stage="s", scope="", category=category, name="x", shapes=(), weight=2.0, device_seconds=seconds / 2,
        gap_seconds=0.0, host_seconds=0.0, error=error, bound="memory", flops=0,
    )  # fmt: skip


def test_errors_of_a_category_add_up_and_those_of_several_as_squares() -> None:
    assert error_of([_op("Norm", 1, 0.1), _op("Norm", 3, 0.2)]) == pytest.approx((0.7 / 4, 0.7 / 4))
    apart = math.hypot(0.3, 0.4) / 4
    assert error_of([_op("Norm", 3, 0.1), _op("Linear", 1, 0.4)]) == pytest.approx((apart, apart))
    assert error_of([_op("Norm", 1, None)]) is None
    assert error_of([]) is None
    waits = _op("Norm", 1, 0.1).model_copy(update={"gap_seconds": 0.5})  # twice, as it runs twice
    assert error_of([waits]) == pytest.approx((math.hypot(0.1, HOST_ERROR) / 2,) * 2)
    assert error_of([_op("Norm", 1, 0.1), _op("Other", 1, 0.1).model_copy(update={"flops": None})]) is None


def test_every_predicted_operator_says_why_and_how_far_off_it_may_be() -> None:
    profile = simulate(loader.load("stable-diffusion-tiny"))
    timed = [op for op in profile.ops if op_seconds(op)]
    assert timed
    for op in timed:
        assert op.error is not None and 0 < op.error < 1 and op.bound and op.provenance
        assert op.utilisation is not None and (op.tiles is None) == (op.waves is None)
    assert any(op.tiles for op in timed)
    bar = error_of(profile.ops)
    assert bar is not None and 0 < bar.less <= max(op.error or 0 for op in timed)


def test_the_bar_reaches_up_to_a_slow_host_where_it_would_decide() -> None:
    busy = _op("Norm", 4, 0.1).model_copy(update={"host_seconds": 1.0})  # twice: 5 s of a host PYTHON times as slow
    assert error_of([busy]) == pytest.approx((0.1, math.hypot(0.1, (2 * PYTHON - 4) / 4)))
    lean = _op("Norm", 4, 0.1).model_copy(update={"host_seconds": 0.1})
    assert error_of([lean]) == pytest.approx((0.1, 0.1))
    assert str(error_of([lean])) == "± 10 %" and str(error_of([busy])) == "-10 % to +36 %"


def test_the_bar_covers_a_pipeline_whose_host_decides() -> None:
    rate = 23.1  # iterations per second of diffusers on an A100 in 2023, batch 1, eager, 512 x 512: diffusers docs
    profile = simulate(loader.load(NAME, (), {"steps": 3}), Run(device="a100-80gb", dtype="float16"))
    ops = [op for op in profile.ops if op.stage == "denoise"]
    seconds, bar = totals(ops).known_seconds, error_of(ops)
    assert bar is not None and seconds * (1 - bar.less) <= 3 / rate <= seconds * (1 + bar.more)


def test_reasons_lose_no_time_and_the_longest_stands_first() -> None:
    profile = simulate(loader.load("stable-diffusion-tiny"))
    found = reasons(profile.ops, 10**6)
    assert sum(reason.seconds for reason in found) == pytest.approx(totals(profile.ops).known_seconds)
    assert [reason.seconds for reason in found] == sorted((reason.seconds for reason in found), reverse=True)
    assert reasons(profile.ops, 3) == found[:3]


@pytest.fixture(scope="module")
def changes() -> dict[str, float | None]:
    config = loader.load(NAME, (), {"steps": 3})
    return {change.change: change.seconds for change in what_ifs(config, Run())}


def test_what_ifs_are_bounded_by_what_they_change(changes: dict[str, float | None]) -> None:
    now = totals(simulate(loader.load(NAME, (), {"steps": 3})).ops).known_seconds
    for change in ("memory twice as fast", "tensor cores twice as fast"):
        assert now / 2 < (changes[change] or 0) < now
    assert (changes["weights in 8 bits, products as they are"] or 0) < now
    assert (changes["compiled"] or 0) < (changes["launched as CUDA graphs"] or 0) <= now
    assert (changes["attention without FlashAttention"] or 0) > now
    assert changes["linear layers in fp8, weights and inputs"] is None, "an A100 has no fp8"


def test_each_change_is_what_a_profile_with_it_says(changes: dict[str, float | None]) -> None:
    config = loader.load(NAME, (), {"steps": 3})
    for said, run in {
        "launched as CUDA graphs": Run(mode="graph"),
        "compiled": Run(mode="compiled"),
        "attention without FlashAttention": Run(attention="baseline"),
        "kernels of ours": Run(attention="triton", kernels="triton"),
    }.items():
        assert changes[said] == pytest.approx(totals(simulate(config, run).ops).known_seconds, rel=1e-6), said


def test_a_baseline_is_told_what_flash_attention_would_do() -> None:
    found = {change.change: change.seconds for change in what_ifs(loader.load("parti-tiny"), Run(attention="baseline"))}
    assert found["FlashAttention"] and "attention without FlashAttention" not in found


def test_constants_from_another_generation_have_wider_errors() -> None:
    assert not devices.load("rtx-3090").distant() and not devices.load("a100-80gb").distant()
    assert devices.load("t4").distant() and devices.load("b200").distant() and devices.load("mi325x").distant()
    config = loader.load(NAME, (), {"steps": 3})
    near, far = (error_of(simulate(config, Run(device=name, dtype="float16")).ops) for name in ("a40", "t4"))
    assert near and far and far.less > 1.3 * near.less


def test_the_command_prints_reasons_and_what_ifs_and_says_them_as_json() -> None:
    shown = CliRunner().invoke(main, ["profile", "stable-diffusion-tiny", "--explain"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0 and "What if" in shown.stdout and "memory twice as fast" in shown.stdout
    found = json.loads(CliRunner().invoke(main, ["profile", "stable-diffusion-tiny", "--explain", "--json"]).stdout)
    assert {"change", "seconds", "note"} == set(found["what_if"][0]) and 0 < found["error"]["less"] < found["error"][
        "more"
    ]
    assert found["profile"]["source"] == "simulated"


@pytest.mark.parametrize("device", ("cpu", "cuda"))
def test_a_measurement_is_not_explained(device: str) -> None:
    result = CliRunner().invoke(main, ["profile", "stable-diffusion-tiny", "--explain", "--device", device])
    assert result.exit_code == 2 and "--explain simulates; name a GPU" in result.stderr
