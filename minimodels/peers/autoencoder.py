"""AutoencoderKL of diffusers as our autoencoder: those of Stable Diffusion, SDXL, SD 3 and FLUX.

Ours counts `scaling_factor` and `shift_factor` in, which diffusers leaves to its pipelines.
"""

from __future__ import annotations

from minimodels.autoencoder import KlAutoencoder
from minimodels.autoencoder_config import KlDecoder
from minimodels.peers import Peer, Settings, Table
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


PEERS: dict[str, Peer] = {"AutoencoderKL": Peer(kl_decoder, KlAutoencoder, CONV_NAMES)}
