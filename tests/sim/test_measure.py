"""A measured profile is the simulated one with other times, and its times are the clock's."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch

from minimodels import loader
from minimodels.kernels.work import Work
from minimodels.run import Run
from minimodels.sim.call import Call
from minimodels.sim.job import Prepared
from minimodels.sim.measure import _scale, measure
from minimodels.sim.profile import Profile
from minimodels.sim.profiler import Executed, KnotWalk
from minimodels.sim.progress import silent
from minimodels.sim.session import Session, Timed, Unmeasurable, _check_same
from minimodels.sim.simulate import simulate

TINY = [name for name in loader.names() if name.endswith("-tiny")]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Toy operators gain nothing from a second thread, and wait long for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
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
    assert (profile.environment.attributed or 0) >= 0.98
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
        ({"mode": "graph"}, "mode 'graph' needs a CUDA device: it captures CUDA graphs; name a GPU to simulate it"),
        ({"resident": "stage"}, "all parts"),
        ({"device": "tpu"}, "cannot be measured"),
    ],
)
def test_what_cannot_be_measured_says_so(options: dict[str, Any], said: str) -> None:
    chosen: dict[str, Any] = {"device": "cpu", "dtype": "float32"} | options
    with pytest.raises(ValueError, match=said):
        measure(loader.load("llama-tiny"), Run(**chosen))


def test_a_model_larger_than_the_machine_is_refused_before_it_is_built() -> None:
    with pytest.raises(ValueError, match=r"LLaMA-2 70B does not fit: it needs 2[78]\d\.\d GB"):
        measure(loader.load("llama2-70b"), Run(device="cpu", dtype="float32"))


def timed(stage: str, weight: float, device: float, gap: float) -> Timed:
    work = Work("elementwise", 0, 8, 8)
    call = Call("relu", ((2,),), "float32", work, stage, "", None, "Elementwise", None, None, weight=weight)
    return Timed(call, device, device, gap)


@pytest.mark.parametrize(
    ("alike", "wall", "expected"),
    [
        (False, 20.0, [(2.0, 2.0), (1.0, 4.0)]),  # 7 of kernels as they are, 13 shared out as the gaps 1 and 2 are
        (False, 2.7, [(0.4, 0.2), (0.2, 0.4)]),  # kernels alone take longer: everything by 0.2
        (True, 27.0, [(4.0, 2.0), (2.0, 4.0)]),  # everything by 2
    ],
)
def test_times_are_scaled_to_the_wall_clock(alike: bool, wall: float, expected: list[tuple[float, float]]) -> None:
    found = [timed("decode", 2.5, 2.0, 1.0), timed("decode", 2.0, 1.0, 2.0), timed("other", 1.0, 3.0, 1.0)]
    _scale(found, {"decode": wall, "other": 4.0}, alike)
    assert sum(t.call.weight * (t.device + t.gap) for t in found[:2]) == pytest.approx(wall)
    assert (found[2].device, found[2].gap) == (3.0, 1.0)
    assert [(t.device, t.gap) for t in found[:2]] == [pytest.approx(pair) for pair in expected]


def test_the_run_must_have_the_operators_of_the_walk() -> None:
    calls = [timed("decode", 1.0, 0, 0).call] * 2
    _check_same([Executed("relu", 0, 1), Executed("relu", 1, 2)], calls)
    with pytest.raises(Unmeasurable, match="operator 1 of the run is gelu, of the walk relu.*defect in minimodels"):
        _check_same([Executed("relu", 0, 1), Executed("gelu", 1, 2)], calls)
    with pytest.raises(Unmeasurable, match="the run has 1 operators, the walk 2.*defect in minimodels"):
        _check_same([Executed("relu", 0, 1)], calls)


class Clocked(Session):
    """A session whose runs take the given seconds."""

    def __init__(self, seconds: list[float], warmup: int) -> None:
        run = Run(device="cpu", dtype="float32", warmup=warmup)
        job = Prepared(torch.nn.ModuleDict(), (), lambda: None)
        super().__init__(job, KnotWalk(), run, torch.device("cpu"), silent)
        self.left = iter(seconds)

    def _once(self) -> dict[str, float]:
        return {"run": next(self.left)}


@pytest.mark.parametrize(
    ("seconds", "warmup", "runs", "converged"),
    [
        ([5.0, 2.0, 1.0, 1.01], 2, 4, True),
        ([1.0, 1.0, 1.0], 3, 3, True),
        ([2.0**-i for i in range(10)], 2, 10, False),
    ],
)
def test_whether_the_warm_up_converged_is_known(seconds: list[float], warmup: int, runs: int, converged: bool) -> None:
    session = Clocked(seconds, warmup)
    assert (session.warm_up(), session.converged) == (runs, converged)


def test_the_spread_of_the_clock_is_recorded() -> None:
    made = measured("llama-tiny").environment
    assert made.repeats == 2 and made.median_seconds and made.iqr_seconds is not None
    assert made.converged is not None and made.warmups is not None and made.warmups >= 2


@pytest.mark.parametrize("busy", [0.97, 0.0])
def test_time_of_no_operator_is_refused_with_what_to_do(busy: float) -> None:
    session = Clocked([], 2)
    session._attribute(0.99, 0.01)
    with pytest.raises(Unmeasurable, match=r"belongs to no operator of the walk: end other work .* report"):
        session._attribute(busy, 1 - busy)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TINY)
def test_a_gpu_run_gives_its_kernels_to_operators(name: str) -> None:
    profile = measure(loader.load(name), Run(device="cuda", repeats=2, warmup=1))
    simulated = simulate(loader.load(name), Run(device="a100-80gb"))
    assert flops(profile) == flops(simulated)
    assert (profile.environment.attributed or 0) >= 0.98
    assert all(op.device_seconds is not None for op in profile.ops)
    assert all(op.launches > 0 for op in profile.ops if op.category == "Linear")
    for stage in profile.stages:
        assert stage.seconds == pytest.approx(stage.wall_seconds, rel=1e-9)
