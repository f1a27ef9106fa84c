"""Fig. 13: every number is scored, from the model of caches and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from minimodels.sim.cache import gpu
from minimodels.sim.paper import caches, study
from minimodels.sim.paper.result import Result, numbers
from minimodels.sim.paper.study import of_device

CLOCKS, L2 = 8, 7  # columns


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "WORKLOADS", {"MakeAVideo": "make-a-video-tiny"})


@pytest.fixture
def found() -> Result:
    return caches.fig13(of_device("a100-80gb"))


def by_place(result: Result, column: int) -> dict[tuple[Any, ...], Any]:
    return {tuple(row[:5]): row[column] for row in result.rows}


def test_every_number_of_the_figure_is_scored_once_and_says_why_not(found: Result) -> None:
    scored = [score.id for score in found.scores]
    assert sorted(scored) == sorted(name for name in numbers() if name.startswith("f13"))
    assert all(score.holds or score.why for score in found.scores)


def test_the_decoder_is_the_sum_of_its_resolutions(found: Result) -> None:
    counted = by_place(found, 5)
    places = {key for key in counted if key[3] == ""}
    for layout, state, role, _, family in places:
        parts = [value for key, value in counted.items()
                 if key[3] != "" and (*key[:3], key[4]) == (layout, state, role, family)]  # fmt: skip
        assert counted[layout, state, role, "", family] == pytest.approx(sum(parts))


def test_products_on_strided_operands_execute_what_those_on_copies_do(found: Result) -> None:
    counted = by_place(found, 5)
    for (layout, state, role, side, family), value in counted.items():
        assert layout == "as walked" or counted["as walked", state, role, side, family] == value
    assert not [key for key in counted if key[0] == "strided" and "copies" in key[4]]


def test_other_latencies_give_other_scores(found: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the figure is typed in."""
    slower = gpu.Latencies("twice", *(2 * clocks for clocks in (33, 200, 290)))
    monkeypatch.setattr(caches, "LATENCIES", (slower, *gpu.LATENCIES[1:]))
    before, after = by_place(found, CLOCKS), by_place(caches.fig13(of_device("a100-80gb")), CLOCKS)
    assert after == {key: pytest.approx(2 * clocks) for key, clocks in before.items()}


def test_caches_of_other_gpus_are_the_published_gpus(found: Result) -> None:
    assert by_place(caches.fig13(of_device("h100-sxm")), L2) == by_place(found, L2)
