"""Knots: a few weighted steps stand for all steps of a loop, exactly where the work is affine in the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimodels.kernels.backend import attention_backend
from minimodels.kernels.work import Work
from minimodels.loader import load
from minimodels.pipelines import example_input, generate
from minimodels.run import build
from minimodels.sim.call import Call
from minimodels.sim.knots import BUCKET, MAX_KNOTS, TOLERANCE, buckets, visit, weights
from minimodels.sim.trace import Walk


@st.composite
def knots(draw: st.DrawFn) -> list[int]:
    """Sorted steps from the first to the last of a loop of 2 to 3000 steps."""
    n = draw(st.integers(2, 3000))
    return sorted({0, n - 1} | draw(st.sets(st.integers(0, n - 1), max_size=20)))


@given(knots(), st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_weights_sum_affine_functions_exactly(steps: list[int], constant: int, slope: int) -> None:
    n, share = steps[-1] + 1, [Fraction(weight) for weight in weights(steps)]
    assert sum(share) == n
    assert sum(w * (constant + slope * k) for w, k in zip(share, steps, strict=True)) == sum(
        constant + slope * i for i in range(n)
    )


def test_one_step_weighs_one_and_no_weight_is_negative() -> None:
    assert weights([0]) == [1]
    assert weights([0, 1, 2, 3]) == [1, 1, 1, 1]
    assert weights([0, 6]) == [3.5, 3.5]
    assert min(weights([0, 1, 7, 8, 30])) >= 0.5


def call(flops: int, role: str | None = None) -> Call:
    """A call of `flops` FLOPs, as a step of a loop records it."""
    return Call("mm", ((1, 1),), "float32", Work("gemm", flops, 0, 0), "run", "", None, "Linear", role, None)


def run(
    n: int,
    growth: str,
    work: Callable[[int], int] = lambda step: 1,
    estimate: Callable[[Sequence[Call]], float] | None = None,
    full: bool = False,
) -> tuple[list[int], list[Call]]:
    """The steps run, in the order they ran, and the calls as the loop leaves them."""
    calls: list[Call] = []
    order = []
    for step in visit(calls, n, growth, estimate, full):
        order.append(step)
        calls.append(call(work(step)))
    return order, calls


def total(calls: Sequence[Call], of: Callable[[Call], int | None] = lambda call: call.work.flops) -> Fraction:
    """The exact sum over all executions that the calls stand for."""
    result = Fraction(0)
    for one in calls:
        quantity = of(one)
        assert quantity is not None
        result += Fraction(one.weight) * quantity
    return result


def test_a_constant_loop_runs_once() -> None:
    order, calls = run(50, "constant", lambda step: 3)
    assert order == [0] and total(calls) == 150


def test_an_affine_loop_runs_its_ends() -> None:
    order, calls = run(50, "affine", lambda step: 7 + 5 * step)
    assert {0, 49} <= set(order) <= {0, 1, 48, 49} and total(calls) == sum(7 + 5 * step for step in range(50))


@pytest.mark.parametrize("n", (0, 1, 2, 3, 7))
@pytest.mark.parametrize(("growth", "full"), (("any", False), ("constant", True), ("affine", True)))
def test_any_growth_and_full_run_every_step(growth: str, full: bool, n: int) -> None:
    order, calls = run(n, growth, lambda step: step**2, full=full)
    assert order == list(range(n)) and total(calls) == sum(step**2 for step in range(n))
    assert all(one.weight == 1 for one in calls)


@pytest.mark.parametrize("growth", ("constant", "affine"))
@pytest.mark.parametrize("n", (0, 1, 2, 3))
def test_short_loops_have_their_own_length(n: int, growth: str) -> None:
    _, calls = run(n, growth, lambda step: 3)
    assert total(calls) == 3 * n


def test_weights_of_nested_loops_multiply() -> None:
    calls: list[Call] = [call(1)]
    for _ in visit(calls, 5, "constant", None, False):
        calls.append(call(100))
        for inner in visit(calls, 7, "affine", None, False):
            calls.append(call(10_000 * (inner + 1)))
    calls.append(call(2))
    assert total(calls) == 1 + 5 * (100 + 10_000 * sum(range(1, 8))) + 2
    flops = [one.work.flops or 0 for one in calls]
    assert flops[:2] == [1, 100] and flops[-1] == 2, "what stood before and after stays there"
    assert flops[2:-1] == sorted(flops[2:-1]) and flops[2] == 10_000 and flops[-2] == 70_000


def test_calls_come_out_in_step_order() -> None:
    def curved(calls: Sequence[Call]) -> float:
        return sum(one.work.flops or 0 for one in calls) ** 2

    order, calls = run(100, "affine", lambda step: 1 + step, curved)
    assert order != sorted(order), "the middle runs after the ends"
    assert [one.work.flops for one in calls] == [1 + step for step in sorted(order)]
    assert total(calls) == 5050


def seconds_of(time: Callable[[int], float]) -> Callable[[Sequence[Call]], float]:
    """An estimate that takes the step from its one call, of `step` FLOPs."""

    def estimate(calls: Sequence[Call]) -> float:
        (one,) = calls
        assert one.work.flops is not None
        return time(one.work.flops)

    return estimate


TIMES: dict[str, Callable[[int], float]] = {
    "a kink": lambda step: max(1.0, step / 200),
    "a curve": lambda step: 1 + (step / 500) ** 2,
    "stairs": lambda step: 5.0 + step // 128,
    "noise": lambda step: 1 + step * 7919 % 97 / 97,
    "a parabola with ends alike": lambda step: 1 + 4 * (step / 1023 - 0.5) ** 2,
}


@pytest.mark.parametrize("time", TIMES.values(), ids=TIMES.keys())
@pytest.mark.parametrize("n", (1024, 127, 17, 5, 3))
def test_refinement_runs_no_step_twice_and_stays_within_its_limit(n: int, time: Callable[[int], float]) -> None:
    order, calls = run(n, "affine", lambda step: step, seconds_of(time))
    assert len(set(order)) == len(order) <= min(n, MAX_KNOTS)
    assert total(calls, lambda _: 1) == n and total(calls) == n * (n - 1) // 2


def test_a_straight_time_takes_its_ends_and_one_middle() -> None:
    order, _ = run(1024, "affine", lambda step: step, seconds_of(lambda step: 1 + step / 100))
    assert set(order) - {1, 1022} == {0, 511, 1023}


def test_a_deviation_below_the_tolerance_is_no_reason_to_refine() -> None:
    def bent(by: float) -> int:
        order, _ = run(1025, "affine", lambda step: step, seconds_of(lambda step: 1 + by * (step == 512)))
        return len(order)

    straight, refined = bent(0.9 * TOLERANCE), bent(1.2 * TOLERANCE)
    assert straight <= 5 and refined == straight + 2, "both halves are looked into"


def test_knots_gather_where_time_is_curved() -> None:
    kink = 200
    order, calls = run(1024, "affine", lambda step: step, seconds_of(TIMES["a kink"]))
    steps = sorted(order)
    gaps = {right: right - left for left, right in pairwise(steps)}
    assert gaps[next(step for step in steps if step >= kink)] <= 1024 // 32, "around the kink"
    assert max(gaps.values()) >= 1024 // 4, "where nothing bends"
    found = sum(one.weight * TIMES["a kink"](one.work.flops or 0) for one in calls)
    expected = sum(map(TIMES["a kink"], range(1024)))
    assert abs(found / expected - 1) < TOLERANCE  # no interval is off by more


def walked(
    name: str, backend: str, target: str, *, full: bool, overrides: Sequence[str] = (), graphs: bool = False
) -> list[Call]:
    """The calls of one inference on meta."""
    config = load(name, overrides)
    parts, tokens = build(config, "meta", torch.bfloat16), example_input(config, 1, "meta")
    walk = Walk(parts, full=full, graphs=graphs)
    with attention_backend(backend, target), torch.inference_mode(), walk:
        walk.hold(tokens)
        generate(config, parts, tokens)
    return walk.calls


QUANTITIES: dict[str, Callable[[Call], int | None]] = {
    "steps": lambda call: 1,
    "FLOPs": lambda call: call.work.flops,
    "bytes read": lambda call: call.work.bytes_read,
    "bytes written": lambda call: call.work.bytes_written,
    "launches": lambda call: call.work.launches,
}


@cache
def totals(name: str, backend: str, full: bool, overrides: tuple[str, ...]) -> dict[str, Fraction]:
    """The exact sums of a whole inference, from knots or from every step."""
    calls = walked(name, backend, "sm80", full=full, overrides=overrides)
    assert not full or all(one.weight == 1 for one in calls)
    return {quantity: total(calls, of) for quantity, of in QUANTITIES.items()} | {"calls": Fraction(len(calls))}


SHALLOW = ("transformer.encoder.depth=1", "transformer.decoder.depth=1", "detokenizer.stack.depth=1")
LOOPS = (
    pytest.param("parti-tiny", (), id="parti-tiny"),
    pytest.param("llama-tiny", (), id="llama-tiny"),
    pytest.param("parti-350m", SHALLOW, id="parti-350m, one layer"),
    pytest.param("parti-350m", (), id="parti-350m", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("backend", ("baseline", "flash"))
@pytest.mark.parametrize(("name", "overrides"), LOOPS)
def test_flops_of_the_knots_equal_those_of_the_loop(name: str, overrides: tuple[str, ...], backend: str) -> None:
    few, every = (totals(name, backend, full, overrides) for full in (False, True))
    assert few["calls"] < every["calls"]
    assert few["FLOPs"] == every["FLOPs"] > 0


@pytest.mark.parametrize("backend", ("baseline", "flash"))
@pytest.mark.parametrize(("name", "overrides"), LOOPS)
def test_bytes_and_launches_of_the_knots_equal_those_of_the_loop(
    name: str, overrides: tuple[str, ...], backend: str
) -> None:
    """Also where the last step attends to a full, hence contiguous, cache, which baseline need not copy."""
    few, every = (totals(name, backend, full, overrides) for full in (False, True))
    assert few | {"calls": Fraction(0)} == every | {"calls": Fraction(0)}


@pytest.mark.parametrize("name", ("parti-tiny", "llama-tiny"))
def test_bytes_of_the_knots_equal_those_of_the_loop_where_keys_are_copied(name: str) -> None:
    """`efficient` needs grouped keys repeated, in every step."""
    few, every = (totals(name, "efficient", full, ()) for full in (False, True))
    assert few | {"calls": Fraction(0)} == every | {"calls": Fraction(0)}


def test_knots_count_the_calls_of_each_backend_as_the_loop_does() -> None:
    """cuDNN refuses the one key of the first step, which must not stand for others."""
    counts: list[dict[str, Fraction]] = [{}, {}]
    for full, count in enumerate(counts):
        for one in walked("parti-tiny", "sdpa", "sm90", full=bool(full)):
            if one.attention is not None:
                count[one.attention.backend] = count.get(one.attention.backend, Fraction(0)) + Fraction(one.weight)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ("parti-tiny", "llama-tiny"))
def test_walked_calls_come_out_in_step_order(name: str) -> None:
    config = load(name)
    parts, tokens = build(config, "meta"), example_input(config, 1, "meta")
    walk = Walk(parts, estimate=lambda calls: float(sum(one.work.bytes_read for one in calls)) ** 9)
    with attention_backend("flash", "sm80"), torch.inference_mode(), walk:
        generate(config, parts, tokens)
    decode = [one for one in walk.calls if one.stage == "decode" and one.role == "self"]
    lengths = [one.attention.key_length for one in decode if one.attention is not None]
    assert lengths == sorted(lengths) and len(set(lengths)) > 4, "several knots, the shortest cache first"
    assert all(one.growing for one in decode), "their keys grow"
    assert not any(one.growing for one in walk.calls if one.stage != "decode" or one.role == "cross")


@given(st.integers(0, 3000))
def test_buckets_of_a_growing_loop_cover_its_steps_and_end_at_the_last(n: int) -> None:
    found = buckets(n, "affine", full=False)
    assert sum(found.values()) == n and all(0 < steps <= BUCKET for steps in found.values())
    assert [end + 1 for end in found] == [sum(list(found.values())[: i + 1]) for i in range(len(found))]
    assert all((end + 1) % BUCKET == 0 for end in list(found)[:-1])


def test_a_steady_loop_is_one_graph_and_any_other_one_per_step() -> None:
    assert buckets(50, "constant", full=False) == {0: 50}
    assert buckets(0, "constant", full=False) == buckets(0, "affine", full=False) == {}
    assert buckets(3, "any", full=False) == buckets(3, "affine", full=True) == {0: 1, 1: 1, 2: 1}
    assert buckets(600, "affine", full=False) == {255: 256, 511: 256, 599: 88}


@pytest.mark.parametrize("backend", ("baseline", "flash", "efficient", "triton"))
@pytest.mark.parametrize(("name", "overrides"), LOOPS)
def test_flops_of_buckets_are_those_of_the_keys_that_there_are(
    name: str, overrides: tuple[str, ...], backend: str
) -> None:
    calls = walked(name, backend, "sm80", full=False, overrides=overrides, graphs=True)
    assert total(calls) == totals(name, backend, True, overrides)["FLOPs"]
    assert total(calls, QUANTITIES["bytes read"]) > totals(name, backend, True, overrides)["bytes read"], (
        "whole buckets"
    )
    assert all(one.weight == int(one.weight) for one in calls), "graphs are replayed whole times"
