"""`minibench import`: what diffusers and transformers saved becomes a config that profiles."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from minimodels.cli import main
from minimodels.config import LanguageModel
from minimodels.diffusion_config import LatentDiffusion
from minimodels.loader import load, names, parse
from minimodels.sim.profile import Profile
from minimodels.toml_writer import dumps
from minimodels.weights import from_pretrained

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def clip(kind: str, dim: int) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=53, hidden_size=dim, num_attention_heads=2, num_hidden_layers=3, intermediate_size=43,
        max_position_embeddings=7, projection_dim=17, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def unet(**more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=6, block_out_channels=(12, 24), norm_num_groups=4, attention_head_dim=3,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **more,
    )  # fmt: skip


def autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 12, 24), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.7,
    )  # fmt: skip


def stable_diffusion() -> Any:
    return diffusers.StableDiffusionPipeline(
        text_encoder=clip("CLIPTextModel", 22), unet=unet(cross_attention_dim=22), vae=autoencoder(), tokenizer=None,
        scheduler=diffusers.PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.0009, beta_end=0.013, prediction_type="v_prediction", steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl() -> Any:
    told = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 10,
        "projection_class_embeddings_input_dim": 17 + 60,
    }  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        text_encoder=clip("CLIPTextModel", 22), text_encoder_2=clip("CLIPTextModelWithProjection", 14), tokenizer=None,
        tokenizer_2=None, unet=unet(cross_attention_dim=36, **told), vae=autoencoder(),
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="linear", beta_start=0.001, num_train_timesteps=900),
    )  # fmt: skip


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
        59,  # what PNDM's 50 steps take, Runge-Kutta first
        7.5,
        "ddim",
    )
    assert config.text_encoder.features == "last" and config.decoder.latent_scale == 0.7
    assert config.unet.levels[1].attention is not None and config.unet.levels[0].attention is None
    text = toml.read_text()
    for name in ("text_encoder/config.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        assert f"# from {folder / name}" in text
    assert "chosen: PNDMScheduler has no equal" in text
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
        assert printed.exit_code == 0 and "# A section of an architecture, not a whole one" in printed.stdout
        table = tomllib.loads(printed.stdout)
        assert list(table) == ["replace", section] and table.pop("replace") == [section]
        parse(base | table, "with that section")
        written = run("import", own, "--out", tmp_path / "section.toml")
        assert f"the section [{section}] of an architecture" in written.stdout
        assert (tmp_path / "section.toml").read_text() == printed.stdout


@pytest.mark.parametrize("base", ("sdxl", "stable-diffusion-1.5", "stable-diffusion-2.1"))
def test_an_imported_section_has_nothing_of_the_base_it_stands_on(folder: Path, tmp_path: Path, base: str) -> None:
    width = load(base).unet.context_dim  # type: ignore[union-attr]
    unet(cross_attention_dim=width).save_pretrained(folder)
    toml = tmp_path / "mine.toml"
    assert run("import", folder, "--out", toml).exit_code == 0
    lines = toml.read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    toml.write_text("\n".join([*lines[:first], f'base = "{base}"', *lines[first:]]))
    shown = json.loads(run("show", toml, "--json").stdout)
    counted = {part["name"]: part["params"] for part in shown["parts"]}
    assert counted["unet"] == sum(weight.numel() for weight in from_pretrained(folder).parameters())


@pytest.mark.parametrize(
    ("scheduler", "passes"),
    (
        (diffusers.HeunDiscreteScheduler, 99),
        (diffusers.PNDMScheduler, 59),
        (diffusers.UniPCMultistepScheduler, 50),
        (diffusers.DDIMScheduler, 50),
    ),
)
def test_a_scheduler_takes_as_many_passes_as_in_diffusers(
    folder: Path, tmp_path: Path, scheduler: Any, passes: int
) -> None:
    pipeline = stable_diffusion()
    pipeline.register_modules(scheduler=scheduler())
    pipeline.save_pretrained(folder)
    assert run("import", folder, "--out", tmp_path / "my.toml").exit_code == 0
    theirs = scheduler()
    theirs.set_timesteps(50)
    assert load(str(tmp_path / "my.toml")).run.steps == len(theirs.timesteps) == passes  # type: ignore[union-attr]


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
        "text": 'quotes " and \\ and \n and \t and \x7f and \x00 and é and 🙂', "a key": {"of spaces": [1.5, -2, 1e-300]},
        "empty": {}, "list": [], "yes": True, "rows": [{"a": 1}, {"a": 2, "deep": {"b": "c" * 100}}],
    }  # fmt: skip
    assert tomllib.loads(dumps(table, {"": "two\nlines", "text": "a\nb", "a key": "\x00"})) == table
