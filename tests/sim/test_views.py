"""What is derived from a Profile, against numbers worked out by hand from `profiles.py`."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest

from minimodels.sim import device, sentences, units, views
from minimodels.sim.profile import Memory, Profile
from tests.sim.profiles import attended, image, language, on, op, with_ops


def test_a_profile_that_contradicts_itself_is_refused_in_our_words() -> None:
    broken = image().model_copy(update={"calls": (999,)}).to_json()
    with pytest.raises(ValueError, match="^mine is not a minimodels profile: a call points outside the list of ops$"):
        Profile.from_json(broken, "mine")


def test_stages_sum_their_executions() -> None:
    stages = views.by_stage(image())
    assert list(stages) == ["text_encoder", "decode", "detokenize"]
    decode = stages["decode"]
    assert decode.seconds == pytest.approx(14 * 2.5e-3 + 14 * 1e-3 + 7 * 3e-3)
    assert decode.flops == 14 * 144 + 8 * 48 + 7 * 264 + 6 * 120 == 4968
    assert decode.bytes == 14 * 120 + 14 * 14 + 7 * 200 == 3276
    assert decode.launches == 35
    assert decode.intensity == pytest.approx(4968 / 3276)
    assert stages["detokenize"].launches == 3


def test_categories_differ_between_the_readings_by_the_projections() -> None:
    core, module = views.by_category(image(), "core"), views.by_category(image(), "module")
    assert list(core) == ["Attention", "Convolution", "Linear", "Norm", "Embedding"]
    assert core["Attention"].seconds == pytest.approx(3e-3 + 14e-3)
    assert module["Attention"].seconds == pytest.approx(17e-3 + 35e-3)
    assert core["Linear"].seconds == pytest.approx(56e-3)
    assert module["Linear"].seconds == pytest.approx(21e-3)
    assert views.totals(image().ops).seconds == pytest.approx(sum(part.known_seconds for part in module.values()))


def test_categories_of_one_stage_leave_the_others_out() -> None:
    assert list(views.by_category(image(), "core", "detokenize")) == ["Convolution", "Norm"]


def test_convolutions_are_told_apart_by_their_filters() -> None:
    small = op("detokenize", "Convolution", "conv2d", shapes=((1, 3, 5, 5), (7, 3, 1, 1)), flops=1050)
    profile = image().model_copy(update={"ops": (*image().ops, small)})
    assert {size: part.flops for size, part in views.by_filter(profile).items()} == {"3x3": 2700, "1x1": 1050}
    assert list(views.by_filter(language())) == []


def test_modules_keep_what_lies_outside_any() -> None:
    modules = views.by_module(image())
    assert list(modules) == [views.OUTSIDE, "attention", "resblock"]
    assert modules[views.OUTSIDE].seconds == pytest.approx(0.5e-3 + 21e-3)


def test_flops_of_fractional_weights_are_exact() -> None:
    thirds = [op("decode", "Linear", "aten::linear", weight=weight, flops=7) for weight in (1024 / 3, 2048 / 3)]
    assert views.totals(thirds).flops == 7168
    assert views.totals(thirds[:1]).flops == Fraction(7168, 3)
    huge = [op("decode", "Linear", "aten::linear", weight=0.5, flops=2**62 + 2)]
    assert views.totals(huge).flops == 2**61 + 1


def test_one_unknown_time_makes_the_sum_unknown_but_not_the_known_part() -> None:
    ops = [op("s", "Other", "a"), op("s", "Other", "b", device_seconds=None), op("s", "Other", "c", gap_seconds=None)]
    total = views.totals(ops)
    assert (total.seconds, total.untimed, total.known_seconds) == (None, 2, 1e-3)
    assert views.share(total, total) is None


def test_one_operator_without_formula_makes_flops_and_intensity_unknown() -> None:
    decode = views.by_stage(language())["decode"]
    assert (decode.flops, decode.intensity, decode.known_flops, decode.unmodelled) == (None, None, 7 * 216, 1)
    assert views.named(language().unmodelled()) == {"aten::topk": 7}


def test_wall_clock_is_preferred_and_unknown_stays_unknown() -> None:
    stages = image().stages
    walled = image().model_copy(update={"stages": (stages[0].model_copy(update={"wall_seconds": 5e-3}), *stages[1:])})
    assert views.elapsed(walled) == pytest.approx(5e-3 + 70e-3 + 5.5e-3)
    assert views.elapsed(walled, "decode") == pytest.approx(70e-3)
    assert views.elapsed(walled, "nowhere") is None
    blank = tuple(stage.model_copy(update={"seconds": None}) for stage in stages)
    assert views.elapsed(image().model_copy(update={"stages": blank})) == pytest.approx(79e-3)
    assert views.elapsed(with_ops(image(), gap_seconds=None).model_copy(update={"stages": blank})) is None


def test_stage_peaks_follow_the_timeline() -> None:
    assert views.stage_peaks(image()) == {"text_encoder": 950, "decode": 1890, "detokenize": 1400}


def test_bytes_hold_until_the_timeline_changes() -> None:
    memory = image().memory.model_copy(update={"timeline": ((0, 900), (4, 1700), (6, 1600))})
    profile = image().model_copy(update={"memory": memory})
    assert views.timelines(profile) == [
        ("text_encoder", [(0, 900), (3, 900)]),
        ("decode", [(3, 900), (4, 1700), (6, 1600), (13, 1600)]),
        ("detokenize", [(13, 1600), (15, 1600)]),
    ]
    assert views.stage_peaks(profile) == {"text_encoder": 900, "decode": 1700, "detokenize": 1600}


def test_timeline_beyond_the_calls_is_refused() -> None:
    memory = image().memory.model_copy(update={"timeline": ((0, 900), (15, 1700))})
    with pytest.raises(ValueError, match="beyond the 15"):
        views.timelines(image().model_copy(update={"memory": memory}))


def test_attention_calls_join_the_operators_of_an_unfused_one() -> None:
    calls = views.attention_calls(image())
    assert [(c.call, c.stage, c.facts.key_length, c.executions) for c in calls] == [
        (1, "text_encoder", 5, 1), (4, "decode", 2, 4), (6, "decode", 2, 4), (9, "decode", 5, 3), (11, "decode", 5, 3),
    ]  # fmt: skip
    assert views.attention_backends(image()) == {"flash": 14, "efficient": 1}


def test_equal_attention_calls_in_a_row_stay_apart() -> None:
    fused = op("decode", "Attention", "flash", weight=3.0, attention=attended(4))
    profile = language(ops=(fused,), calls=(0, 0, 0), memory=language().memory.model_copy(update={"peak_op": 0}))
    assert [call.executions for call in views.attention_calls(profile)] == [1, 1, 1]


def test_equal_copies_inside_one_attention_call_do_not_split_it() -> None:
    copy = op("decode", "Memory", "aten::clone", weight=8.0, attention=attended(4, "baseline"))
    product = op("decode", "Attention", "aten::bmm", weight=4.0, attention=attended(4, "baseline"))
    memory = language().memory.model_copy(update={"peak_op": 0})
    profile = language(ops=(copy, product), calls=(0, 0, 1, 0, 0, 1), memory=memory)
    assert [(call.call, call.executions) for call in views.attention_calls(profile)] == [(0, 2), (3, 2)]


def test_weights_read_per_step_are_those_of_all_layers() -> None:
    assert sentences.weight_passes(image(), "decode") == (2 * 72 + 132, 7)
    assert sentences.weight_passes(image(), "detokenize", "Convolution") is None


def test_headline_of_an_image_model_counts_seconds_per_image() -> None:
    each, mfu, bandwidth = views.headline(image(batch=2))
    assert (each.unit, each.value) == ("s/image", pytest.approx(79e-3 / 2))
    assert (mfu.value, mfu.at_least) == (pytest.approx((180 + 4968 + 2700) / (79e-3 * 2e6)), False)
    assert bandwidth.value == pytest.approx((42 + 3276 + 372) / 79e-3)


def test_headline_of_a_video_model_counts_seconds_per_video() -> None:
    assert views.headline(image(frames=5))[0].unit == "s/video"


def test_headline_of_a_language_model_counts_prefill_and_tokens() -> None:
    prefill, decode, mfu, _ = views.headline(language())
    assert (prefill.unit, prefill.value) == ("s", pytest.approx(8e-3))
    assert (decode.unit, decode.value) == ("tokens/s", pytest.approx(3 * 7 / 21e-3))
    assert mfu.at_least
    alone = language(run=language().run.model_copy(update={"gen_len": 1}))
    assert [quantity.label for quantity in views.headline(alone)] == ["prefill", "MFU", "achieved bandwidth"]


def test_utilisation_is_unknown_without_a_peak() -> None:
    profile = on(image(), peak_flops=None)
    assert views.mfu(profile) is None


def test_smallest_device_that_holds_is_found() -> None:
    sizes = {name: device.load(name).datasheet.memory_bytes for name in device.names()}
    found = views.smallest_device(81_000_000_000, above=80_000_000_000)
    assert found is not None
    assert found.datasheet.memory_bytes == min(size for size in sizes.values() if size >= 81_000_000_000)
    assert views.smallest_device(10**15) is None


def test_labels_name_only_what_differs() -> None:
    assert units.labels([image(), image(attention="baseline")]) == ["parti-toy, flash", "parti-toy, baseline"]
    assert units.labels([image(batch=3), image("measured")]) == [
        "parti-toy, batch 3, simulated",
        "parti-toy, batch 1, measured",
    ]
    assert units.labels([image(), image()]) == ["parti-toy #1", "parti-toy #2"]
    assert units.labels([image(guidance_scale=1.5), language(run=image().run)]) == ["parti-toy", "llama-toy"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.size(40_912_345_678), "40.9 GB"),
        (units.size(80_000_000_000), "80 GB"),
        (units.size(999_600), "1.00 MB"),
        (units.size(0), "0 B"),
        (units.seconds(0.0123), "12.3 ms"),
        (units.seconds(1234.5), "1,234 s"),
        (units.seconds(3.2e-6), "3.20 µs"),
        (units.seconds(None), "unknown"),
        (units.flops(Fraction(3, 2)), "1.50 FLOP"),
        (units.count(131072), "131,072"),
        (units.count(12_300_000), "12.3 M"),
        (units.count(Fraction(5, 2)), "2.5"),
        (units.percent(0.674), "67 %"),
        (units.percent(0.0674), "6.7 %"),
        (units.percent(0.0001), "< 0.1 %"),
        (units.percent(0.996), "99.6 %"),
        (units.percent(0.99999), "> 99.9 %"),
        (units.percent(1.0), "100 %"),
        (units.percent(0.0), "0 %"),
        (units.times(0.5), "0.50x"),
        (units.times(0.001), "<0.01x"),
        (units.times(12.34), "12.3x"),
        (units.params(20_512_000_000), "20.5 B"),
        (units.params(387_000_000), "387 M"),
    ],
)
def test_numbers_are_written_with_three_digits_and_a_unit(text: str, expected: str) -> None:
    assert text == expected


def test_views_import_neither_torch_nor_matplotlib_nor_rich() -> None:
    code = "import sys, minimodels.sim.views; print([m for m in ('torch', 'matplotlib', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_empty_memory_record_is_no_error() -> None:
    memory = Memory(weights=0, kv_cache=0, peak=0, peak_op=None, fits=None, timeline=())
    assert views.stage_peaks(image().model_copy(update={"memory": memory})) == dict.fromkeys(views.by_stage(image()))
