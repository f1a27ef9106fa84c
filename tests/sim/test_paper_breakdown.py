"""Verdicts on the text about Fig. 7 and Table II: one reading for all, only image models where the text says TTI."""

from __future__ import annotations

from typing import Any

import pytest

from minimodels.sim.paper import breakdown, flash
from minimodels.sim.paper.result import Score, by_kind, numbers, scoreboard
from minimodels.sim.paper.study import DIFFUSION, TRANSFORMERS
from minimodels.sim.profile import Profile
from tests.sim import profiles

SUITE = ("LLaMA", *DIFFUSION, *TRANSFORMERS)
Times = dict[str, float]  # seconds by category; "Projection": linear layers inside attention


def profile(times: Times) -> Profile:
    """A profile whose operators of a category take so long, all in the stage of Imagen's base network."""
    like = profiles.image().ops[0].model_copy(update={"stage": breakdown.BASE, "weight": 1.0, "module": None})
    ops = []
    for category, seconds in times.items():
        inside = category in ("Attention", "Projection")
        changed: dict[str, Any] = {
            "name": "group_norm" if category == "Norm" else "op", "device_seconds": seconds,
            "category": "Linear" if category == "Projection" else category, "module": "attention" if inside else None,
        }  # fmt: skip
        ops.append(like.model_copy(update=changed))
    return profiles.image().model_copy(update={"ops": tuple(ops)})


def scored(changed: dict[str, tuple[Times, Times]]) -> dict[str, Score]:
    """Scores of a suite whose models are as the text says, but for some."""
    image = {"Convolution": 36.0, "Attention": 40.0, "Linear": 17.0, "Norm": 7.0}
    tokens = {"Linear": 49.0, "Projection": 21.0, "Attention": 31.0, "Elementwise": 10.0}
    told: dict[str, tuple[Times, Times]] = {
        name: (image, image | {"Attention": 18.0}) if name in DIFFUSION else (tokens, tokens | {"Attention": 20.0})
        for name in SUITE
    }
    pairs = {name: (profile(before), profile(after)) for name, (before, after) in (told | changed).items()}
    return {score.id: score for score in breakdown.scores(pairs)}


def test_a_suite_as_the_text_has_it_holds() -> None:
    found = scored({})
    wrong = {number for number, score in found.items() if not score.holds}
    assert wrong == {"s4a-03"}, "all convolve alike, and Imagen should convolve more"


def test_a_video_model_changes_no_verdict_on_image_models() -> None:
    heavy: Times = {"Convolution": 90.0, "Attention": 10.0}
    found, video = scored({}), scored({"MakeAVideo": (heavy, heavy), "Phenaki": (heavy, heavy)})
    for number in ("abs-03", "int-08", "int-17", "abs-04", "int-09", "abs-05", "int-18", "s4b-02", "s4a-05", "s7-01"):
        assert (found[number].ours, found[number].holds) == (video[number].ours, video[number].holds), number
    assert found["s4a-01"].holds and not video["s4a-01"].holds, "it speaks of diffusion models at large"


def test_shares_are_by_module_and_the_other_reading_is_said() -> None:
    score = scored({})["abs-04"]
    assert score.holds and score.ours == "49 % (Muse)" and score.reading.startswith("module reading")
    assert score.why == "by core 70 % (Muse): does not hold"


def test_what_holds_without_the_stand_in_is_said_and_does_not_count() -> None:
    attends: Times = {"Convolution": 10.0, "Attention": 90.0}
    found = scored({"Prod Image": (attends, attends | {"Attention": 15.0})})
    for number in ("s4a-07", "s7-01", "abs-05"):
        assert not found[number].holds and "without our stand-in" in found[number].why, number
    assert "it holds" in found["s7-01"].why and "which holds" in found["abs-05"].why


@pytest.mark.parametrize(("imagen", "holds"), [(51.0, True), (41.4, True), (73.0, False), (30.0, False)])
def test_pixels_convolve_so_much_more_in_points_or_as_a_ratio(imagen: float, holds: bool) -> None:
    times: Times = {"Convolution": imagen, "Attention": 100 - imagen}
    score = scored({"Imagen": (times, times)})["s4a-03"]
    assert score.holds is holds
    assert ("not even the direction holds" in score.why) == (imagen < 36)


def test_every_claim_that_does_not_hold_says_why() -> None:
    for score in scored({"Imagen": ({"Attention": 1.0}, {"Attention": 1.0})}).values():
        assert score.holds or score.why, score.id


@pytest.mark.parametrize(("muse", "llama", "holds"), [(1.2, 1.3, True), (1.4, 1.3, False), (1.3, 1.3, False)])
def test_transformers_gain_less_than_the_language_model_or_not(muse: float, llama: float, holds: bool) -> None:
    rows = [("LLaMA", "as configured", llama, 1.52, 0.0), ("LLaMA", "prompt 5", 1.01, 1.52, 0.0)]
    score = flash._smaller({"LLaMA": llama, "Muse": muse, "Parti": 1.1}, rows)
    assert score.holds is holds and "prompt 5 1.01x" in score.why


def test_rows_are_counted_by_kind() -> None:
    found = by_kind(scoreboard([]))
    assert sum(counts.total() for counts in found.values()) == len(numbers())
    assert found["measured"]["cannot be told"] == sum(number.kind == "measured" for number in numbers().values())
