"""The tour: shapes are those of the code, costs those of the profile, every number of every config is explained."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from minimodels import loader
from minimodels.cli import main
from minimodels.run import Run, build
from minimodels.sim import tour_table, views
from minimodels.sim.glossary import term
from minimodels.sim.places import Traces
from minimodels.sim.tour import Tour, leaves, tour
from tests.sim.profiles import image

TINY = [name for name in loader.names() if name.endswith("-tiny")]


def of(name: str) -> Tour:
    return tour(loader.load(name), Run(device="h100-sxm"))


def test_every_number_of_every_config_is_explained() -> None:
    for name in loader.names():
        config = loader.load(name)
        record = config.model_dump(mode="json")
        for part in [key for key, _ in config.parts()] + ["run"]:
            for key, _ in leaves(record[part]):
                assert key.startswith("published") or term(record[part].get("kind", ""), key).meaning, (name, part, key)


def _changed(name: str, part: str, key: str, value: float) -> dict[str, tuple[int, ...]] | None:
    """The weights of a part when one number is larger; None where no larger number that was tried is allowed."""
    for larger in (value + 1, 2 * value, 3 * value):
        try:
            config = loader.load(name, [f"{part}.{key}={larger}"])
        except ValueError:  # one of several numbers that go together
            continue
        built = build(config, "meta", only=part)[part]
        return {path: tuple(weight.shape) for path, weight in built.named_parameters()}
    return None


@pytest.mark.parametrize("name", TINY)
def test_a_number_is_found_in_a_weight_or_list_that_changes_with_it(name: str) -> None:
    config, tried = loader.load(name), 0
    record = config.model_dump(mode="json")
    for part, _ in config.parts():
        network = build(config, "meta", only=part)[part]
        weights = {path: tuple(weight.shape) for path, weight in network.named_parameters()}
        traces = Traces(part, network, (), image())
        for key, value in leaves(record[part]):
            meaning = term(record[part]["kind"], key)
            place = traces.of(meaning, value, key)
            changed = _changed(name, part, key, value) if place and meaning.where in ("weight", "layers") else None
            if changed is not None:
                path = place.partition(" ")[0]
                if meaning.where == "layers":
                    path = f"{path.rpartition('.')[0]}.{value}."
                    assert any(one.startswith(path) for one in changed) > any(one.startswith(path) for one in weights)
                else:
                    assert changed.get(path) != weights[path], (part, key, place)
                tried += 1
    assert tried > 3


@pytest.mark.parametrize("name", TINY)
def test_every_stage_shows_its_networks_and_what_they_cost(name: str) -> None:
    found = of(name)
    record = tour_table.as_json(found)
    assert [stage["name"] for stage in record["stages"]] == [stage.name for stage in found.profile.stages]
    for stage in record["stages"]:
        assert stage["networks"], stage["name"]
        assert stage["seconds"] == views.by_stage(found.profile)[stage["name"]].seconds
        for network in stage["networks"]:
            assert network["outputs"] and network["executions"] > 0
    with_context = {section for section, numbers in record["numbers"].items() if numbers}
    assert "run" in with_context and len(with_context) > 1


def _stage(record: dict[str, Any], name: str) -> dict[str, Any]:
    return next(stage for stage in record["stages"] if stage["name"] == name)


def test_a_network_in_a_loop_runs_as_often_as_the_loop_says() -> None:
    config = loader.load("parti-tiny")
    record = tour_table.as_json(tour(config, Run(device="h100-sxm")))
    (decoder,) = _stage(record, "decode")["networks"]
    assert decoder["executions"] == config.transformer.image_tokens  # type: ignore[union-attr]
    assert decoder["inputs"] == [{"name": "tokens", "shape": [2, 1]}], "guidance doubles the batch"
    assert decoder["outputs"] == [[2, 1, config.transformer.image_vocab]]  # type: ignore[union-attr]


def test_numbers_are_found_where_they_end_up() -> None:
    found = of("parti-tiny")
    places = {number.key: (number.value, number.place) for number in found.numbers["transformer"]}
    value, place = places["decoder.ff_dim"]
    assert place.startswith("decoder.") and f"({value} x " in place
    value, place = places["decoder.depth"]
    assert place == f"decoder.stack.layers.0 to decoder.stack.layers.{int(value) - 1}"
    assert places["decoder.num_heads"][1].startswith("heads of attention in decode/")
    assert places["image_tokens"][1] == "steps of the loop in decode"


def test_numbers_that_are_equal_are_told_apart_by_what_they_are() -> None:
    """A UNet takes as many channels as it gives."""
    places = {number.key: number.place for number in of("stable-diffusion-1.5").numbers["unet"]}
    assert places["in_channels"].startswith("enter.weight") and places["out_channels"].startswith("leave.weight")
    assert "cross_attention.to_k" in places["context_dim"]
    assert places["levels.1.attention.depth"] == "down.1.attentions.0.space.blocks.0"
    assert places["middle.depth"] == "middle_attention.space.blocks.0"
    for level in range(4):
        assert places[f"levels.{level}.channels"].startswith(f"down.{level}.res_blocks.0.conv_in.weight")


def test_only_a_unet_is_said_to_have_blocks_on_a_way_up() -> None:
    assert "way up" in term("unet", "levels.0.res_blocks").meaning
    assert not any("way up" in term(kind, "res_blocks").meaning for kind in ("kl-decoder", "vq-decoder", "wdsr"))


@pytest.mark.parametrize(
    ("name", "stage", "said"),
    [
        ("parti-tiny", "decode", "Table III and Fig. 8: decoding"),
        ("llama-tiny", "prefill", "as in a prefill"),
        ("stable-diffusion-tiny", "denoise", "as the levels of a UNet do"),
        ("make-a-video-tiny", "decoder", "Figs. 11 to 13: temporal attention"),
    ],
)
def test_stages_name_the_figures_of_the_study_that_they_show(name: str, stage: str, said: str) -> None:
    assert any(said in line for line in tour_table.figures(of(name).profile, stage))


def test_only_a_unet_is_said_to_go_down_and_up_and_only_causal_attention_to_look_back() -> None:
    muse = " ".join(tour_table.figures(of("muse-tiny").profile, "super_resolution"))
    assert "UNet" not in muse and "tokens attend to each other in every step" in muse
    flux = of("flux-tiny").profile
    lengths = {call.facts.causal: call.facts.query_length for call in views.attention_calls(flux)[:9]}
    assert lengths[True] < lengths[False], "CLIP's texts are shorter than those of T5, which is not causal"
    (said,) = [line for line in tour_table.figures(flux, "text_encoder") if "those before it" in line]
    assert f" {lengths[True]} tokens at once" in said


def test_the_command_prints_text_or_json_and_refuses_what_it_cannot_do() -> None:
    shown = CliRunner().invoke(main, ["tour", "muse-tiny", "--device", "h100-sxm"])
    assert shown.exit_code == 0 and "SIMULATED on" in shown.stdout and "[transformer]" in shown.stdout
    record = json.loads(CliRunner().invoke(main, ["tour", "muse-tiny", "--json"]).stdout)
    assert record["name"] == "muse-tiny" and record["stages"]
    record = json.loads(CliRunner().invoke(main, ["tour", "stable-diffusion-tiny", "--steps", "7", "--json"]).stdout)
    assert [network["executions"] for network in _stage(record, "denoise")["networks"]] == [7]
    for wrong, said in ((["muse-tinny"], "muse-tiny"), (["muse-tiny", "--device", "h1000"], "unknown device")):
        result = CliRunner().invoke(main, ["tour", *wrong])
        assert result.exit_code == 2 and said in result.stderr
    for here in ("cuda", "cpu"):
        result = CliRunner().invoke(main, ["tour", "muse-tiny", "--device", here])
        assert result.exit_code == 2 and "a tour is simulated" in result.stderr
