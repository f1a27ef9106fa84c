"""diffusers' UNets for video as our UNet: UNet3DConditionModel (ModelScope) and UNetMotionModel (AnimateDiff)."""

from __future__ import annotations

from typing import Any

from minimodels.peers import Peer, Settings, Table, unet
from minimodels.unet import UNet
from minimodels.unet_config import UNet as UNetConfig

# Not settings of theirs, but in their code
CONVS, KERNEL, STEM_HEADS = 4, 3, 8

NAMES = (
    (r".*\.pos_embed\.pe$", ""),  # computed
    (r"^mid_block\.temp_convs\.0\.", "middle_in.temporal."),
    (r"^mid_block\.temp_convs\.1\.", "middle_out.temporal."),
    (r"\.temp_convs\.(\d+)\.", r".res_blocks.\1.temporal."),
    *((rf"\.temporal\.conv{index + 1}\.0\.", f".temporal.norms.{index}.") for index in range(CONVS)),
    *((rf"\.temporal\.conv{index + 1}\.\d\.", f".temporal.convs.{index}.") for index in range(CONVS)),
    *unet.NAMES,
    (r"^transformer_in\.", "temporal."),
    (r"^mid_block\.(?:temp_attentions|motion_modules)\.0\.", "middle_attention.time."),
    (r"\.(?:temp_attentions|motion_modules)\.(\d+)\.", r".attentions.\1.time."),
    (r"(\.time|^temporal)\.blocks\.(\d+)\.self_", r"\1.blocks.\2.first_"),
    (r"(\.time|^temporal)\.blocks\.(\d+)\.cross_", r"\1.blocks.\2.second_"),
)


def text_to_video(table: Table) -> UNetConfig:
    """The config of our UNet for a UNet3DConditionModel.

    Raises:
        ValueError: a setting has a value that our UNet has no equal of.
    """
    settings = Settings(table)
    settings.one_of("num_attention_heads", None)
    channels, head_dim = _channels(settings), settings.integer("attention_head_dim", 64)
    _check_divides("attention_head_dim", [head_dim] * len(channels), channels)
    attentions = [_attention(1, width // head_dim) for width in [*channels, channels[-1]]]
    temporal = {
        "kind": "text-to-video", "convs": CONVS, "kernel": KERNEL, "depth": 1, "stem_num_heads": STEM_HEADS,
        "stem_head_dim": head_dim,
    }  # fmt: skip
    return _unet(settings, channels, "3D", attentions, context_dim=1024, projection="linear", temporal=temporal)


def motion(table: Table) -> UNetConfig:
    """The config of our UNet for a UNetMotionModel.

    Raises:
        ValueError: a setting has a value that our UNet has no equal of.
    """
    settings = Settings(table)
    for name in (
        "reverse_transformer_layers_per_block", "reverse_temporal_transformer_layers_per_block",
        "reverse_motion_num_attention_heads", "encoder_hid_dim", "encoder_hid_dim_type", "addition_embed_type",
    ):  # fmt: skip
        settings.one_of(name, None)
    settings.one_of("mid_block_layers", 1)
    channels = _channels(settings)
    heads = settings.integers("num_attention_heads", len(channels), 8)
    _check_divides("num_attention_heads", heads, channels)
    depths = settings.integers("transformer_layers_per_block", len(channels), 1)
    middle = settings.take("transformer_layers_per_mid_block")
    depths.append(depths[-1] if middle is None else Settings(table).integer("transformer_layers_per_mid_block"))
    attentions = [_attention(depth, number) for depth, number in zip(depths, [*heads, heads[-1]], strict=True)]
    motion_heads = _same(settings, "motion_num_attention_heads", len(channels), 8)
    _check_divides("motion_num_attention_heads", [motion_heads] * len(channels), channels)
    temporal = {
        "kind": "motion",
        "num_heads": motion_heads,
        "depth": _same(settings, "temporal_transformer_layers_per_block", len(channels), 1),
        "max_frames": settings.integer("motion_max_seq_length", 32),
    }
    middle_depth = settings.integer("temporal_transformer_layers_per_mid_block", 1)
    if settings.one_of("use_motion_mid_block", True, False):
        temporal["middle_depth"] = middle_depth
    projection = "linear" if settings.take("use_linear_projection", False) else "conv"
    return _unet(settings, channels, "Motion", attentions, context_dim=1280, projection=projection, temporal=temporal)


def _unet(
    settings: Settings, channels: list[int], suffix: str, attentions: list[Table], *, context_dim: int, **more: Any
) -> UNetConfig:
    """What both classes share; attentions: of the levels where they attend, then of the middle."""
    for name, neutral in (("downsample_padding", 1), ("mid_block_scale_factor", 1), ("time_cond_proj_dim", None)):
        settings.one_of(name, neutral)
    settings.one_of("act_fn", "silu", "swish")
    blocks, attends = settings.integers("layers_per_block", len(channels), 2), _attends(settings, suffix, len(channels))
    levels = [
        {"channels": width, "res_blocks": count, "attention": attention if attending else None}
        for width, count, attending, attention in zip(channels, blocks, attends, attentions[:-1], strict=True)
    ]
    record = {
        "kind": "unet",
        "in_channels": settings.integer("in_channels", 4),
        "out_channels": settings.integer("out_channels", 4),
        "time_dim": 4 * channels[0],
        "context_dim": _same(settings, "cross_attention_dim", len(channels), context_dim),
        "activation": "silu",
        "scale_shift": False,
        "resample": "conv",
        "norm_groups": settings.integer("norm_num_groups", 32),
        "norm_eps": settings.number("norm_eps", 1e-5),
        "levels": levels,
        "middle": attentions[-1],
        **more,
    }
    settings.close("sample_size")
    return UNetConfig.model_validate(record)


def _channels(settings: Settings) -> list[int]:
    return settings.integers("block_out_channels", None, [320, 640, 1280, 1280])


def _attention(depth: int, num_heads: int) -> Table:
    return {"kind": "transformer", "depth": depth, "num_heads": num_heads}


def _check_divides(name: str, numbers: list[int], channels: list[int]) -> None:
    for number, width in zip(numbers, channels, strict=True):
        if width % number:
            raise ValueError(f"{name} {number} does not divide the {width} channels of its level")


def _same(settings: Settings, name: str, length: int, default: int) -> int:
    """A setting that may differ between levels there, but not here."""
    values = settings.integers(name, length, default)
    if len(set(values)) > 1:
        raise ValueError(f"{name} {values} is not supported: it differs between levels")
    return values[0]


def _attends(settings: Settings, suffix: str, count: int) -> list[bool]:
    """Which levels attend to pixels and text; the way up does so where the way down does."""
    kinds = {f"CrossAttnDownBlock{suffix}": True, f"DownBlock{suffix}": False}
    attending, plain = kinds
    down = settings.words("down_block_types", [attending] * (count - 1) + [plain])
    if len(down) != count:
        raise ValueError(f"down_block_types {down} and block_out_channels differ in length")
    for block in down:
        if block not in kinds:
            raise ValueError(f"down_block_types: {block!r} is not supported; allowed: {', '.join(kinds)}")
    mirrored = [block.replace("Down", "Up") for block in reversed(down)]
    up = settings.words("up_block_types", mirrored)
    if up != mirrored:
        raise ValueError(f"up_block_types {up} are not supported: they do not mirror down_block_types {down}")
    return [kinds[block] for block in down]


PEERS: dict[str, Peer] = {
    "UNet3DConditionModel": Peer(text_to_video, UNet, NAMES),
    "UNetMotionModel": Peer(motion, UNet, NAMES),
}
