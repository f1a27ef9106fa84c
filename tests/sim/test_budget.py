"""`minibench fit`: the largest variant in a budget is the one that trying all of them finds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from click.testing import CliRunner

from minimodels import load
from minimodels.cli import main
from minimodels.sim.sweep import budget, grid, ledger, point, runner
from minimodels.sim.sweep.budget import Budget, Found, needs, rank

OPTIONS = {"attention": "flash", "batch": 1, "dtype": "bfloat16", "kernels": "torch", "layout": "contiguous",
           "mode": "eager", "resident": "all", "full": False}  # fmt: skip
DEVICE = "rtx-4090"
TINY = "stable-diffusion-tiny"
CASES = {
    "one axis": ["batch=1:601:75"],
    "an axis with gaps": ["image_size=8:96:2"],
    "two axes": ["batch=1,40,90,300", "unet.levels.0.res_blocks=1:3:1"],
    "words": ["attention=baseline,flash", "batch=1,64,512"],
    "numbers that change no size": ["unet.norm_groups=1,2,4,24", "batch=1,400"],
    "numbers that no one sorts": ["batch=300,1,40"],
}


@pytest.fixture(scope="module", autouse=True)
def once() -> Iterator[None]:
    """Every point is simulated once for all tests of this file."""
    known: dict[str, list[ledger.Point]] = {}
    evaluate = point.evaluate

    def remembered(base: grid.Base, axes: grid.Axes, devices: Sequence[str]) -> list[ledger.Point]:
        key = repr((base, axes, devices))
        known[key] = known[key] if key in known else evaluate(base, axes, devices)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point, "evaluate", remembered)
        yield


def base() -> grid.Base:
    return grid.Base.of_config(load(TINY), OPTIONS)


def searched(case: str, within: Budget) -> Found:
    return budget.search(base(), [grid.axis(text) for text in CASES[case]], DEVICE, within)


QUICK = ("words", "numbers that no one sorts")


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_the_winner_is_that_of_the_whole_grid(case: str) -> None:
    points = [p for p in runner.run(base(), [grid.axis(text) for text in CASES[case]], [DEVICE]) if p.status == "ok"]
    times, sizes = sorted(p.metrics["time"] or 0.0 for p in points), sorted(map(needs, points))
    for time, size in ((0.6, 1.0), (1.0, 0.5), (0.35, 0.7)):  # of the way from the cheapest to the dearest
        within = Budget(times[int(time * (len(times) - 1))], sizes[int(size * (len(sizes) - 1))])
        found = searched(case, within)
        best = max((p for p in points if not within.broken(p)), key=rank)
        assert found.best is not None and rank(found.best) == rank(best)
        assert found.grid >= len(points) and len({p.key for p in found.tried}) == len(found.tried)


def test_an_axis_of_numbers_is_halved() -> None:
    found = searched("an axis with gaps", Budget(None, 24_000_000_000))
    assert found.best is not None and found.best.axes == {"image_size": 96} and not found.beyond
    assert len(found.tried) == 2, "both ends, and all fits"
    within = Budget(None, needs(found.best) - 1)
    found = searched("an axis with gaps", within)
    assert found.best is not None and len(found.tried) < 10
    ((axes, beyond),) = found.beyond
    assert beyond is None or within.broken(beyond) == ["memory"], axes


def test_nothing_fits_is_said() -> None:
    assert searched("one axis", Budget(1e-9, 24_000_000_000)).best is None
    words = ["fit", TINY, "--over", "batch=1,2", "--under", "1us", "--device", DEVICE]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "Nothing fits. batch 1 comes near: " in result.stdout
    assert json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["best"] is None


def test_the_winner_its_margin_and_what_bound_it_are_told() -> None:
    words = ["fit", TINY, "--over", "batch=1:2001:100", "--memory", "1GiB", "--device", DEVICE]
    record: dict[str, Any] = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    batch = record["best"]["axes"]["batch"]
    assert 1 < batch < 2001 and record["best"]["needs"] <= 2**30
    assert record["beyond"][0]["axes"] == {"batch": batch + 100} and record["beyond"][0]["broken"] == ["memory"]
    said = CliRunner().invoke(main, words).stdout
    assert f"Bound by memory: batch {batch + 100:,} needs " in said and "of 21 variants were simulated" in said


def test_a_variant_that_torch_refuses_is_nobodys_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = point.evaluate

    def refusing(base: grid.Base, axes: grid.Axes, devices: list[str]) -> Any:
        if axes["batch"] in (151, 226):
            return [p.model_copy(update={"status": "failed", "metrics": {}}) for p in evaluate(base, axes, devices)]
        return evaluate(base, axes, devices)

    monkeypatch.setattr(point, "evaluate", refusing)
    found = searched("one axis", Budget(None, 24_000_000_000))
    assert found.best is not None and found.best.axes["batch"] == 601
    within = Budget(None, needs(next(iter(point.evaluate(base(), {"batch": 301}, [DEVICE])))))
    found = searched("one axis", within)
    assert found.best is not None and found.best.axes["batch"] == 301


@pytest.mark.parametrize(
    ("text", "value"), [("2s", 2.0), ("500ms", 0.5), ("1.5 min", 90.0), (".5h", 1800.0), ("3us", 3e-6)]
)
def test_a_time_is_read_in_its_unit(text: str, value: float) -> None:
    assert budget.amount(text, budget.TIME, "--under") == pytest.approx(value)


@pytest.mark.parametrize("text", ["2", "s", "-1s", "2 parsecs", "0s", ""])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="--under .*: write a number and a unit"):
        budget.amount(text, budget.TIME, "--under")


def test_memory_is_at_most_the_gpus() -> None:
    assert budget.budget(None, None, DEVICE).memory == budget.devices.load(DEVICE).datasheet.memory_bytes
    assert budget.budget("2s", "20GB", DEVICE) == Budget(2.0, 20_000_000_000)
    with pytest.raises(ValueError, match="--memory 80GB: rtx-4090 has 25.3 GB"):
        budget.budget(None, "80GB", DEVICE)
