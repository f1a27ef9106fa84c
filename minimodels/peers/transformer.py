"""Diffusion transformers of diffusers as ours: DiT, FLUX and Wan's for text.

Theirs rotates neighbouring features of queries and keys, ours the two halves of them: rows are sorted, even ones first,
which leaves all sums over a head as they are.

diffusers' DiT differs from the official code, by which its weights were trained, in two constants: its frequencies of
the time fall to 1/10000 itself, and the norm of its MLP adds 1e-5. Ours has those of the official code.
"""

from __future__ import annotations

import re

from einops import rearrange
from torch import Tensor

from minimodels.diffusion_transformer import DiffusionTransformer
from minimodels.dit_config import DiffusionTransformer as Config
from minimodels.peers import Peer, Settings, State, Table
from minimodels.unet_config import check_divides

COPIES = re.compile(r"^(transformer_blocks\.)(\d+)(\.norm1\.emb\..*)$")
EMBEDDERS = (
    (r"\.linear_1\.", ".0."),
    (r"\.linear_2\.", ".2."),
)
LAYERS = (
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.norm_(q|k)\.", r".\1_norm."),
    (r"\.net\.0\.proj\.", ".up."),
    (r"\.net\.2\.", ".down."),
    (r"^proj_out\.", "leave."),
)
DIT_NAMES = (
    (r"^pos_embed\.proj\.", "enter."),
    (r"^transformer_blocks\.0\.norm1\.emb\.timestep_embedder\.", "time."),
    (r"^transformer_blocks\.0\.norm1\.emb\.class_embedder\.embedding_table\.", "classes."),
    *EMBEDDERS,
    (r"^proj_out_1\.", "modulation.project."),
    (r"^proj_out_2\.", "leave."),
    (r"^transformer_blocks\.", "layers."),
    (r"\.norm1\.linear\.", ".modulation.project."),
    (r"\.attn1\.", ".self_attention."),
    (r"\.ff\.", ".feed_forward."),
    *LAYERS,
)
FLUX_NAMES = (
    (r"^x_embedder\.", "enter."),
    (r"^context_embedder\.", "text."),
    (r"^time_text_embed\.timestep_embedder\.", "time."),
    (r"^time_text_embed\.guidance_embedder\.", "guidance."),
    (r"^time_text_embed\.text_embedder\.", "pooled."),
    *EMBEDDERS,
    (r"^norm_out\.linear\.", "modulation.project."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.", r"layers.\1.attention."),
    (r"^single_transformer_blocks\.(\d+)\.norm\.linear\.", r"layers.\1.modulation.project."),
    (r"^single_transformer_blocks\.(\d+)\.proj_mlp\.", r"layers.\1.up."),
    (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"layers.\1.to_out."),
    (r"^transformer_blocks\.(\d+)\.norm1\.linear\.", r"joint_layers.\1.image.modulation.project."),
    (r"^transformer_blocks\.(\d+)\.norm1_context\.linear\.", r"joint_layers.\1.text.modulation.project."),
    (r"^transformer_blocks\.(\d+)\.ff\.", r"joint_layers.\1.image.feed_forward."),
    (r"^transformer_blocks\.(\d+)\.ff_context\.", r"joint_layers.\1.text.feed_forward."),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_(q|k)\.", r"joint_layers.\1.text.self_attention.\2_norm."),
    (r"^transformer_blocks\.(\d+)\.attn\.add_(q|k|v)_proj\.", r"joint_layers.\1.text.self_attention.to_\2."),
    (r"^transformer_blocks\.(\d+)\.attn\.to_add_out\.", r"joint_layers.\1.text.self_attention.to_out."),
    (r"^transformer_blocks\.(\d+)\.attn\.", r"joint_layers.\1.image.self_attention."),
    *LAYERS,
)
WAN_NAMES = (
    (r"^patch_embedding\.", "enter."),
    (r"^condition_embedder\.time_embedder\.", "time."),
    (r"^condition_embedder\.time_proj\.", "shared."),
    (r"^condition_embedder\.text_embedder\.", "text."),
    *EMBEDDERS,
    (r"^blocks\.", "layers."),
    (r"(^|\.)scale_shift_table$", r"\1modulation.table"),
    (r"\.attn1\.", ".self_attention."),
    (r"\.attn2\.", ".cross_attention."),
    (r"\.norm2\.", ".cross_norm."),
    (r"\.ffn\.", ".feed_forward."),
    *LAYERS,
)


def _stack(settings: Settings, heads: int, head_dim: int, ff_dim: int, position: Table) -> Table:
    return {
        "dim": heads * head_dim, "num_heads": heads, "num_kv_heads": heads, "ff_dim": ff_dim, "gated": False,
        "bias": "all", "activation": "gelu_tanh", "scaled": True, "norm": {"kind": "layer", "eps": 1e-6},
        "position": position, "depth": settings.integer("num_layers", None),
    }  # fmt: skip


def dit(table: Table) -> Config:
    """The config of a DiTTransformer2DModel.

    Raises:
        ValueError: a setting has a value that our network has no equal of.
    """
    settings = Settings({"num_layers": 28} | table)
    for name, *allowed in (
        ("norm_type", "ada_norm_zero"), ("activation_fn", "gelu-approximate"), ("attention_bias", True),
        ("norm_elementwise_affine", False), ("norm_eps", 1e-5, 1e-6),
    ):  # fmt: skip
        settings.one_of(name, *allowed)
    heads, head_dim = settings.integer("num_attention_heads", 16), settings.integer("attention_head_dim", 72)
    channels, patch, side = (
        settings.integer(name, default)
        for name, default in (("in_channels", 4), ("patch_size", 2), ("sample_size", 32))
    )
    check_divides("sample_size", side, "patch_size", patch)
    position = {"kind": "sinusoidal-grid", "side": side // patch}
    record = {
        "kind": "diffusion-transformer", "in_channels": channels,
        "out_channels": settings.take("out_channels") or channels, "patch": [patch, patch], "time_dim": 256,
        "modulation": "layer", "classes": settings.integer("num_embeds_ada_norm", 1000),
        "stack": _stack(settings, heads, head_dim, 4 * heads * head_dim, position),
    }  # fmt: skip
    settings.close("dropout", "norm_num_groups", "upcast_attention")
    return Config.model_validate(record)


def flux(table: Table) -> Config:
    """The config of a FluxTransformer2DModel, whose pipeline packs 2 x 2 latents into a token.

    Raises:
        ValueError: a setting has a value that our network has no equal of.
    """
    settings = Settings({"num_layers": 19, "num_single_layers": 38} | table)
    settings.one_of("patch_size", 1)
    heads, head_dim = settings.integer("num_attention_heads", 24), settings.integer("attention_head_dim", 128)
    packed = settings.integer("in_channels", 64)
    left = settings.take("out_channels") or packed
    for name, width in (("in_channels", packed), ("out_channels", left)):
        check_divides(name, width, "the 4 latents of a token,", 4)
    depth = settings.integer("num_layers", None)
    settings.unread["num_layers"] = settings.take("num_single_layers")
    position = {
        "kind": "rotary-axes", "theta": 10000.0, "axis_dims": settings.integers("axes_dims_rope", 3, [16, 56, 56]),
    }  # fmt: skip
    record = {
        "kind": "diffusion-transformer", "in_channels": packed // 4, "out_channels": left // 4, "patch": [2, 2],
        "time_dim": 256, "modulation": "layer", "query_norm": "head",
        "pooled_dim": settings.integer("pooled_projection_dim", 768),
        "guidance": settings.one_of("guidance_embeds", False, True),
        "text": {"kind": "joint", "dim": settings.integer("joint_attention_dim", 4096), "depth": depth},
        "stack": _stack(settings, heads, head_dim, 4 * heads * head_dim, position),
    }  # fmt: skip
    settings.close()
    return Config.model_validate(record)


def wan(table: Table) -> Config:
    """The config of a WanTransformer3DModel that takes text alone.

    Raises:
        ValueError: a setting has a value that our network has no equal of.
    """
    settings = Settings({"num_layers": 40} | table)
    for name, only in (
        ("cross_attn_norm", True), ("qk_norm", "rms_norm_across_heads"), ("eps", 1e-6), ("image_dim", None),
        ("added_kv_proj_dim", None), ("pos_embed_seq_len", None),
    ):  # fmt: skip
        settings.one_of(name, only)
    heads, head_dim = settings.integer("num_attention_heads", 40), settings.integer("attention_head_dim", 128)
    side = 2 * (head_dim // 6)
    position = {"kind": "rotary-axes", "theta": 10000.0, "axis_dims": [head_dim - 2 * side, side, side]}
    record = {
        "kind": "diffusion-transformer", "in_channels": settings.integer("in_channels", 16),
        "out_channels": settings.integer("out_channels", 16), "patch": settings.integers("patch_size", 3, [1, 2, 2]),
        "time_dim": settings.integer("freq_dim", 256), "modulation": "shared", "query_norm": "width",
        "text": {"kind": "cross", "dim": settings.integer("text_dim", 4096)},
        "stack": _stack(settings, heads, head_dim, settings.integer("ffn_dim", 13824), position),
    }  # fmt: skip
    settings.close("rope_max_seq_len")
    return Config.model_validate(record)


def _rows(weight: Tensor, part: Config) -> Tensor:
    """Rows of the last layer, or its bias, with channels before the places in a patch instead of behind them."""
    return rearrange(weight, "(patch c) ... -> (c patch) ...", c=part.out_channels)


def _sorted(weight: Tensor, part: Config) -> Tensor:
    """Rows by head with even features before odd ones."""
    half = part.stack.head_width // 2
    return rearrange(weight, "(heads half two) ... -> (heads two half) ...", half=half, two=2)


def share_embedders(state: State, part: Config) -> State:
    """DiT's one embedding of time and class, which every layer of theirs has a copy of.

    Raises:
        ValueError: the copies differ, as those of a network trained by diffusers might.
    """
    kept: State = {}
    for name, value in state.items():
        match = COPIES.match(name)
        first = state.get(f"{match[1]}0{match[3]}") if match else None
        if first is not None and not first.equal(value):
            raise ValueError(f"{name} differs from that of the first layer; ours has one embedding for all layers")
        if first is None or (match and match[2] == "0"):
            kept[name] = value
        if name == "pos_embed.proj.weight":
            kept[name] = value.flatten(1)
        if name.startswith("proj_out_2."):
            kept[name] = _rows(value, part)
    return kept


def turn_flux(state: State, part: Config) -> State:
    """Queries and keys sorted; the last norm's shift before its scale, as in the official code."""
    turned = {}
    for name, value in state.items():
        if re.search(r"\.(to_[qk]|add_[qk]_proj|norm_(added_)?[qk])\.", name):
            value = _sorted(value, part)
        elif name.startswith("norm_out.linear."):
            value = rearrange(value, "(two d) ... -> two d ...", two=2).flip(0).flatten(0, 1)
        turned[name] = value
    return turned


def turn_wan(state: State, part: Config) -> State:
    """Queries and keys of self-attention sorted; patches as rows."""
    turned = {}
    for name, value in state.items():
        if re.search(r"\.attn1\.(to_[qk]|norm_[qk])\.", name):
            value = _sorted(value, part)
        elif name.endswith("scale_shift_table"):
            value = value.squeeze(0)
        elif name == "patch_embedding.weight":
            value = value.flatten(1)
        elif name.startswith("proj_out."):
            value = _rows(value, part)
        turned[name] = value
    return turned


PEERS: dict[str, Peer] = {
    "DiTTransformer2DModel": Peer(dit, DiffusionTransformer, DIT_NAMES, share_embedders),
    "FluxTransformer2DModel": Peer(flux, DiffusionTransformer, FLUX_NAMES, turn_flux),
    "WanTransformer3DModel": Peer(wan, DiffusionTransformer, WAN_NAMES, turn_wan),
}
