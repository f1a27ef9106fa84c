"""Autoencoders of diffusers: AutoencoderKL (Stable Diffusion, SDXL, SD 3, FLUX), and the decoder of AutoencoderKLWan.

Ours counts `scaling_factor` and `shift_factor` in, which diffusers leaves to its pipelines, but not the mean and
deviation of Wan's latents; its pixels have no limits, where those of diffusers' Wan are in [-1, 1].
"""

from __future__ import annotations

import re

from minimodels.autoencoder import KlAutoencoder
from minimodels.autoencoder_config import CausalDecoder as CausalDecoderConfig
from minimodels.autoencoder_config import KlDecoder
from minimodels.causal_decoder import CausalDecoder
from minimodels.peers import Peer, Settings, State, Table
from minimodels.peers.tokens import CONV_NAMES


def kl_decoder(table: Table) -> KlDecoder:
    """The config of our decoder, which the encoder mirrors.

    Raises:
        ValueError: a setting has a value that our autoencoder has no equal of.
    """
    settings = Settings(table)
    channels = settings.integers("block_out_channels", None, [64])
    for name, neutral in (
        ("in_channels", 3), ("out_channels", 3), ("act_fn", "silu"), ("latents_mean", None), ("latents_std", None),
    ):  # fmt: skip
        settings.one_of(name, neutral)
    for name, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if settings.words(name, [block]) != [block] * len(channels):
            raise ValueError(f"{name} {table[name]} is not supported: only {block!r}, one for each level")
    before, after = settings.one_of("use_quant_conv", True, False), settings.one_of("use_post_quant_conv", True, False)
    if before != after:
        raise ValueError(f"use_quant_conv {before} with use_post_quant_conv {after} is not supported: both or none")
    record = {
        "kind": "kl-decoder",
        "latent_channels": settings.integer("latent_channels", 4),
        "channels": channels[::-1],
        "res_blocks": settings.integer("layers_per_block", 1) + 1,
        "middle_attention": settings.one_of("mid_block_add_attention", True, False),
        "norm_groups": settings.integer("norm_num_groups", 32),
        "norm_eps": 1e-6,  # in diffusers' code
        "quant_conv": before,
        "latent_scale": settings.number("scaling_factor", 0.18215),
        "latent_shift": settings.take("shift_factor"),
    }
    settings.close("sample_size", "force_upcast")
    return KlDecoder.model_validate(record)


def causal_decoder(table: Table) -> CausalDecoderConfig:
    """The config of the decoder of an AutoencoderKLWan.

    Raises:
        ValueError: a setting has a value that our decoder has no equal of.
    """
    settings = Settings(table)
    for name, only in (
        ("attn_scales", []), ("is_residual", False), ("in_channels", 3), ("out_channels", 3), ("patch_size", None),
    ):  # fmt: skip
        settings.one_of(name, only)
    width = settings.take("decoder_base_dim") or settings.integer("base_dim", 96)
    multiples = settings.integers("dim_mult", None, [1, 2, 4, 4])
    halves = settings.take("temperal_downsample", [False, True, True])
    record = {
        "kind": "causal-decoder",
        "latent_channels": settings.integer("z_dim", 16),
        "channels": [width * multiple for multiple in reversed(multiples)],
        "res_blocks": settings.integer("num_res_blocks", 2) + 1,
        "doubles_time": list(reversed(halves)),
    }
    settings.close(
        "base_dim", "dropout", "latents_mean", "latents_std", "scale_factor_temporal", "scale_factor_spatial"
    )
    return CausalDecoderConfig.model_validate(record)


def split_wan(state: State, part: CausalDecoderConfig) -> State:
    """Three projections in the place of one, matrices in the place of 1x1 convolutions, blocks counted in a row."""
    split: State = {}
    for name, value in state.items():
        if name.startswith("decoder.mid_block.attentions.0."):
            value = value.flatten(1) if value.dim() == 4 else value
        if name.startswith("decoder.mid_block.attentions.0.to_qkv."):
            split |= {name.replace("to_qkv", f"to_{own}"): v for own, v in zip("qkv", value.chunk(3), strict=True)}
        else:
            split[_in_a_row(name, part)] = value.flatten() if name.endswith(".gamma") else value
    return split


def _in_a_row(name: str, part: CausalDecoderConfig) -> str:
    """Theirs nests blocks in levels, each with an upsampling behind them but for the last."""
    match = re.match(r"^decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.(.*)$", name)
    if match is None:
        return name
    level, block, rest = match.groups()
    return f"decoder.up.{int(level) * (part.res_blocks + 1) + int(block or part.res_blocks)}.{rest}"


WAN_NAMES = (
    (r"^(encoder|quant_conv)\..*", ""),  # of the other half
    (r"^post_quant_conv\.", "from_code."),
    (r"^decoder\.", ""),
    (r"^mid_block\.resnets\.0\.", "before."),
    (r"^mid_block\.resnets\.1\.", "after."),
    (r"^mid_block\.attentions\.0\.norm\.", "attention.norm."),
    (r"^mid_block\.attentions\.0\.proj\.", "attention.attention.to_out."),
    (r"^mid_block\.attentions\.0\.", "attention.attention."),
    (r"\.time_conv\.", ".over_time."),
    (r"\.resample\.1\.", ".over_pixels.conv."),
    (r"(^|\.)norm1\.", r"\1norm_in."),
    (r"(^|\.)norm2\.", r"\1norm_out."),
    (r"^norm_out\.", "norm."),
    (r"\.conv1\.", ".conv_in."),
    (r"\.conv2\.", ".conv_out."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"^conv_in\.", "enter."),
    (r"^conv_out\.", "leave."),
    (r"\.gamma$", ".weight"),
)
PEERS: dict[str, Peer] = {
    "AutoencoderKL": Peer(kl_decoder, KlAutoencoder, CONV_NAMES),
    "AutoencoderKLWan": Peer(causal_decoder, CausalDecoder, WAN_NAMES, split_wan),
}
