"""What must hold for every simulated profile, and for Parti and LLaMA-2 in particular."""

from __future__ import annotations

import gc
from fractions import Fraction
from typing import Any

import pytest
import torch

from minimodels import loader
from minimodels.run import Run, build, parameters
from minimodels.sim import sentences, views
from minimodels.sim.memory import RESERVE, ROUNDING, Usage
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


@pytest.mark.slow
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
    before, after = (views.stage_peaks(one)["super_resolution"] for one in (everything, stagewise))
    assert before is not None and after is not None
    assert before - after >= 2 * parameters(parts["transformer"])


def test_resident_stage_drops_the_encoder_while_the_decoder_runs() -> None:
    """Both are in one part of Parti; only what the stage reads is in memory."""
    transformer: Any = build(loader.load("parti-350m"), "meta")["transformer"]
    encoder, decoder = 2 * parameters(transformer.encoder), 2 * parameters(transformer.decoder)
    found = profile("parti-350m", resident="stage")
    peaks = views.stage_peaks(found)
    assert encoder <= (peaks["text_encoder"] or 0) < decoder
    activations = 20_000_000  # logits and text features of two sequences; the encoder is five times that
    assert decoder <= (peaks["decode"] or 0) - found.memory.kv_cache < decoder + activations < decoder + encoder / 4


@pytest.mark.parametrize(("short", "fits"), [(0, True), (1, False)])
def test_a_run_fits_if_its_peak_and_the_reserve_do(short: int, fits: bool) -> None:
    memory = Usage([700, 900], 0).finish([0, 0], 500, 900 + RESERVE - short, RESERVE)
    assert (memory.peak, memory.reserve, memory.fits) == (900, RESERVE, fits)
    assert profile("llama-tiny").memory.reserve == RESERVE


def test_the_cycle_collector_rests_while_records_pile_up() -> None:
    resting: set[bool] = set()
    config = loader.load("llama-tiny")
    simulate(config, Run(full=True), lambda *_: resting.add(not gc.isenabled()))
    assert resting == {True} and gc.isenabled()
    with pytest.raises(ValueError, match="unknown device"):
        simulate(config, Run(device="toaster"))
    assert gc.isenabled(), "an error leaves it running"


def test_modes_only_take_time_away() -> None:
    seconds = {
        mode: sum(stage.seconds or 0 for stage in profile("llama2-7b", ("run.gen_len=9",), mode=mode).stages)
        for mode in ("eager", "compiled", "graph")
    }
    assert seconds["graph"] < seconds["eager"]
    assert seconds["compiled"] < seconds["eager"]


CAUSAL_SCALE = pytest.mark.parametrize("name", ["llama-tiny", "parti-350m"])


@CAUSAL_SCALE
def test_a_mode_records_the_bytes_and_launches_it_was_priced_with(name: str) -> None:
    found = {mode: views.totals(profile(name, mode=mode).ops) for mode in ("eager", "graph", "compiled")}
    assert found["compiled"].bytes < found["eager"].bytes < found["graph"].bytes
    assert found["compiled"].launches < found["eager"].launches == found["graph"].launches
    assert len({total.flops for total in found.values()}) == 1


@CAUSAL_SCALE
@pytest.mark.parametrize("mode", ["eager", "graph", "compiled"])
def test_ops_of_every_mode_add_up_to_the_stage(name: str, mode: str) -> None:
    found = profile(name, mode=mode)
    for stage in found.stages:
        ops = [op for op in found.ops if op.stage == stage.name]
        assert stage.seconds == sum(op.weight * (op.device_seconds + op.gap_seconds) for op in ops)  # type: ignore[operator]
        assert stage.launches == sum(op.weight * op.launches for op in ops)


def test_a_graph_reads_the_whole_bucket_of_its_cache() -> None:
    lengths = ("run.prompt_len=7", "run.gen_len=3")  # 8 and 9 keys of a bucket of 256
    eager, graph = (profile("llama-tiny", lengths, mode=mode, full=True) for mode in ("eager", "graph"))
    (layers, kv_heads, head_dim), bfloat16 = (3, 2, 8), 2
    unused = sum(256 - keys for keys in (8, 9))
    moved = [views.totals(p.ops).bytes for p in (eager, graph)]
    assert moved[1] - moved[0] == unused * layers * 2 * kv_heads * head_dim * bfloat16


@pytest.mark.parametrize("name", ["llama-tiny", "parti-tiny"])
def test_compiled_knots_record_what_every_step_does(name: str) -> None:
    few, every = (profile(name, mode="compiled", full=full) for full in (False, True))
    sums = [views.totals(p.ops) for p in (few, every)]
    assert (sums[0].flops, sums[0].bytes, sums[0].launches) == (sums[1].flops, sums[1].bytes, sums[1].launches)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("llama-tiny", {"prefill": None, "decode": 10}),
        ("parti-tiny", {"text_encoder": None, "decode": 25, "detokenize": None, "super_resolution": None}),
        ("stable-diffusion-tiny", {"text_encoder": None, "denoise": 3, "decode": None}),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_stages_say_how_often_their_loop_iterates(name: str, steps: dict[str, int | None], full: bool) -> None:
    assert {stage.name: stage.steps for stage in profile(name, full=full).stages} == steps


@pytest.mark.parametrize("name", ["llama-tiny", "parti-tiny", "stable-diffusion-tiny"])
def test_every_step_and_a_few_read_the_same_weights_as_often(name: str) -> None:
    few, every = (profile(name, full=full) for full in (False, True))
    for stage in few.stages:
        found = [
            sentences.weight_passes(p, stage.name, kind) for p in (few, every) for kind in ("Linear", "Convolution")
        ]
        assert found[:2] == found[2:]
        assert (found[0] is not None) == (stage.steps is not None)


WIDE = ("language_model.decoder.depth=1", "run.prompt_len=5", "run.gen_len=9")


def test_the_sentence_of_every_step_is_that_of_a_few() -> None:
    few, every = (sentences.sentences(profile("llama2-7b", WIDE, mode="graph", full=full)) for full in (False, True))
    (share, told), (other, same) = (text[0].split(" % ", 1) for text in (few, every))
    assert abs(int(share) - int(other)) <= 1, "on either side of a half"
    assert [told, *few[1:]] == [same, *every[1:]]
    layer, head = 4 * 4096**2 + 3 * 4096 * 11008, 4096 * 32000
    assert f"{2 * (layer + head) / 1e6:.0f} MB of weights are read 8 times" in few[0]


def test_weights_read_before_the_loop_are_not_read_in_it() -> None:
    deep = ("transformer.decoder.depth=19",)
    found = profile("parti-tiny", deep)
    before = [op for op in found.ops if op.stage == "decode" and op.name == "linear" and op.steps is None]
    assert sum(op.weight for op in before) == 2 * 19 > 25, "keys and values of the text, and more than there are steps"
    parts = build(loader.load("parti-tiny", deep), "meta").named_modules()
    linears = {name: m for name, m in parts if "transformer.decoder" in name and isinstance(m, torch.nn.Linear)}
    read = [m for name, m in linears.items() if not name.endswith(("cross_attention.to_k", "cross_attention.to_v"))]
    assert len(linears) - len(read) == 2 * 19
    assert sentences.weight_passes(found, "decode") == (2 * sum(m.weight.numel() for m in read), 25)


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
