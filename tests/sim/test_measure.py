"""A measured profile is the simulated one with other times, and its times are the clock's."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from minimodels import loader
from minimodels.run import Run
from minimodels.sim.measure import measure
from minimodels.sim.profile import Profile
from minimodels.sim.simulate import simulate

TINY = [name for name in loader.names() if name.endswith("-tiny")]


def measured(name: str, **options: Any) -> Profile:
    return measure(loader.load(name), Run(device="cpu", dtype="float32", repeats=2, warmup=1, **options))


def flops(profile: Profile) -> Fraction:
    return sum((Fraction(op.weight) * (op.flops or 0) for op in profile.ops), Fraction(0))


@pytest.mark.parametrize("name", TINY)
def test_times_add_up_to_the_clock_and_facts_are_those_of_the_walk(name: str) -> None:
    profile = measured(name)
    simulated = simulate(loader.load(name), Run(device="a100-80gb", dtype="float32"))
    assert profile.source == "measured"
    assert [stage.name for stage in profile.stages] == [stage.name for stage in simulated.stages]
    for stage in profile.stages:
        assert stage.wall_seconds is not None and stage.wall_seconds > 0
        assert stage.seconds == pytest.approx(stage.wall_seconds, rel=1e-9)  # scaled to be equal, up to rounding
    assert flops(profile) == flops(simulated)
    assert all(op.provenance == "measured" and op.device_seconds is not None for op in profile.ops)
    assert profile.environment["attributed"] >= 0.98
    assert profile.memory.fits is True
    assert Profile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize("name", ["parti-tiny", "llama-tiny"])
def test_every_step_has_the_flops_of_the_knots(name: str) -> None:
    assert flops(measured(name, full=True)) == flops(measured(name))


def test_the_attention_kernel_that_ran_is_recorded() -> None:
    ran = {op.attention.backend for op in measured("parti-tiny").ops if op.attention}
    assert ran == {"flash"}
    ran = {op.attention.backend for op in measured("parti-tiny", attention="baseline").ops if op.attention}
    assert ran == {"baseline"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "graph"}, "eager for now"),
        ({"resident": "stage"}, "all parts"),
        ({"device": "tpu"}, "cannot be measured"),
    ],
)
def test_what_cannot_be_measured_says_so(options: dict[str, Any], said: str) -> None:
    chosen: dict[str, Any] = {"device": "cpu", "dtype": "float32"} | options
    with pytest.raises(ValueError, match=said):
        measure(loader.load("llama-tiny"), Run(**chosen))


def test_a_model_larger_than_the_machine_is_refused_before_it_is_built() -> None:
    with pytest.raises(ValueError, match=r"LLaMA-2 70B does not fit: it needs 27\d\.\d GB"):
        measure(loader.load("llama2-70b"), Run(device="cpu", dtype="float32"))
