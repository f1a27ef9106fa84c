"""What must hold for every simulated profile, and for Parti and LLaMA-2 in particular."""

from __future__ import annotations

from fractions import Fraction

import pytest

from minimodels import loader
from minimodels.run import Run, build, parameters
from minimodels.sim import views
from minimodels.sim.memory import ROUNDING
from minimodels.sim.profile import Profile
from minimodels.sim.simulate import simulate


def profile(name: str, overrides: tuple[str, ...] = (), **options: object) -> Profile:
    return simulate(loader.load(name, overrides), Run(**options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def parti() -> Profile:
    return profile("parti-350m")


def exact_flops(found: Profile) -> Fraction:
    return sum((Fraction(op.weight) * (op.flops or 0) for op in found.ops), Fraction(0))


def test_device_plus_gap_seconds_are_the_stage(parti: Profile) -> None:
    for stage in parti.stages:
        ops = [op for op in parti.ops if op.stage == stage.name]
        seconds = sum(op.weight * (op.device_seconds + op.gap_seconds) for op in ops)  # type: ignore[operator]
        assert stage.seconds == pytest.approx(seconds, rel=1e-12)  # the same sum, in another order at most
        assert stage.wall_seconds == stage.seconds


def test_calls_list_every_op_and_weights_are_executions(parti: Profile) -> None:
    assert set(parti.calls) == set(range(len(parti.ops)))
    layers, tokens = 12, 1024
    cores = [op for op in parti.ops if op.attention and op.stage == "decode"]
    assert sum(op.weight for op in cores if op.name == "scaled_dot_product_attention") == 2 * layers * tokens


def test_knots_give_the_flops_and_bytes_of_every_step_and_nearly_its_time(parti: Profile) -> None:
    full = profile("parti-350m", full=True)
    assert exact_flops(full) == exact_flops(parti)
    for attribute in ("bytes_read", "bytes_written", "launches"):
        sums = [sum(Fraction(op.weight) * getattr(op, attribute) for op in p.ops) for p in (full, parti)]
        assert sums[0] == sums[1], attribute
    seconds = [sum(stage.seconds or 0 for stage in p.stages) for p in (full, parti)]
    assert seconds[1] == pytest.approx(seconds[0], rel=0.01)  # the knots' tolerance is 0.005 of a step


def test_the_flops_of_a_decode_step_are_what_pencil_and_paper_give() -> None:
    found = profile("llama2-7b", ("run.prompt_len=1", "run.gen_len=2"))
    ops = [op for op in found.ops if op.stage == "decode"]
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    scores = 32 * 2 * 2 * 4096  # two keys by then: q k^T and p v over 4096 features, 32 layers
    assert sum(Fraction(op.weight) * (op.flops or 0) for op in ops) == 2 * (weights + scores)


def test_memory_holds_weights_cache_and_the_materialised_scores() -> None:
    found = profile("llama2-7b", ("run.prompt_len=512", "run.gen_len=3"), attention="baseline")
    counted = parameters(build(loader.load("llama2-7b"), "meta")["language_model"])
    tables = 2 * 4096 * 128  # cosines and sines
    assert found.memory.weights == pytest.approx(
        2 * (counted + tables), abs=ROUNDING * 400
    )  # 291 tensors, each rounded up
    assert found.memory.kv_cache == 32 * 2 * 32 * 515 * 128 * 2
    scores = 32 * 512 * 512 * 2
    peak = found.ops[found.memory.peak_op or 0]
    assert peak.category == "Attention"
    assert found.memory.peak - found.memory.weights - found.memory.kv_cache > 2 * scores  # scores and their softmax


def test_resident_stage_keeps_only_the_parts_of_the_running_stage() -> None:
    everything, stagewise = profile("parti-350m"), profile("parti-350m", resident="stage")
    parts = build(loader.load("parti-350m"), "meta")
    assert stagewise.memory.weights < everything.memory.weights
    assert everything.memory.weights >= 2 * sum(map(parameters, parts.values()))
    peaks = views.stage_peaks(stagewise)
    assert peaks["super_resolution"] is not None and peaks["decode"] is not None
    assert peaks["super_resolution"] < 2 * parameters(parts["transformer"])


def test_modes_only_take_time_away() -> None:
    seconds = {
        mode: sum(stage.seconds or 0 for stage in profile("llama2-7b", ("run.gen_len=9",), mode=mode).stages)
        for mode in ("eager", "compiled", "graph")
    }
    assert seconds["graph"] < seconds["eager"]
    assert seconds["compiled"] < seconds["eager"]


def test_baseline_moves_more_bytes_for_the_same_flops() -> None:
    baseline, flash = (profile("llama2-7b", ("run.gen_len=2",), attention=name) for name in ("baseline", "flash"))
    assert exact_flops(baseline) == exact_flops(flash)
    moved = [sum(op.weight * (op.bytes_read + op.bytes_written) for op in p.ops) for p in (baseline, flash)]
    assert moved[0] > 1.3 * moved[1]
    assert views.attention_backends(baseline).keys() == {"baseline"}
    assert views.attention_backends(flash).keys() == {"flash"}


def test_everything_is_modelled_and_repeatable(parti: Profile) -> None:
    assert list(parti.unmodelled()) == []
    assert profile("parti-350m") == parti
    assert Profile.from_json(parti.to_json()) == parti


def test_a_dtype_without_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="float64.*it has"):
        profile("llama-tiny", dtype="float64")
