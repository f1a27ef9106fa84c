"""minibench memory: the largest batch and sizes that fit are those, and the next do not."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from click.testing import CliRunner

from minimodels import loader
from minimodels.cli import main
from minimodels.kinds import Config
from minimodels.run import Run
from minimodels.sim import capacity
from minimodels.sim.device import load
from minimodels.sim.memory import RESERVE
from minimodels.sim.simulate import simulate


def room(device: str) -> int:
    return load(device).datasheet.memory_bytes - RESERVE


@pytest.mark.parametrize(
    ("name", "axis"), (("stable-diffusion-1.5", "image_size"), ("llama2-7b", "batch"), ("animatediff", "frames"))
)
def test_the_largest_that_fits_fits_and_the_next_does_not(name: str, axis: str) -> None:
    def configure(more: Mapping[str, int]) -> Config:
        return loader.load(name, lengths=more)

    run = Run(device="l40s")
    found = capacity.largest(configure, run, axis)
    assert found is not None and found.value is not None
    for value, needs in ((found.value, found.needs), (found.beyond, found.beyond_needs)):
        if value is None:
            continue
        if axis == "batch":
            profile = simulate(loader.load(name), run.model_copy(update={"batch": value}))
        else:
            profile = simulate(loader.load(name, lengths={axis: value}), run)
        assert profile.memory.peak == needs, "a walk and a profile agree"
        assert profile.memory.fits == (value == found.value)
    if found.needs is not None and found.beyond_needs is not None:
        assert found.needs <= room("l40s") < found.beyond_needs


def test_a_model_too_large_for_the_device_has_no_batch_that_fits() -> None:
    result = CliRunner().invoke(main, ["memory", "llama2-70b", "--device", "rtx-4090", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["memory"]["fits"] is False
    assert {limit["axis"]: limit["value"] for limit in record["largest"]} == {"batch": None, "gen_len": None}


def test_a_smaller_size_is_found_where_the_given_one_does_not_fit() -> None:
    arguments = [
        "memory",
        "stable-diffusion-1.5",
        "--device",
        "rtx-4090",
        "--attention",
        "baseline",
        "--image-size",
        "2048",
    ]
    record = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    sizes = {limit["axis"]: limit for limit in record["largest"]}
    assert record["memory"]["fits"] is False and sizes["image_size"]["value"] < 2048
    assert sizes["image_size"]["needs"] <= room("rtx-4090") < sizes["image_size"]["beyond_needs"]


def test_what_is_at_the_peak_adds_up_to_it() -> None:
    record = json.loads(CliRunner().invoke(main, ["memory", "llama-tiny", "--json"]).stdout)
    assert sum(record["at_peak"].values()) == record["memory"]["peak"] == max(record["stages"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["memory", "llama-tiny", "--device", "cpu"], "this command simulates"),
        (["memory", "lama-tiny"], "did you mean"),
        (["memory", "llama-tiny", "--plot", "a.gif"], "a.gif"),
        (["memory", "llama-tiny", "--device", "h2OO"], "did you mean"),
    ),
)
def test_bad_input_is_one_message(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output
