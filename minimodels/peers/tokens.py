"""Classes of diffusers that speak in tokens: `VQModel`, a VQGAN, and `UVit2DModel`, aMUSEd's masked transformer."""

from __future__ import annotations

from minimodels.autoencoder import VqAutoencoder
from minimodels.autoencoder_config import VqDecoder
from minimodels.peers import Peer, Settings, State, Table
from minimodels.token_config import UVit as UVitConfig
from minimodels.unet_config import check_divides
from minimodels.uvit import UVit


def vq_decoder(table: Table) -> VqDecoder:
    """The config of a VQModel's decoder, which the encoder mirrors; how it is given its codes is the caller's.

    Raises:
        ValueError: a setting has a value that our autoencoder has no equal of.
    """
    settings = Settings(table)
    channels = settings.integers("block_out_channels", None, [64])
    for name, only in (("in_channels", 3), ("out_channels", 3), ("act_fn", "silu"), ("norm_type", "group")):
        settings.one_of(name, only)
    for name, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if settings.words(name, [block]) != [block] * len(channels):
            raise ValueError(f"{name} {table[name]} is not supported: only {block!r}, one for each level")
    latent_channels = settings.integer("latent_channels", 3)
    record = {
        "kind": "vq-decoder",
        "latent_channels": latent_channels,
        "channels": channels[::-1],
        "res_blocks": settings.integer("layers_per_block", 1) + 1,
        "middle_attention": settings.one_of("mid_block_add_attention", True, False),
        "norm_groups": settings.integer("norm_num_groups", 32),
        "norm_eps": 1e-6,  # in diffusers' code
        "codebook_size": settings.integer("num_vq_embeddings", 256),
        "code_dim": settings.take("vq_embed_dim") or latent_channels,
    }
    settings.close("sample_size", "scaling_factor", "lookup_from_codebook", "force_upcast")
    return VqDecoder.model_validate(record)


CONV_NAMES = (
    # Files of before diffusers 0.15 call the projections of attention by other names
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    (r"\.mid_block\.resnets\.0\.", ".middle.before."),
    (r"\.mid_block\.resnets\.1\.", ".middle.after."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".middle.attention.norm."),
    (r"\.mid_block\.attentions\.0\.", ".middle.attention.attention."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.(down|up)_blocks\.(\d+)\.resnets\.", r".\1.\2.res_blocks."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.resample."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r".down.\1.resample."),
    (r"\.conv_norm_out\.", ".norm."),
    (r"coder\.conv_in\.", "coder.enter."),
    (r"coder\.conv_out\.", "coder.leave."),
    (r"\.norm1\.", ".norm_in."),
    (r"\.conv1\.", ".conv_in."),
    (r"\.norm2\.", ".norm_out."),
    (r"\.conv2\.", ".conv_out."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"^quant_conv\.", "to_code."),
    (r"^post_quant_conv\.", "decoder.from_code."),
)
VQ_NAMES = (*CONV_NAMES, (r"^quantize\.embedding\.", "decoder.codebook."))


def uvit(table: Table) -> UVitConfig:
    """The config of a UVit2DModel; its dropout is of training alone.

    Raises:
        ValueError: a setting has a value that our network has no equal of.
    """
    settings = Settings(table)
    settings.one_of("use_bias", False)
    settings.one_of("ln_elementwise_affine", True)
    resample = settings.one_of("downsample", False, True)
    if settings.one_of("upsample", False, True) != resample:
        raise ValueError(f"downsample {resample} with upsample {not resample} is not supported: both or none")
    number_dim, total = settings.integer("micro_cond_encode_dim", 256), settings.integer("micro_cond_embed_dim", 1280)
    check_divides("micro_cond_embed_dim", total, "micro_cond_encode_dim", number_dim)
    pooled_dim = settings.integer("cond_embed_dim", 768)
    record = {
        "kind": "uvit",
        "vocab": settings.integer("vocab_size", 8256),
        "codebook_size": settings.integer("codebook_size", 8192),
        "embedding_dim": settings.integer("in_channels", 768),
        "text_dim": settings.integer("encoder_hidden_size", 768),
        "vector": {"pooled_dim": pooled_dim, "numbers": total // number_dim, "number_dim": number_dim},
        "channels": settings.integer("block_out_channels", 768),
        "res_blocks": settings.integer("num_res_blocks", 3),
        "stage_heads": settings.integer("block_num_heads", 12),
        "resample": resample,
        "depth": settings.integer("num_hidden_layers", 22),
        "dim": settings.integer("hidden_size", 1024),
        "num_heads": settings.integer("num_attention_heads", 16),
        "ff_dim": settings.integer("intermediate_size", 2816),
        "norm_eps": settings.number("layer_norm_eps", 1e-6),
    }
    settings.close("hidden_dropout", "attention_dropout", "sample_size")
    return UVitConfig.model_validate(record)


def flat_response(state: State, part: UVitConfig) -> State:
    """Weights of the response norms (1, 1, 1, c) as (c,)."""
    return {name: value.flatten() if ".channelwise_norm." in name else value for name, value in state.items()}


UVIT_NAMES = (
    (r"^encoder_proj_layer_norm\.", "text_norm."),
    (r"^encoder_proj\.", "text."),
    (r"^cond_embed\.linear_1\.", "vector.0."),
    (r"^cond_embed\.linear_2\.", "vector.2."),
    (r"^embed\.embeddings\.", "embedding."),
    (r"^embed\.layer_norm\.", "enter_norm."),
    (r"^embed\.conv\.", "enter."),
    (r"^down_block\.downsample\.", "shrink."),
    (r"^up_block\.upsample\.", "grow."),
    (r"^(down|up)_block\.res_blocks\.", r"\1.conv_blocks."),
    (r"^(down|up)_block\.attention_blocks\.", r"\1.text_blocks."),
    (r"\.channelwise_linear_1\.", ".up."),
    (r"\.channelwise_linear_2\.", ".down."),
    (r"\.channelwise_norm\.gamma$", ".response.weight"),
    (r"\.channelwise_norm\.beta$", ".response.bias"),
    (r"\.cond_embeds_mapper\.", ".modulation."),
    (r"\.kv_mapper\.", ".text."),
    (r"(blocks\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"(blocks\.\d+)\.attn1\.", r"\1.attentions.0."),
    (r"(blocks\.\d+)\.attn2\.", r"\1.attentions.1."),
    (r"^project_to_hidden_norm\.", "to_layers_norm."),
    (r"^project_to_hidden\.", "to_layers."),
    (r"^project_from_hidden_norm\.", "from_layers_norm."),
    (r"^project_from_hidden\.", "from_layers."),
    (r"^transformer_layers\.", "layers."),
    (r"\.norm1\.norm\.", ".self_norm."),
    (r"\.norm2\.norm\.", ".cross_norm."),
    (r"\.norm3\.norm\.", ".ff_norm."),
    (r"\.norm1\.linear\.", ".self_modulation."),
    (r"\.norm2\.linear\.", ".cross_modulation."),
    (r"\.norm3\.linear\.", ".ff_modulation."),
    (r"\.attn1\.", ".self_attention."),
    (r"\.attn2\.", ".cross_attention."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.ff\.net\.0\.proj\.", ".feed_forward.up."),
    (r"\.ff\.net\.2\.", ".feed_forward.down."),
    (r"^mlm_layer\.conv1\.", "leave."),
    (r"^mlm_layer\.layer_norm\.", "leave_norm."),
    (r"^mlm_layer\.conv2\.", "head."),
)

PEERS: dict[str, Peer] = {
    "VQModel": Peer(vq_decoder, VqAutoencoder, VQ_NAMES),
    "UVit2DModel": Peer(uvit, UVit, UVIT_NAMES, flat_response),
}
