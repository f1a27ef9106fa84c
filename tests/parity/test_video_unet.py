"""diffusers' UNets for video, written to a directory and read from it, give what they give there.

UNet3DConditionModel is ModelScope's text-to-video network, UNetMotionModel AnimateDiff's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.weights import from_pretrained
from tests.parity.peers import assert_close, randomise

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

BATCH, FRAMES, TEXT_LEN, CONTEXT = 2, 5, 7, 22
SHARED: dict[str, Any] = {
    "block_out_channels": (24, 36, 48), "layers_per_block": 1, "cross_attention_dim": CONTEXT, "norm_num_groups": 4,
}  # fmt: skip


def blocks(suffix: str, attends: str) -> dict[str, Any]:
    """Kinds of block of three levels, "x" where one attends to pixels and text."""
    down = [f"CrossAttnDownBlock{suffix}" if mark == "x" else f"DownBlock{suffix}" for mark in attends]
    return {
        "down_block_types": tuple(down),
        "up_block_types": tuple(kind.replace("Down", "Up") for kind in reversed(down)),
    }


def text_to_video(attends: str, head_dim: int, **changes: Any) -> Any:
    return diffusers.UNet3DConditionModel(**SHARED | blocks("3D", attends) | {"attention_head_dim": head_dim} | changes)


def motion(attends: str, heads: int, **changes: Any) -> Any:
    own = {"num_attention_heads": 3, "motion_num_attention_heads": heads, "motion_max_seq_length": 7}
    return diffusers.UNetMotionModel(**SHARED | blocks("Motion", attends) | own | changes)


CASES = {
    "text-to-video, as published": lambda: text_to_video("xx-", 12, layers_per_block=2),
    "text-to-video, attention at the ends": lambda: text_to_video("x-x", 6, in_channels=5, out_channels=3),
    "text-to-video, other norms": lambda: text_to_video("-x-", 4, norm_eps=1e-3, norm_num_groups=3),
    "text-to-video, no attention but the middle's": lambda: text_to_video("---", 2, layers_per_block=3),
    "motion, as published": lambda: motion("xx-", 2, layers_per_block=2),
    "motion, no module in the middle": lambda: motion("x-x", 4, use_motion_mid_block=False, out_channels=3),
    "motion, deeper modules": lambda: motion(
        "-xx", 3, temporal_transformer_layers_per_block=2, temporal_transformer_layers_per_mid_block=3
    ),
    "motion, levels that differ": lambda: motion(
        "xxx",
        1,
        layers_per_block=(1, 2, 1),
        num_attention_heads=(2, 3, 4),
        transformer_layers_per_block=(1, 2, 3),
        use_linear_projection=True,
        norm_eps=1e-3,
    ),
    "motion, as many frames as there are positions": lambda: motion("-x-", 6, motion_max_seq_length=FRAMES),
}


def inputs(channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(BATCH, channels, FRAMES, 8, 12, generator=generator).to(dtype)
    context = torch.randn(BATCH, TEXT_LEN, CONTEXT, generator=generator).to(dtype)
    return x, torch.tensor([3, 901]), context


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_a_video_unet_read_from_its_directory_equals_that_of_diffusers(
    make: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    theirs = randomise(make()).to(dtype)
    theirs.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    x, timestep, context = inputs(theirs.config.in_channels, dtype)
    per_sample = isinstance(theirs, diffusers.UNet3DConditionModel)  # the other takes the text of every frame
    given = context if per_sample else context.repeat_interleave(FRAMES, dim=0)
    with torch.inference_mode():
        assert_close(ours(x, timestep, context), theirs(x, timestep, given).sample)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("UNet3DConditionModel", "act_fn", "mish"),
        ("UNet3DConditionModel", "attention_head_dim", [8, 16]),
        ("UNet3DConditionModel", "attention_head_dim", 7),
        ("UNet3DConditionModel", "block_out_channels", 320),
        ("UNet3DConditionModel", "cross_attention_dim", None),
        ("UNet3DConditionModel", "down_block_types", ["DownBlockSpatioTemporal"] * 4),
        ("UNet3DConditionModel", "down_block_types", ["DownBlock3D"]),
        ("UNet3DConditionModel", "downsample_padding", 0),
        ("UNet3DConditionModel", "layers_per_block", 0),
        ("UNet3DConditionModel", "mid_block_scale_factor", 2),
        ("UNet3DConditionModel", "norm_num_groups", None),
        ("UNet3DConditionModel", "num_attention_heads", 8),
        ("UNet3DConditionModel", "time_cond_proj_dim", 64),
        ("UNet3DConditionModel", "up_block_types", ["CrossAttnUpBlock3D"] * 4),
        ("UNet3DConditionModel", "a_setting_of_tomorrow", 3),
        ("UNetMotionModel", "addition_embed_type", "text_time"),
        ("UNetMotionModel", "cross_attention_dim", [768, 768, 768, 1280]),
        ("UNetMotionModel", "down_block_types", ["CrossAttnDownBlock2D"] * 4),
        ("UNetMotionModel", "encoder_hid_dim_type", "ip_image_proj"),
        ("UNetMotionModel", "mid_block_layers", 2),
        ("UNetMotionModel", "motion_num_attention_heads", [8, 8, 8, 16]),
        ("UNetMotionModel", "motion_num_attention_heads", 7),
        ("UNetMotionModel", "num_attention_heads", [8, 8, 7, 8]),
        ("UNetMotionModel", "reverse_transformer_layers_per_block", [1, 1, 1, 1]),
        ("UNetMotionModel", "temporal_transformer_layers_per_block", [1, 1, 1, 2]),
        ("UNetMotionModel", "transformer_layers_per_block", [[1, 1], 1, 1, 1]),
        ("UNetMotionModel", "transformer_layers_per_mid_block", [1, 1]),
        ("UNetMotionModel", "use_motion_mid_block", "no"),
    ],
)
def test_a_setting_without_an_equal_is_named(name: str, key: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name, key: value}))
    with pytest.raises(ValueError, match=f"[ :]{key}[ :]"):
        from_pretrained(tmp_path)
