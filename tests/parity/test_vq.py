"""The VQGAN autoencoder equals diffusers' VQModel with the same random weights, which diffusers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minimodels.loader import load
from minimodels.parts import make
from minimodels.pixel_decoder import VqDecoder
from minimodels.token_config import ParallelImage
from minimodels.weights import from_pretrained
from tests.parity.peers import assert_close, randomise, reread

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

CONFIGS: dict[str, dict[str, Any]] = {
    "three levels": {
        "block_out_channels": (12, 24, 36), "layers_per_block": 1, "latent_channels": 5, "num_vq_embeddings": 37,
        "norm_num_groups": 4, "vq_embed_dim": 7,
    },
    "no attention": {
        "block_out_channels": (8, 20), "layers_per_block": 2, "latent_channels": 3, "num_vq_embeddings": 301,
        "norm_num_groups": 2, "mid_block_add_attention": False, "lookup_from_codebook": True,
    },
    "one level": {
        "block_out_channels": (15,), "layers_per_block": 3, "latent_channels": 6, "num_vq_embeddings": 53,
        "norm_num_groups": 3, "vq_embed_dim": 2, "force_upcast": True,
    },
}  # fmt: skip


def make_theirs(config: dict[str, Any], dtype: torch.dtype) -> Any:
    levels = len(config["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return randomise(diffusers.VQModel(**config, **blocks)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_codes_and_pixels_equal_those_of_diffusers(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = make_theirs(CONFIGS[name], dtype)
    ours = reread(theirs, tmp_path)
    x = torch.randn(2, 3, 21, 26, generator=torch.Generator().manual_seed(3)).to(dtype)  # not divisible by 4, nor by 2
    with torch.inference_mode():
        z = theirs.encode(x).latents
        assert_close(ours.to_code(ours.encoder(x)), z)
        codes = ours.encode(x)
        assert codes.unique().numel() > 4, "codes must differ for the comparison to mean anything"
        expected = theirs.quantize(z)[2][2]
        assert codes.shape == (2, *z.shape[2:]) and torch.equal(codes.flatten(), expected)
        assert_close(ours.decode(codes), theirs.decode(z).sample)
        assert_close(ours(x), theirs(x).sample)


def test_decoding_given_codes_equals_their_lookup(tmp_path: Path) -> None:
    theirs = make_theirs(CONFIGS["no attention"], torch.float64)
    ours = reread(theirs, tmp_path)
    codes = torch.randint(301, (2, 5, 7), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = theirs.decode(codes, force_not_quantize=True, shape=(2, 5, 7, 3)).sample
        assert_close(ours.decode(codes), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_quantize_finds_the_nearest_code_and_codes_find_themselves(dtype: torch.dtype, tmp_path: Path) -> None:
    ours = reread(make_theirs(CONFIGS["three levels"], dtype), tmp_path)
    z = torch.randn(3, 7, 5, 9, generator=torch.Generator().manual_seed(4)).to(dtype)
    codebook = ours.decoder.codebook.weight
    distance = (z[:, None] - codebook[None, :, :, None, None]).square().sum(dim=2)
    assert torch.equal(ours.quantize(z), distance.argmin(dim=1))
    own = codebook.T.reshape(1, 7, 1, 37)
    assert ours.quantize(own).flatten().tolist() == list(range(37))


def test_the_decoder_is_the_one_that_muse_is_built_with(tmp_path: Path) -> None:
    ours = reread(make_theirs(CONFIGS["no attention"], torch.float32), tmp_path)
    muse = load("muse-tiny")
    assert isinstance(muse, ParallelImage)
    assert type(ours.decoder) is type(make(muse.decoder)) is VqDecoder


def test_weights_of_old_files_with_other_names_of_attention_load_the_same(tmp_path: Path) -> None:
    theirs = make_theirs(CONFIGS["three levels"], torch.float32)
    expected = reread(theirs, tmp_path).state_dict()
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, value in load_file(path).items():
        for new, old in (("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn.")):
            name = name.replace(new, old)
        renamed[name] = value
    assert any(".proj_attn." in name for name in renamed)
    save_file(renamed, path)
    found = from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("norm_type", "spatial"),
        ("in_channels", 4),
        ("out_channels", 1),
        ("act_fn", "relu"),
        ("layers_per_block", 0),
        ("down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
        ("up_block_types", ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]),
        ("shortcuts", 3),
    ],
)
def test_an_unsupported_setting_is_named(setting: str, value: object, tmp_path: Path) -> None:
    make_theirs(CONFIGS["no attention"], torch.float32).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(ValueError, match=setting):
        from_pretrained(tmp_path)
