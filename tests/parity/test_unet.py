"""The UNets of Stable Diffusion, SDXL and DeepFloyd IF, read from a directory of diffusers, equal diffusers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minimodels.diffusion_config import LatentDiffusion
from minimodels.loader import load
from minimodels.parts import make
from minimodels.peers.unet import PEERS
from minimodels.run import parameters
from minimodels.unet_blocks import timestep_features
from tests.parity.peers import assert_close, randomise, reread, without_count

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)

BATCH, HEIGHT, WIDTH, TEXT_LEN = 2, 8, 12, 7


class ExactPooling(nn.Module):
    """diffusers' pooling of text with the softmax in the dtype of its input, which theirs takes in float32."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        pool, heads = self.pool, self.pool.num_heads
        mean = x.mean(dim=1, keepdim=True) + pool.positional_embedding
        x = torch.cat([mean, x], dim=1)
        q, k, v = (
            to(y).unflatten(-1, (heads, -1)).transpose(1, 2)
            for to, y in ((pool.q_proj, mean), (pool.k_proj, x), (pool.v_proj, x))
        )
        weight = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        return (weight @ v).transpose(1, 2).flatten(1)


def blocks(kinds: str, plain: str = "", attending: str = "CrossAttn") -> dict[str, Any]:
    """Kinds of block, one letter per level: "x" attends, "-" does not."""
    down = [f"{attending}DownBlock2D" if kind == "x" else f"{plain}DownBlock2D" for kind in kinds]
    up = [name.replace("Down", "Up", 1) for name in reversed(down)]
    return {"down_block_types": tuple(down), "up_block_types": tuple(up)}


def draw(*shape: int, dtype: torch.dtype, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


LATENT: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1": {"attention_head_dim": 3, **blocks("xx-")},
    "Stable Diffusion 2": {"attention_head_dim": (2, 3, 4), "use_linear_projection": True, **blocks("xx-")},
    "one residual block": {"attention_head_dim": 1, "layers_per_block": 1, "act_fn": "gelu", **blocks("-x-")},
    "blocks and depths that differ": {
        "layers_per_block": (1, 3, 2), "transformer_layers_per_block": (1, 2, 3), "attention_head_dim": (1, 3, 2),
        "in_channels": 9, "norm_eps": 1e-3, "time_embedding_dim": 40, **blocks("x-x"),
    },
}  # fmt: skip


@DTYPES
@pytest.mark.parametrize("form", LATENT.values(), ids=LATENT.keys())
def test_a_unet_with_cross_attention_equals_that_of_diffusers(
    form: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    sizes = {"block_out_channels": (12, 24, 48), "cross_attention_dim": 22, "norm_num_groups": 4}
    theirs = randomise(diffusers.UNet2DConditionModel(**sizes | form)).to(dtype)
    ours = reread(theirs, tmp_path)
    x = draw(BATCH, form.get("in_channels", 4), HEIGHT, WIDTH, dtype=dtype)
    context, timestep = draw(BATCH, TEXT_LEN, 22, dtype=dtype, seed=4), torch.tensor([3, 901])
    with torch.inference_mode():
        assert_close(ours(x, timestep, context), theirs(x, timestep, context).sample)


@DTYPES
@pytest.mark.parametrize("numbers", [6, 5], ids=["base", "refiner"])
def test_a_unet_told_pooled_text_and_sizes_equals_that_of_diffusers(
    numbers: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """SDXL: six numbers, to the refiner five, each as sines and cosines beside the pooled text."""
    pooled_dim, number_dim = 22, 10
    theirs = diffusers.UNet2DConditionModel(
        block_out_channels=(12, 24, 48), cross_attention_dim=22 if numbers == 5 else 34, norm_num_groups=4,
        attention_head_dim=(1, 3, 4), transformer_layers_per_block=(1, 2, 3), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=number_dim,
        projection_class_embeddings_input_dim=pooled_dim + numbers * number_dim, **blocks("-xx"),
    )  # fmt: skip
    theirs = randomise(theirs).to(dtype)
    ours = reread(theirs, tmp_path)
    assert ours.config.vector.model_dump() == {"pooled_dim": 22, "numbers": numbers, "number_dim": number_dim}
    x, timestep = draw(BATCH, 4, HEIGHT, WIDTH, dtype=dtype), torch.tensor([3, 901])
    context = draw(BATCH, TEXT_LEN, ours.config.context_dim, dtype=dtype, seed=4)
    pooled = draw(BATCH, pooled_dim, dtype=dtype, seed=5)
    told = torch.arange(BATCH * numbers).reshape(BATCH, numbers) * 31.0
    vector = torch.cat([pooled, timestep_features(told.flatten(), number_dim).to(dtype).reshape(BATCH, -1)], dim=-1)
    with torch.inference_mode():
        added = {"text_embeds": pooled, "time_ids": told}
        expected = theirs(x, timestep, context, added_cond_kwargs=added).sample
        assert_close(ours(x, timestep, context, vector=vector), expected)


PIXEL: dict[str, dict[str, Any]] = {
    "without norm of the text": {"out_channels": 6},
    "first stage": {"cross_attention_norm": "group_norm", "attention_head_dim": 4, "time_embedding_dim": 40},
    "second stage": {
        "in_channels": 6, "class_embed_type": "timestep", "cross_attention_norm": "group_norm",
        "only_cross_attention": True, "resnet_out_scale_factor": 1 / 0.7071, "mid_block_scale_factor": 1 / 0.7071,
        "resnet_skip_time_act": True, "time_embedding_act_fn": "gelu", "layers_per_block": (1, 3, 2),
    },
    "told the noise level, and adding the time": {
        "in_channels": 6, "class_embed_type": "timestep", "resnet_time_scale_shift": "default", "act_fn": "silu",
    },
    "of one width with its text": {"encoder_hid_dim": None},
}  # fmt: skip


@DTYPES
@pytest.mark.parametrize("form", PIXEL.values(), ids=PIXEL.keys())
def test_a_unet_with_appended_text_equals_that_of_diffusers(
    form: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    """DeepFloyd IF: text among the keys, pooled text, scale and shift, resampling inside residual blocks."""
    sizes: dict[str, Any] = {
        "in_channels": 3, "out_channels": 3, "block_out_channels": (12, 24, 48), "layers_per_block": 2,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "attention_head_dim": 8, "cross_attention_dim": 32,
        "encoder_hid_dim": 20, "addition_embed_type": "text", "addition_embed_type_num_heads": 4,
        "norm_num_groups": 4, "act_fn": "gelu", "resnet_time_scale_shift": "scale_shift",
        **{name: tuple(kind.replace("ResnetDown", "ResnetDownsample").replace("ResnetUp", "ResnetUpsample")
                       for kind in kinds) for name, kinds in blocks("-xx", "Resnet", "SimpleCrossAttn").items()},
    }  # fmt: skip
    theirs = randomise(diffusers.UNet2DConditionModel(**sizes | form)).to(dtype)
    ours = reread(theirs, tmp_path)
    if dtype == torch.float64:
        theirs.add_embedding.pool = ExactPooling(theirs.add_embedding.pool)
    text = draw(BATCH, TEXT_LEN, 20 if (sizes | form)["encoder_hid_dim"] else 32, dtype=dtype, seed=4)
    x, timestep = draw(BATCH, (sizes | form)["in_channels"], HEIGHT, WIDTH, dtype=dtype), torch.tensor([3, 901])
    told = {"noise_level": torch.tensor([250, 77])} if "class_embed_type" in form else {}
    with torch.inference_mode():
        expected = theirs(x, timestep, text, class_labels=told.get("noise_level")).sample
        assert_close(ours(x, timestep, text, **told), expected)


PUBLISHED: dict[str, dict[str, Any]] = {
    "stable-diffusion-1.5": {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
    "stable-diffusion-2.1": {
        "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
        "upcast_attention": True, "sample_size": 96,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816, **blocks("-xx"),
    },
    "sdxl-refiner": {
        "block_out_channels": (384, 768, 1536, 1536), "cross_attention_dim": 1280, "use_linear_projection": True,
        "attention_head_dim": (6, 12, 24, 24), "transformer_layers_per_block": 4, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2560, **blocks("-xx-"),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_unet_of_diffusers_is_our_config_of_it(name: str) -> None:
    config = load(name)
    assert isinstance(config, LatentDiffusion) and config.unet.published is not None
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**PUBLISHED[name])
        part = PEERS["UNet2DConditionModel"].part(dict(theirs.config))
        assert part == without_count(config.unet)
        assert parameters(make(part)) == parameters(theirs) == config.unet.published.params


REFUSED: dict[str, dict[str, Any]] = {
    "class_embed_type": {"class_embed_type": "identity"},
    "dual_cross_attention": {"dual_cross_attention": True},
    "mid_block_type": {"mid_block_type": None},
    "up_block_types": {"up_block_types": ["UpBlock2D"] * 4},
    "down_block_types": {"down_block_types": ["AttnDownBlock2D"] * 4},
    "attention_head_dim": {"attention_head_dim": [8, 8]},
    "block_out_channels": {"block_out_channels": "320"},
    "resnet_skip_time_act": {"resnet_skip_time_act": True},
    "cross_attention_dim": {"cross_attention_dim": [768] * 4},
    "only_cross_attention": {"only_cross_attention": True},
    "a_setting_of_the_future": {"a_setting_of_the_future": 3},
}


@pytest.mark.parametrize("setting", REFUSED)
def test_a_setting_that_our_unet_lacks_is_refused_by_name(setting: str) -> None:
    with pytest.raises(ValueError, match=setting):
        PEERS["UNet2DConditionModel"].part(REFUSED[setting])
