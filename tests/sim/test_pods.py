"""Staggered requests: sharing keeps to what the device has, and gains nothing that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import minimodels
from minimodels.cli import main
from minimodels.sim import pods, pods_plot, pods_table, views
from minimodels.sim.pods import Stream
from tests.sim import profiles

EXACT = 1e-6  # relative: what thousands of sums of floats lose, and `pods.ROUNDING`
share = st.floats(0, 1)
kernel = st.tuples(st.floats(1e-6, 1e-3), share, share, share)


def stream(*kernels: tuple[float, float, float]) -> Stream:
    """A step of kernels: seconds, shares of bandwidth and of compute."""
    seconds, memory, compute = np.array(kernels, dtype=float).T
    return Stream("denoise", 7, seconds, memory, compute, 1e12 * memory)


def makespan(step: Stream, *offsets: float, steps: int = 1) -> float:
    return float(pods.makespans(step, np.array([offsets]), steps)[0])


@pytest.mark.parametrize("name", ["muse-tiny", "parti-tiny", "llama-tiny"])
def test_one_request_is_the_profile(name: str) -> None:
    profile = minimodels.simulate(minimodels.load(name), device="a100-80gb")
    step = pods.stream(profile)
    assert step.stage == max(profile.stages, key=lambda stage: stage.seconds or 0).name
    for offset in (0.0, 0.3):
        assert makespan(step, offset, steps=3) == pytest.approx(3 * step.period, rel=EXACT)
    course = pods.course(step, np.zeros(1), 1)
    assert course.seconds @ course.moved == pytest.approx(step.seconds @ step.bandwidth, rel=EXACT)


def test_the_steps_of_a_loop_add_up_to_it() -> None:
    profile = minimodels.simulate(minimodels.load("stable-diffusion-tiny"), device="a100-80gb", mode="graph")
    step = pods.stream(profile)
    loop = views.totals(op for op in profile.ops if op.stage == step.stage and op.steps == step.steps)
    assert step.steps * step.period == pytest.approx(loop.known_seconds, rel=EXACT)
    moved = step.seconds @ step.bandwidth
    assert step.steps * moved == pytest.approx(float(loop.bytes), rel=EXACT)


@settings(max_examples=60)
@given(st.lists(kernel, min_size=1, max_size=7), st.lists(share, min_size=1, max_size=4), st.integers(1, 3))
def test_no_run_beats_what_the_device_has_nor_takes_longer_than_one_after_another(
    kernels: list[tuple[float, float, float, float]], offsets: list[float], steps: int
) -> None:
    step = stream(*(one[:3] for one in kernels))
    taken, requests = makespan(step, *offsets, steps=steps), len(offsets)
    assert taken >= max(step.period, requests * step.least()) * steps * (1 - EXACT)
    assert taken <= requests * step.period * steps * (1 + EXACT)


@settings(max_examples=60)
@given(st.lists(st.tuples(share, share), min_size=1, max_size=5))
def test_no_more_is_given_than_there_is(asked: list[tuple[float, float]]) -> None:
    memory, compute = np.array(asked).T
    speed = pods.speeds(memory, compute)
    assert (0 < speed).all() and (speed <= 1).all()
    assert memory @ speed <= 1 + EXACT and compute @ speed <= 1 + EXACT


@pytest.mark.parametrize("offsets", [(0.0, 0.0), (0.0, 0.37), (0.0, 0.25, 0.8)])
def test_streams_bound_by_memory_alone_gain_nothing(offsets: tuple[float, ...]) -> None:
    step = stream((3e-3, 1, 0), (5e-3, 1, 0), (2e-3, 1, 0))
    assert makespan(step, *offsets) == pytest.approx(len(offsets) * step.period, rel=EXACT)
    assert pods.best_offsets(step, 3).tolist() == [0, 0, 0], "what gains nothing is left aligned"


def test_halves_bound_by_memory_and_by_compute_overlap_fully_half_a_step_apart() -> None:
    step = stream((4e-3, 1, 0), (4e-3, 0, 1))
    assert makespan(step, 0.0, 0.0, steps=5) == pytest.approx(2 * 5 * step.period, rel=EXACT)
    assert makespan(step, 0.0, 0.5, steps=5) == pytest.approx(5 * step.period, rel=EXACT)
    assert pods.best_offsets(step, 2).tolist() == [0, 0.5]


def test_those_who_ask_for_too_much_are_slowed_by_the_sum() -> None:
    memory, compute = np.array([1.0, 0.6, 0.0]), np.array([0.0, 0.2, 0.7])
    assert pods.speeds(memory, compute) == pytest.approx([1 / 1.6, 1 / 1.6, 1])


def test_what_is_drawn_holds_what_is_moved() -> None:
    step = stream((4e-3, 1, 0.2), (3e-3, 0.1, 1), (1e-3, 0, 0))
    course = pods.course(step, np.array([0.0, 0.4]))
    window = course.seconds.sum() / pods.STEPS
    asked, moved = pods.over_time(course, float(window))
    assert moved.mean() == pytest.approx(course.mean_moved(), rel=0.02)  # steps after the first are alike, not equal
    assert (moved <= 1e12 * (1 + EXACT)).all() and (asked >= moved * (1 - EXACT)).all()


@pytest.mark.parametrize(
    ("bound", "tiles", "asked"),
    [("memory", None, (1, 0.25)), ("tensor", None, (0.5, 1)), ("l2", None, (0.5, 1)), ("waves", 27, (0.5, 0.25)),
     ("waves", 54, (0.5, 0.5)), ("launch", None, (0.5, 0.25)), ("host", None, (1, 0.25))],
)  # fmt: skip
def test_a_kernel_asks_for_all_of_what_bounds_it(bound: str, tiles: int | None, asked: tuple[float, float]) -> None:
    op = profiles.op("decode", "Linear", "aten::linear", bound=bound, tiles=tiles, waves=None if tiles is None else 1.0)
    assert pods._asked(op, 0.5, 0.25, units=108) == asked


def test_a_profile_without_rates_is_refused() -> None:
    with pytest.raises(ValueError, match="pods need the time of every operator and the rates"):
        pods.stream(profiles.on(profiles.image(), bandwidth=None))


def test_the_command_shows_the_ways_and_draws_them(tmp_path: Path) -> None:
    picture = tmp_path / "pods.svg"
    shown = CliRunner().invoke(
        main, ["pods", "llama-tiny", "--gen-len", "5", "--plot", str(picture)], env={"COLUMNS": "100"}
    )
    assert shown.exit_code == 0, shown.output
    assert "SIMULATED" in shown.stdout and "one batch of 2" in " ".join(shown.stdout.split())
    assert "at most" in " ".join(shown.stdout.split())
    assert picture.read_text().startswith("<?xml")


def test_the_ways_keep_their_order_and_their_panels_share_axes() -> None:
    profile = minimodels.simulate(minimodels.load("muse-tiny"), device="a100-80gb")
    made = pods.compare(profile, profile, 2)
    found = json.loads(json.dumps(pods_table.as_json(made)))
    assert found["requests"] == 2 and len(found["ways"]) == 5
    assert found["gained"] == (found["gain"] >= pods_table.LEAST)
    best, aligned, serial = (
        found["ways"][name]["seconds"] for name in ("best offsets", "aligned", "one after another")
    )
    assert found["least_seconds"] <= best * (1 + EXACT) and best <= aligned <= serial * (1 + EXACT)
    assert len(found["ways"]["aligned"]["timeline"]["moved"]) == pods.BINS
    first, second = pods_plot.bandwidth(made).axes
    assert first.get_ylim() == second.get_ylim() and first.get_xlim() == second.get_xlim()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--requests", "1"], "1 is not in the range"),
        (["--device", "cuda"], "pods simulates"),
        (["--device", "a1000"], "unknown device 'a1000'"),
        (["--plot", "x.gif"], "must end in"),
    ],
)
def test_wrong_input_is_one_message(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["pods", "stable-diffusion-tiny", *arguments])
    assert result.exit_code == 2 and said in result.stderr
