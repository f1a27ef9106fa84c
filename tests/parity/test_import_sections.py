"""`minibench import` of one network: on a base, its section is that network, and no other's settings are left in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from torch import nn

from minimodels.cli import main
from minimodels.loader import load
from minimodels.run import parameters
from minimodels.weights import from_pretrained

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def unet(context_dim: int, **more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=6, block_out_channels=(12, 24), norm_num_groups=4, attention_head_dim=3,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context_dim, **more,
    )  # fmt: skip


def if_unet(context_dim: int) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=6, in_channels=3, out_channels=6, block_out_channels=(12, 24), norm_num_groups=4,
        layers_per_block=1, attention_head_dim=3, cross_attention_dim=context_dim, act_fn="gelu",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
        resnet_skip_time_act=True, time_embedding_act_fn="gelu",
    )  # fmt: skip


def motion_unet(context_dim: int) -> Any:
    return diffusers.UNetMotionModel(
        sample_size=6, block_out_channels=(12, 24), norm_num_groups=4, num_attention_heads=3,
        motion_num_attention_heads=3, down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
        up_block_types=("CrossAttnUpBlockMotion", "UpBlockMotion"), cross_attention_dim=context_dim,
    )  # fmt: skip


def autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 12, 24), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False,
    )  # fmt: skip


def clip(dim: int) -> Any:
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=53, hidden_size=dim, num_attention_heads=2, num_hidden_layers=3, intermediate_size=43,
            max_position_embeddings=77,
        )
    )  # fmt: skip


def t5(dim: int) -> Any:
    sizes = {"d_model": dim, "d_kv": 5, "num_heads": 3, "num_layers": 2, "d_ff": 31, "vocab_size": 59}
    return transformers.T5EncoderModel(transformers.T5Config(feed_forward_proj="relu", **sizes))


CASES: dict[str, tuple[Callable[[], Any], str, tuple[str, ...]]] = {
    "SDXL's UNet is told a vector, this one is not": (lambda: unet(2048), "unet", ("sdxl",)),
    "1x1 convolutions where SD 2.1 has linear layers": (lambda: unet(1024), "unet", ("stable-diffusion-2.1",)),
    "a UNet that fits two bases": (lambda: unet(768), "unet", ("stable-diffusion-1.5", "stable-diffusion-1.5-config")),
    "Imagen's projects and pools the text": (lambda: if_unet(4096), "unet", ("imagen",)),
    "another motion than AnimateDiff's": (lambda: motion_unet(768), "unet", ("animatediff",)),
    "a decoder of other sizes": (autoencoder, "decoder", ("stable-diffusion-1.5", "sdxl", "modelscope-1.7b")),
    "a plain text encoder": (lambda: clip(768), "text_encoder", ("stable-diffusion-1.5", "animatediff")),
    "T5 with a plain MLP": (lambda: t5(4096), "text_encoder", ("imagen", "muse-3b", "phenaki")),
}
EVERY = pytest.mark.parametrize(
    ("case", "base"), [(case, base) for case, (_, _, bases) in CASES.items() for base in bases]
)


def counted(module: nn.Module, section: str) -> int:
    """Parameters of what the section is of: of an autoencoder its decoder."""
    return parameters(module.decoder if section == "decoder" else module)  # type: ignore[arg-type]


@EVERY
def test_a_section_on_a_base_has_the_parameters_of_the_file_alone(case: str, base: str, tmp_path: Path) -> None:
    make, section, _ = CASES[case]
    saved, toml = tmp_path / "saved", tmp_path / "mine.toml"
    make().save_pretrained(saved)
    expected = counted(from_pretrained(saved), section)

    written = run("import", saved, "--out", toml)
    assert written.exit_code == 0 and f"the section [{section}]" in written.stdout and 'base = "NAME"' in written.stdout
    toml.write_text(f'base = "{base}"\n{toml.read_text()}')
    assert shown(toml, section) == expected

    named = run("import", saved, "--base", base, "--out", toml)
    assert named.exit_code == 0 and f"minibench profile {toml}" in named.stdout
    assert shown(toml, section) == expected

    config, its = load(str(toml)), load(base)
    assert config.title == f"{section} of {tmp_path.name}/saved" and config.paper == f"from {saved / 'config.json'}"
    others = [key for key, _ in its.parts() if key != section]
    assert [getattr(config, key) for key in others] == [getattr(its, key) for key in others]


def shown(toml: Path, section: str) -> int:
    """The count that `show` prints of a section; no published one is beside it."""
    (part,) = (part for part in json.loads(run("show", toml, "--json").stdout)["parts"] if part["name"] == section)
    assert part["published"] is None
    return part["params"]


def test_a_network_that_does_not_fit_the_base_is_one_message_and_leaves_no_file(tmp_path: Path) -> None:
    unet(77).save_pretrained(tmp_path / "saved")
    toml = tmp_path / "mine.toml"
    for base, message in (("sdxl", "width 77"), ("llama2-7b", "has no [unet]"), ("sdlx", "did you mean sdxl")):
        result = run("import", tmp_path / "saved", "--base", base, "--out", toml)
        assert result.exit_code == 2 and message in result.stderr and not toml.exists()


def test_a_base_without_such_a_section_names_those_that_have_one(tmp_path: Path) -> None:
    unet(77).save_pretrained(tmp_path / "unet")
    diffusers.AutoencoderKL(block_out_channels=(32,)).save_pretrained(tmp_path / "vae")
    found = run("import", tmp_path / "unet", "--base", "parti-3b").stderr
    assert "is a unet, a [unet] of an architecture, but --base parti-3b has no [unet]; bases with one: " in found
    assert "stable-diffusion-1.5" in found and "tiny" not in found and "phenaki" not in found
    found = run("import", tmp_path / "vae", "--base", "muse-3b").stderr
    assert "--base muse-3b has a [decoder] that is a vq-decoder; bases with one: " in found and "sdxl" in found
    sizes = run("import", tmp_path / "unet", "--base", "sdxl-config").stderr
    assert f"{tmp_path / 'unet'} as [unet] of sdxl-config: the UNet reads text of width 77" in sizes


def test_what_is_whole_by_itself_takes_no_base(tmp_path: Path) -> None:
    sizes = {"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 2, "vocab_size": 37}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(intermediate_size=43, **sizes)).save_pretrained(tmp_path)
    assert "needs no --base" in run("import", tmp_path, "--base", "llama2-7b").stderr
