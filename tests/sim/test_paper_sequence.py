"""Sequence lengths of the study: its formulas against the walk, its figures against what is known of tiny networks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import minimodels
from minimodels.run import Run, build
from minimodels.sim import device as devices
from minimodels.sim import units, views
from minimodels.sim.cache.layouts import SampledWalk, walked
from minimodels.sim.cache.tensors import loads
from minimodels.sim.paper import formulas, frames, scaling, sequence, sizes, study, temporal
from minimodels.sim.paper.points import miss_rates, sampled
from minimodels.sim.paper.result import numbers
from minimodels.sim.paper.sequence import Point
from minimodels.sim.paper.study import Study, of_device
from minimodels.sim.profile import Profile

TINY = {
    "LLaMA": "llama-tiny", "Imagen": "imagen-tiny", "StableDiffusion": "stable-diffusion-tiny", "Muse": "muse-tiny",
    "Parti": "parti-tiny", "MakeAVideo": "make-a-video-tiny",
}  # fmt: skip
ONE_BLOCK = (  # one head, and one block a level on the way down
    "unet.middle.num_heads=1", "unet.levels.0.attention.num_heads=1", "unet.levels.1.res_blocks=1",
    'unet.levels.1.attention={kind="transformer", depth=1, num_heads=1}',
)  # fmt: skip
HEIGHT, WIDTH, TEXT, DEPTH = 8, 12, 7, 2


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study on configs that take milliseconds."""
    monkeypatch.setattr(study, "WORKLOADS", TINY)
    monkeypatch.setattr(frames, "SCALES", (1.0, 2.0, 4.0))
    return of_device("a100-80gb")


class Nothing(nn.Module):
    """An attention block that is not there."""

    def forward(self, x: Tensor, told: object) -> Tensor:
        return x


def matrices(profile: Profile) -> float:
    """Bytes of all similarity matrices that an inference writes."""
    return sum(op.weight * op.bytes_written for op in profile.ops if op.attention and op.name == "softmax")


def walked_unet(batch: int, cut: bool) -> float:
    """Bytes of the similarity matrices of one pass of a UNet; cut: without the second block of a level going up."""
    unet: Any = build(minimodels.load("stable-diffusion-tiny", ONE_BLOCK), "meta", torch.bfloat16)["unet"]
    for stage in unet.up:
        if cut and len(stage.attentions):
            stage.attentions[1] = Nothing()
    x, text = (torch.empty(batch, *rest, dtype=torch.bfloat16) for rest in ((4, HEIGHT, WIDTH), (TEXT, 24)))
    return matrices(minimodels.simulate(unet, x, 3.0, text, device="a100-80gb", attention="baseline"))


def test_equation_4_is_the_walk_of_one_head_one_sample_and_one_block_a_level() -> None:
    assert walked_unet(1, cut=True) == formulas.unet_similarity_bytes(HEIGHT, WIDTH, TEXT, DEPTH)


def test_its_general_form_counts_blocks_and_batch() -> None:
    general = formulas.unet_similarity_bytes(HEIGHT, WIDTH, TEXT, DEPTH, blocks=(1, 2), batch=3)
    assert walked_unet(3, cut=False) == general


@pytest.mark.parametrize("size", [192, 512])
def test_its_general_form_is_the_walk_of_stable_diffusion(size: int) -> None:
    found = sizes.step(of_device("a100-80gb").profile("StableDiffusion", "baseline", image_size=size))
    side = size // 8
    assert found.side == side
    assert found.bytes == found.general == formulas.unet_similarity_bytes(
        side, side, 77, 3, blocks=(2, 3), heads=8, batch=2
    )  # fmt: skip
    assert found.printed == formulas.unet_similarity_bytes(side, side, 77, 3) != found.bytes


def test_equation_4_is_printed_so() -> None:
    """2 [2 sum over the levels of HW/d^2n (HW/d^2n + text) + the same at the middle]."""
    pixels = [HEIGHT * WIDTH // 4**n for n in range(DEPTH + 1)]
    terms = [n * (n + TEXT) for n in pixels]
    assert formulas.unet_similarity_bytes(HEIGHT, WIDTH, TEXT, DEPTH) == 2 * (2 * sum(terms[:DEPTH]) + terms[DEPTH])
    assert formulas.similarity_bytes(HEIGHT, WIDTH, TEXT) == 2 * terms[0]


def test_memory_grows_with_the_fourth_power_of_the_side() -> None:
    small, large = (formulas.unet_similarity_bytes(side, side, 0, 3) for side in (64, 192))
    assert large == 3**4 * small and sizes.exponent(small, large, 3) == pytest.approx(4)


def test_a_side_that_cannot_be_halved_so_often_is_an_error() -> None:
    with pytest.raises(ValueError, match="12 x 8 cannot be divided by 2 3 times"):
        formulas.unet_similarity_bytes(12, 8, 7, 3)


def test_flops_over_frames_and_pixels_are_the_walk(tiny: Study) -> None:
    for number in (3, 5):
        profile = tiny.profile("MakeAVideo", frames=number)
        for role in frames.ROLES:
            walk, formula, _ = frames.attended(profile, role, number, 6)
            assert walk == formula > 0


def test_the_curve_over_frames_is_what_the_text_is_scored_by(tiny: Study) -> None:
    own = tiny.profile("MakeAVideo")
    why = next(score.why for score in frames.fig14(tiny).scores if score.id == "f14-04")
    curve = {number: units.times(frames.by_count(own.config, number)) for number in frames._frames(own)}
    assert why.endswith(", ".join(f"{fewer} at {number}" for number, fewer in curve.items()))
    rows = {row[4]: row[6] for row in temporal.fig12(tiny).rows if row[2] == "by count"}
    assert rows[8] == frames.by_count(own.config, 8) and set(rows) == set(temporal.FRAMES)


def test_make_a_video_has_the_published_ratio_at_its_interpolated_frames() -> None:
    config = study.config_of("MakeAVideo").model_dump(mode="json")
    assert frames.by_count(config, 16) == pytest.approx(46.7, abs=0.05), "46 by a count without the text's keys"
    assert frames.by_count(config, 76) == pytest.approx(9.84, abs=0.005)


def test_one_layer_crosses_over_at_as_many_frames_as_pixels() -> None:
    at = formulas.crossover(3, 5)
    assert formulas.spatial_flops(at, 3, 5, 8) == formulas.temporal_flops(at, 3, 5, 8)
    assert formulas.spatial_flops(2 * at, 3, 5, 8) < formulas.temporal_flops(2 * at, 3, 5, 8)


def test_points_are_one_period_of_the_calls(tiny: Study) -> None:
    def lengths(name: str, *stages: str) -> list[tuple[int, int]]:
        return [(point.number, point.length) for point in sequence.points(tiny.profile(name), *stages)]

    diffusion = [length for _, length in lengths("StableDiffusion", "denoise")]
    assert diffusion == [144, 36, 36, 36, 36, 9, *(6 * [36]), 144, 144]
    assert lengths("Muse", "transformer") == [(0, 9), (1, 9), (2, 9)]
    parti = lengths("Parti", "decode")
    assert parti[0] == (0, 1) and parti[-1] == (25 * 3 - 1, 25)
    assert all(number // 3 == length - 1 for number, length in parti), "3 layers, a key more each token"
    llama = lengths("LLaMA", "prefill", "decode")
    assert llama[:4] == [(0, 7), (1, 7), (2, 7), (3, 8)] and llama[-1] == (3 + 10 * 3 - 1, 17)


def test_no_window_moves_more_bytes_a_second_than_the_device_can(tiny: Study) -> None:
    profile = tiny.profile("StableDiffusion", "baseline")
    for point in sequence.points(profile, "denoise"):
        assert all(0 < (used or 0) < 2.1e12 for used in point.bandwidth.values())


def point(length: int, used: float, executions: float = 1.0) -> Point:
    return Point("s", 0, length, executions, dict.fromkeys(sequence.WINDOWS, used), {})


def correlation(found: list[Point]) -> float | None:
    return sequence.correlation(found, [p.bandwidth[sequence.WINDOWS[0]] for p in found])


def test_what_a_call_moves_or_misses_correlates_as_it_should() -> None:
    line = [point(1, 30.0), point(2, 50.0), point(5, 110.0)]
    assert correlation(line) == pytest.approx(1)
    assert correlation([point(p.length, -(p.bandwidth[sequence.WINDOWS[0]] or 0)) for p in line]) == pytest.approx(-1)
    assert correlation([point(3, 1.0), point(3, 2.0)]) is None, "lengths that do not vary"
    assert correlation([point(3, 2.0), point(4, 2.0)]) is None
    assert sequence.correlation([point(3, 0.0), point(4, 0.0)], [0.0, 0.0]) is None
    assert sequence.correlation([point(3, 0.0)], [None]) is None, "nothing is known"
    uneven = [point(1, 1.0, 3), point(2, 4.0), point(3, 2.0)]
    repeated = [point(1, 1.0), point(1, 1.0), point(1, 1.0), *uneven[1:]]
    assert correlation(uneven) == pytest.approx(correlation(repeated))


def test_every_window_of_a_simulated_call_has_a_miss_rate_and_of_a_measured_one_none(tiny: Study) -> None:
    profile, loaded = sampled(tiny, "Imagen", "baseline")
    found = sequence.points(profile, "unet")
    rates = miss_rates(found, loaded)
    assert set(rates) == set(sequence.WINDOWS)
    assert all(rate is not None and 0 <= rate <= 1 for values in rates.values() for rate in values)
    measured = miss_rates(found, None)
    assert all(values == [None] * len(found) for values in measured.values())


def test_misses_are_those_of_the_changed_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "WORKLOADS", TINY)
    changed = of_device("a100-80gb", lengths={"image_size": 96})
    found = sequence.points(changed.profile("Imagen", "baseline"), "unet")
    profile, mine = sampled(changed, "Imagen", "baseline")
    assert sequence.points(profile, "unet") == found
    walk = walked(study.config_of("Imagen", image_size=96), Run(device="a100-80gb", attention="baseline"))
    loaded = list(loads(walk, devices.load("a100-80gb")))
    for window, rates in miss_rates(found, mine).items():
        for point, rate in zip(found, rates, strict=True):
            block = [loaded[place] for place in point.places[window]]
            assert rate == sum(load.missed for load in block) / sum(load.asked for load in block)


def test_a_growing_loop_is_sampled_all_along_and_counts_the_same(tiny: Study) -> None:
    own, (profile, _) = tiny.profile("Parti", "baseline"), sampled(tiny, "Parti", "baseline")
    lengths = [sorted({point.length for point in sequence.points(one, "decode")}) for one in (own, profile)]
    assert len(lengths[0]) < SampledWalk.least == len(lengths[1]) and set(lengths[0]) <= set(lengths[1])
    assert max(b - a for a, b in itertools.pairwise(lengths[1])) <= 2, "of 25 tokens"
    assert views.totals(profile.ops).known_flops == views.totals(own.ops).known_flops


@pytest.mark.parametrize(
    ("lengths", "shaped"),
    [([9, 4, 1, 4, 9], True), ([9, 4, 4, 9], True), ([9, 4, 9, 4, 9], False), ([4, 4], False), ([9, 4, 1], False)],
)
def test_a_u_falls_and_rises_once(lengths: list[int], shaped: bool) -> None:
    assert sequence.u_shaped(lengths) is shaped


BELONG = ("s5", "f9", "f10", "f14", "s6b")
ALSO = {"abs-06", "int-10", "int-11", "int-14", "int-19", "int-20", "int-21"}


@pytest.mark.slow
def test_every_number_of_sections_v_and_vi_b_is_scored(tiny: Study) -> None:
    results = [target(tiny) for target in (sequence.fig8, sizes.fig9, scaling.fig10, frames.fig14)]
    expected = {name for name in numbers() if name.startswith(BELONG)} | ALSO
    assert {score.id for result in results for score in result.scores} == expected
    for score in (score for result in results for score in result.scores):
        assert score.ours and (score.holds is not None or score.why or score.reading)


def test_another_device_gives_other_times(tiny: Study) -> None:
    """Nothing of Fig. 10 is typed in."""
    other = of_device("h100-sxm")
    times = [{row[:-1]: row[-1] for row in scaling.fig10(each).rows} for each in (tiny, other)]
    assert times[0].keys() == times[1].keys() and all(times[0][key] != times[1][key] for key in times[0])
