"""`minibench import`: what diffusers and transformers saved becomes a config that profiles."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from minimodels.cli import main
from minimodels.config import LanguageModel
from minimodels.diffusion_config import LatentDiffusion, LatentVideo
from minimodels.loader import load, names, parse
from minimodels.sim.profile import Profile
from minimodels.token_config import MaskedImage
from minimodels.toml_writer import dumps
from tests.parity.pipelines import amused, animatediff, autoencoder, modelscope, refiner, sdxl, stable_diffusion, unet

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "saved"
    made.mkdir()
    return made


def test_a_stable_diffusion_pipeline_becomes_an_architecture_that_profiles(folder: Path, tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(folder)
    toml, out = tmp_path / "my.toml", tmp_path / "my.json"
    result = run("import", folder, "--out", toml)
    assert result.exit_code == 0 and f"minibench profile {toml}" in result.stdout
    config = load(str(toml))
    assert isinstance(config, LatentDiffusion)
    assert config.schedule.model_dump(exclude_none=True) == {
        "kind": "scaled-linear", "beta_start": 0.0009, "beta_end": 0.013, "timesteps": 1000, "prediction": "velocity"
    }  # fmt: skip
    assert (config.run.image_size, config.run.steps, config.run.guidance_scale, config.run.sampler) == (
        24,
        59,  # PNDM's first three steps make four passes each
        7.5,
        "ddim",
    )
    assert config.text_encoder.features == "last" and config.decoder.latent_scale == 0.7
    assert config.unet.levels[1].attention is not None and config.unet.levels[0].attention is None
    text = toml.read_text()
    for name in ("text_encoder/config.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        assert f"# from {folder / name}" in text
    assert "chosen: PNDMScheduler has no equal" in text and "50: 59 passes of the network by PNDMScheduler" in text
    assert run("profile", toml, "--device", "a100-80gb", "--out", out).exit_code == 0
    assert Profile.load(out).config["name"] == "my"


def test_an_sdxl_pipeline_becomes_an_architecture_that_profiles(folder: Path, tmp_path: Path) -> None:
    sdxl().save_pretrained(folder)
    toml = tmp_path / "xl.toml"
    assert run("import", folder, "--out", toml).exit_code == 0
    config = load(str(toml))
    assert isinstance(config, LatentDiffusion) and config.second_text_encoder is not None
    assert config.text_encoder.features == config.second_text_encoder.features == "penultimate"
    assert config.unet.vector is not None and config.pooled_dim == config.unet.vector.pooled_dim == 17
    assert (config.run.sampler, config.schedule.timesteps, config.schedule.kind) == ("euler", 900, "linear")
    assert run("profile", toml, "--device", "a100-80gb").exit_code == 0


def test_sdxls_refiner_becomes_an_architecture_with_the_text_encoder_it_has(folder: Path, tmp_path: Path) -> None:
    refiner().save_pretrained(folder)
    toml = tmp_path / "refiner.toml"
    assert run("import", folder, "--out", toml).exit_code == 0
    config = load(str(toml))
    assert isinstance(config, LatentDiffusion) and config.second_text_encoder is None
    assert config.text_encoder.features == "penultimate"
    assert config.unet.vector is not None and (config.unet.vector.numbers, config.pooled_dim) == (5, 14)
    assert (config.run.steps, config.schedule.below) == (29, 300)  # strength 0.3: 15 steps, by Heun two passes each
    assert "15: 29 passes of the network by HeunDiscreteScheduler" in toml.read_text()
    assert run("profile", toml, "--device", "a100-80gb").exit_code == 0


@pytest.mark.parametrize(("make", "guidance"), [(modelscope, 9.0), (animatediff, 7.5)])
def test_a_pipeline_for_video_becomes_an_architecture(
    make: Callable[[], Any], guidance: float, folder: Path, tmp_path: Path
) -> None:
    make().save_pretrained(folder)
    toml = tmp_path / "video.toml"
    assert run("import", folder, "--out", toml).exit_code == 0
    config = load(str(toml))
    assert isinstance(config, LatentVideo) and config.unet.temporal is not None
    assert (config.run.frames, config.run.steps, config.run.guidance_scale, config.run.image_size) == (
        16,
        50,
        guidance,
        24,
    )
    assert run("profile", toml, "--device", "a100-80gb").exit_code == 0


def test_amused_becomes_an_architecture(folder: Path, tmp_path: Path) -> None:
    amused().save_pretrained(folder)
    toml = tmp_path / "amused.toml"
    assert run("import", folder, "--out", toml).exit_code == 0
    config = load(str(toml))
    assert isinstance(config, MaskedImage) and config.text_encoder.features == "penultimate"
    assert (config.run.steps, config.run.image_size, config.side, config.mask) == (12, 24, 6, 50)
    assert run("profile", toml, "--device", "a100-80gb").exit_code == 0


def test_a_scheduler_that_is_not_known_is_refused_with_those_that_are(folder: Path, tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(folder)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    for name in ("FlowMatchHeunDiscreteScheduler", "EDMEulerScheduler", None, ["DDIMScheduler"]):
        scheduler.write_text(json.dumps({"_class_name": name}))
        result = run("import", folder, "--out", tmp_path / "my.toml")
        assert result.exit_code == 2 and repr(name) in result.stderr and "PNDMScheduler" in result.stderr


def test_weights_are_not_read_and_it_is_said_so(folder: Path) -> None:
    stable_diffusion().save_pretrained(folder)
    whole = run("import", folder)
    note = "weights were not read"
    assert note in whole.stderr and note not in whole.stdout and "warning" not in whole.stderr
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"")
    assert run("import", folder).stdout == whole.stdout and note in run("import", folder / "unet").stderr
    weights.rename(folder / "unet" / "diffusion_pytorch_model.bin")
    for directory in (folder, folder / "unet"):
        result = run("import", directory)
        assert result.exit_code == 0 and "pickles alone (diffusion_pytorch_model.bin)" in result.stderr


def test_a_directory_that_holds_no_network_says_what_it_holds(folder: Path) -> None:
    stable_diffusion().save_pretrained(folder)
    for directory, held in ((folder / "scheduler", "scheduler_config.json"), (folder.parent, "saved")):
        result = run("import", directory)
        assert result.exit_code == 2 and held in result.stderr and "is no model" in result.stderr


def test_one_network_of_a_cascade_is_refused_with_its_components(folder: Path) -> None:
    stable_diffusion().save_pretrained(folder)
    (folder / "model_index.json").write_text('{"_class_name": "IFPipeline", "text_encoder": [], "unet": []}')
    message = run("import", folder).stderr
    assert "one network of a cascade" in message and f"{folder / 'text_encoder'}, {folder / 'unet'}" in message


def test_a_llama_becomes_an_architecture_that_profiles_with_lengths_that_fit(folder: Path, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=37, hidden_size=30, num_attention_heads=3, num_hidden_layers=2, intermediate_size=43,
        max_position_embeddings=19, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "model.safetensors").unlink()  # sizes alone are read
    toml = tmp_path / "mine.toml"
    assert run("import", folder, "--out", toml).exit_code == 0
    ours = load(str(toml))
    assert isinstance(ours, LanguageModel) and ours.language_model.tied
    assert ours.run.prompt_len + ours.run.gen_len == 19
    assert toml.read_text().count("# chosen: config.json gives no lengths of a run") == 2
    assert run("profile", toml, "--device", "a100-80gb").exit_code == 0


def test_one_component_becomes_a_section_and_says_so(folder: Path, tmp_path: Path) -> None:
    base = tomllib.loads(dumps(load("stable-diffusion-1.5").model_dump(exclude_defaults=True), {}))
    for section, model in (("unet", unet(cross_attention_dim=768)), ("decoder", autoencoder())):
        own = folder / section
        model.save_pretrained(own)
        printed = run("import", own)
        assert printed.exit_code == 0 and printed.stdout.startswith("# A section of an architecture")
        table = tomllib.loads(printed.stdout)
        assert list(table) == ["title", "paper", section]
        parse(base | table, "with that section")
        written = run("import", own, "--out", tmp_path / "section.toml")
        assert f"the section [{section}] of an architecture" in written.stdout
        assert (tmp_path / "section.toml").read_text() == printed.stdout


def test_what_cannot_be_imported_is_one_message_and_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(folder)
    toml = tmp_path / "my.toml"

    def message(*arguments: str | Path) -> str:
        result = run("import", *arguments)
        assert result.exit_code == 2 and "Traceback" not in result.output and not toml.exists()
        return result.stderr

    assert "FILE.toml" in message(folder, "--out", tmp_path / "my.json")
    assert "cannot write" in message(folder, "--out", tmp_path / "absent" / "my.toml")
    assert "not a directory" in message(tmp_path / "absent", "--out", toml)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    table = json.loads(scheduler.read_text())
    for setting, value in (("beta_schedule", "sigmoid"), ("trained_betas", [0.1]), ("prediction_type", "flow")):
        scheduler.write_text(json.dumps(table | {setting: value}))
        assert setting in message(folder, "--out", toml)
    scheduler.write_text(json.dumps(table))
    edit = folder / "unet" / "config.json"
    kept = json.loads(edit.read_text())
    for setting, value in (("sample_size", None), ("sample_size", 7), ("cross_attention_dim", 23), ("in_channels", 5)):
        edit.write_text(json.dumps(kept | {setting: value}))
        message(folder, "--out", toml)
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "'FluxPipeline'" in message(folder, "--out", toml)


@pytest.mark.parametrize("name", names())
def test_every_config_of_ours_survives_being_written(name: str, tmp_path: Path) -> None:
    config = load(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(dumps(config.model_dump(exclude_defaults=True, exclude={"name"}), {"run": "a comment"}))
    assert load(str(path)) == config
    assert "# a comment" in path.read_text()


def test_strings_that_toml_could_trip_over_survive_being_written() -> None:
    table = {
        "text": 'quotes " and \\ and \n and \t and \x7f and \x00 and é and 🙂',
        "a key": {"of spaces": [1.5, -2, 1e-300]},
        "empty": {}, "list": [], "yes": True, "rows": [{"a": 1}, {"a": 2, "deep": {"b": "c" * 100}}],
    }  # fmt: skip
    assert tomllib.loads(dumps(table, {"": "two\nlines", "text": "a\nb", "a key": "\x00"})) == table
