"""diffusers' diffusion transformers, written to a directory and read from it, give what they give there; so does what
goes with Wan's: its decoder of frames, and umT5.

Theirs of FLUX and Wan compute in float32 whatever their dtype, so that float64 says nothing more of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from minimodels.importer import to_toml
from minimodels.loader import load
from minimodels.weights import from_pretrained
from tests.parity.peers import assert_close, exact, randomise, reread, without_count

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

DIT: dict[str, Any] = {
    "num_attention_heads": 3, "attention_head_dim": 8, "in_channels": 5, "out_channels": 10, "num_layers": 3,
    "sample_size": 6, "num_embeds_ada_norm": 11,
}  # fmt: skip
FLUX: dict[str, Any] = {
    "in_channels": 20, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 12, "num_attention_heads": 3,
    "joint_attention_dim": 22, "pooled_projection_dim": 14, "guidance_embeds": True, "axes_dims_rope": (2, 4, 6),
}  # fmt: skip
WAN: dict[str, Any] = {
    "num_attention_heads": 3, "attention_head_dim": 14, "in_channels": 5, "out_channels": 5, "text_dim": 22,
    "freq_dim": 10, "ffn_dim": 50, "num_layers": 3,
}  # fmt: skip


def draw(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def make_dit(dtype: torch.dtype, **more: Any) -> Any:
    """Theirs by the constants of the official code, and one embedding of time and class, of which they have copies."""
    theirs = randomise(diffusers.DiTTransformer2DModel(**DIT | more)).to(dtype)
    first = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return theirs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "more", [{}, {"patch_size": 3, "out_channels": 5}, {"sample_size": 10, "num_layers": 1}], ids=str
)
def test_dit_equals_that_of_diffusers(more: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = make_dit(dtype, **more)
    side = theirs.config.sample_size
    x = draw((2, 5, side, side))[0].to(dtype)
    t, classes = torch.tensor([3, 901]), torch.tensor([7, 11])
    with torch.inference_mode():
        found = reread(theirs, tmp_path)(x, t, classes=classes)
        assert_close(found, theirs(x, t, classes).sample)


def test_embedders_of_dit_that_differ_are_refused(tmp_path: Path) -> None:
    theirs = make_dit(torch.float32)
    theirs.transformer_blocks[2].norm1.emb.class_embedder.embedding_table.weight[3, 4] += 1
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"transformer_blocks\.2\.norm1\.emb\.class_embedder.* differs from"):
        from_pretrained(tmp_path)


def flux_of_both(theirs: Any, folder: Path) -> tuple[Tensor, Tensor]:
    """What ours and theirs give for the same picture of 6 x 10 latents, which theirs takes packed."""
    ours = reread(theirs, folder)
    x, text, pooled = draw((2, 5, 6, 10), (2, 7, 22), (2, 14))
    t, guidance = torch.tensor([0.31, 0.97]), 3.5 if theirs.config.guidance_embeds else None
    row, column = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
    places = torch.stack([torch.zeros(15), row.flatten(), column.flatten()], dim=-1)
    packed = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
    told = {} if guidance is None else {"guidance": torch.full((2,), guidance)}
    with torch.inference_mode():
        out = theirs(packed, text, pooled, t, places, torch.zeros(7, 3), **told).sample
        expected = rearrange(out, "b (h w) (c p q) -> b c (h p) (w q)", h=3, p=2, q=2)
        return ours(x, 1000 * t, text, pooled=pooled, guidance=guidance), expected


@pytest.mark.parametrize(
    "more",
    [{}, {"guidance_embeds": False, "num_layers": 1}, {"axes_dims_rope": (4, 6, 2), "out_channels": 12}],
    ids=str,
)
def test_flux_equals_that_of_diffusers(more: dict[str, Any], tmp_path: Path) -> None:
    assert_close(*flux_of_both(randomise(diffusers.FluxTransformer2DModel(**FLUX | more)), tmp_path))


def wan_of_both(theirs: Any, folder: Path) -> tuple[Tensor, Tensor]:
    ours = reread(theirs, folder)
    x, text = draw((2, 5, 3, 6, 10), (2, 7, 22))
    t = torch.tensor([31, 970])
    with torch.inference_mode():
        return ours(x, t, text), theirs(x, t, text).sample


@pytest.mark.parametrize(
    "more", [{}, {"patch_size": (3, 2, 1)}, {"attention_head_dim": 18, "out_channels": 7}], ids=str
)
def test_wan_equals_that_of_diffusers(more: dict[str, Any], tmp_path: Path) -> None:
    assert_close(*wan_of_both(randomise(diffusers.WanTransformer3DModel(**WAN | more)), tmp_path))


@pytest.mark.parametrize(
    "more",
    [{}, {"temperal_downsample": [True, False], "decoder_base_dim": 10}, {"num_res_blocks": 2, "z_dim": 3}],
    ids=str,
)
def test_the_decoder_of_wan_equals_that_of_diffusers_frame_by_frame(more: dict[str, Any], tmp_path: Path) -> None:
    sizes = {
        "base_dim": 8,
        "z_dim": 5,
        "dim_mult": [1, 2, 3],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True],
    }
    theirs = randomise(diffusers.AutoencoderKLWan(**sizes | more))
    theirs.decoder.conv_out.weight.mul_(0.2)
    z = draw((2, theirs.config.z_dim, 4, 3, 5))[0]
    with torch.inference_mode():
        found, expected = reread(theirs, tmp_path)(z), theirs.decode(z).sample
    assert (expected.abs() == 1).float().mean() < 0.1, "theirs is limited to [-1, 1], ours not"
    assert_close(found.clamp(-1, 1), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_umt5_equals_that_of_transformers(dtype: torch.dtype, tmp_path: Path) -> None:
    config = transformers.UMT5Config(
        vocab_size=53, d_model=30, num_heads=3, d_kv=7, num_layers=3, d_ff=43, relative_attention_num_buckets=10,
        relative_attention_max_distance=17,
    )  # fmt: skip
    theirs = randomise(transformers.UMT5EncoderModel(config), small=".q.").to(dtype)
    ours = reread(theirs, tmp_path)
    if dtype == torch.float64:
        exact(theirs, "UMT5LayerNorm")
    tokens = torch.randint(53, (3, 13), generator=torch.Generator().manual_seed(19))
    mask = torch.arange(13) < torch.tensor([[13], [7], [1]])
    with torch.inference_mode():
        assert_close(ours(tokens), theirs(tokens).last_hidden_state)
        assert_close(ours(tokens, mask), theirs(tokens, attention_mask=mask).last_hidden_state)


RELEASED = [  # sizes of the released config.json where they are not what the class has by itself
    ("dit-xl-2", "transformer", {"_class_name": "DiTTransformer2DModel", "out_channels": 8}),
    ("flux.1-dev", "transformer", {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}),
    (
        "wan2.1-1.3b", "transformer",
        {"_class_name": "WanTransformer3DModel", "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    ),
    ("wan2.1-1.3b", "decoder", {"_class_name": "AutoencoderKLWan"}),
    (
        "wan2.1-1.3b", "text_encoder",
        {"architectures": ["UMT5EncoderModel"], "vocab_size": 256384, "d_model": 4096, "d_ff": 10240, "num_heads": 64,
         "num_layers": 24},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "section", "table"), RELEASED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_our_configs_have_the_sizes_of_the_released_ones(
    name: str, section: str, table: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(table))
    (tmp_path / "mine.toml").write_text(to_toml(tmp_path, name).text)
    found, expected = (dict(load(config).parts())[section] for config in (tmp_path / "mine.toml", name))
    assert without_count(found) == without_count(expected)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("DiTTransformer2DModel", "norm_type", "ada_norm_single"),
        ("DiTTransformer2DModel", "activation_fn", "geglu"),
        ("DiTTransformer2DModel", "attention_bias", False),
        ("DiTTransformer2DModel", "sample_size", 31),
        ("DiTTransformer2DModel", "norm_eps", 1e-3),
        ("DiTTransformer2DModel", "num_layers", 0),
        ("FluxTransformer2DModel", "patch_size", 2),
        ("FluxTransformer2DModel", "in_channels", 63),
        ("FluxTransformer2DModel", "axes_dims_rope", [16, 56]),
        ("FluxTransformer2DModel", "guidance_embeds", "no"),
        ("FluxTransformer2DModel", "a_setting_of_tomorrow", 3),
        ("WanTransformer3DModel", "qk_norm", "rms_norm"),
        ("WanTransformer3DModel", "cross_attn_norm", False),
        ("WanTransformer3DModel", "image_dim", 1280),
        ("WanTransformer3DModel", "added_kv_proj_dim", 5120),
        ("WanTransformer3DModel", "eps", 1e-5),
        ("WanTransformer3DModel", "patch_size", [2, 2]),
        ("AutoencoderKLWan", "is_residual", True),
        ("AutoencoderKLWan", "patch_size", 2),
        ("AutoencoderKLWan", "attn_scales", [0.5]),
    ],
)
def test_a_setting_without_an_equal_is_named(name: str, key: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name, key: value}))
    with pytest.raises(ValueError, match=f"[ :]{key}[ :]"):
        from_pretrained(tmp_path)
