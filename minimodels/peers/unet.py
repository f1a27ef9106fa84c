"""UNet2DConditionModel of diffusers as our UNet: Stable Diffusion 1.x, 2.x, SDXL and its refiner, DeepFloyd IF.

`class_labels` are our `noise_level` (class_embed_type "timestep"); pooled text and the sinusoids of `time_ids`, side
by side, are our `vector`.
"""

from __future__ import annotations

from typing import Any

from minimodels.peers import Peer, Settings, State, Table
from minimodels.unet import UNet
from minimodels.unet_config import UNet as UNetConfig

# Per kind of block on the way down: its partner on the way up, how it resamples, its attention
BLOCKS = {
    "DownBlock2D": ("UpBlock2D", "conv", None),
    "CrossAttnDownBlock2D": ("CrossAttnUpBlock2D", "conv", "transformer"),
    "ResnetDownsampleBlock2D": ("ResnetUpsampleBlock2D", "res_block", None),
    "SimpleCrossAttnDownBlock2D": ("SimpleCrossAttnUpBlock2D", "res_block", "appended"),
}
MIDDLES = {"UNetMidBlock2DCrossAttn": "transformer", "UNetMidBlock2DSimpleCrossAttn": "appended"}
TEXT_GROUPS = 32  # of the norm that `cross_attention_norm` asks for

# Sizes of samples and dropout; `upcast_attention` is the precision of scores in half precision, ours is the backend's
WITHOUT_EFFECT = ("sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads")

NAMES = (
    (r"^time_embedding\.linear_1", "conditions.time.0"),
    (r"^time_embedding\.linear_2", "conditions.time.2"),
    (r"^class_embedding\.linear_1", "conditions.noise_level.0"),
    (r"^class_embedding\.linear_2", "conditions.noise_level.2"),
    (r"^add_embedding\.linear_1", "conditions.vector.0"),
    (r"^add_embedding\.linear_2", "conditions.vector.2"),
    (r"^add_embedding\.norm1", "conditions.pooling.norm_in"),
    (r"^add_embedding\.norm2", "conditions.pooling.norm_out"),
    (r"^add_embedding\.pool\.positional_embedding", "conditions.pooling.position"),
    (r"^add_embedding\.pool\.(q|k|v)_proj", r"conditions.pooling.to_\1"),
    (r"^add_embedding\.proj", "conditions.pooling.project"),
    (r"^encoder_hid_proj", "conditions.text"),
    (r"^conv_norm_out", "norm"),
    (r"^conv_in", "enter"),
    (r"^conv_out", "leave"),
    (r"^mid_block\.resnets\.0", "middle_in"),
    (r"^mid_block\.resnets\.1", "middle_out"),
    (r"^mid_block\.attentions\.0", "middle_attention.space"),
    (r"^(down|up)_blocks", r"\1"),
    (r"\.(down|up)samplers\.0\.", ".resample."),
    (r"\.resnets\.", ".res_blocks."),
    (r"\.attentions\.(\d+)", r".attentions.\1.space"),
    (r"\.transformer_blocks\.(\d+)\.norm1\.", r".blocks.\1.self_norm."),
    (r"\.transformer_blocks\.(\d+)\.norm2\.", r".blocks.\1.cross_norm."),
    (r"\.transformer_blocks\.(\d+)\.norm3\.", r".blocks.\1.ff_norm."),
    (r"\.transformer_blocks\.", ".blocks."),
    (r"\.attn1\.", ".self_attention."),
    (r"\.attn2\.", ".cross_attention."),
    (r"\.ff\.net\.0\.proj\.", ".feed_forward.up."),
    (r"\.ff\.net\.2\.", ".feed_forward.down."),
    (r"\.space\.to_", ".space.attention.to_"),
    (r"\.space\.group_norm\.", ".space.norm."),
    (r"\.space\.norm_cross\.", ".space.text_norm."),
    (r"\.add_(k|v)_proj\.", r".text_\1."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.proj_in\.", ".enter."),
    (r"\.proj_out\.", ".leave."),
    (r"\.norm1\.", ".norm_in."),
    (r"\.norm2\.", ".norm_out."),
    (r"\.conv1\.", ".conv_in."),
    (r"\.conv2\.", ".conv_out."),
    (r"\.time_emb_proj\.", ".from_time."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def unet(table: Table) -> UNetConfig:
    """The config of our UNet.

    Raises:
        ValueError: a setting has a value that our UNet has no equal of.
    """
    settings = Settings(table)
    for name, neutral in (
        ("center_input_sample", False), ("flip_sin_to_cos", True), ("freq_shift", 0), ("downsample_padding", 1),
        ("dual_cross_attention", False), ("num_class_embeds", None), ("time_embedding_type", "positional"),
        ("timestep_post_act", None), ("time_cond_proj_dim", None), ("conv_in_kernel", 3), ("conv_out_kernel", 3),
        ("attention_type", "default"), ("class_embeddings_concat", False), ("num_attention_heads", None),
        ("reverse_transformer_layers_per_block", None),
    ):  # fmt: skip
        settings.one_of(name, neutral)
    channels = settings.integers("block_out_channels", None, [320, 640, 1280, 1280])
    resample, kinds, middle = _blocks(settings, len(channels))
    attentions = _attentions(settings, channels, kinds, middle)
    blocks = settings.integers("layers_per_block", len(channels), 2)
    levels: list[Table] = []
    for width, count, attention in zip(channels, blocks, attentions, strict=False):
        levels.append(
            {"channels": width, "res_blocks": count} | ({} if attention is None else {"attention": attention})
        )
    activation = _activation(settings, resample)
    record: Table = {
        "kind": "unet",
        "in_channels": settings.integer("in_channels", 4),
        "out_channels": settings.integer("out_channels", 4),
        "time_dim": settings.integer("time_embedding_dim", None)
        if table.get("time_embedding_dim")
        else 4 * channels[0],
        "activation": activation,
        "scale_shift": settings.one_of("resnet_time_scale_shift", "default", "scale_shift") == "scale_shift",
        "resample": resample,
        "projection": "linear" if settings.take("use_linear_projection", False) else "conv",
        "norm_groups": settings.integer("norm_num_groups", 32),
        "norm_eps": settings.number("norm_eps", 1e-5),
        "noise_level": settings.one_of("class_embed_type", None, "timestep") == "timestep",
        "levels": levels,
        "middle": attentions[-1],
        **_residual_scale(settings, resample),
        **_text(settings, table, activation),
    }
    settings.close(*WITHOUT_EFFECT)
    if "appended" in (*kinds, middle) and record["norm_eps"] != 1e-5:
        raise ValueError(f"norm_eps {record['norm_eps']} is not supported beside {middle}: attention has 1e-5")
    return UNetConfig.model_validate(record)


def _blocks(settings: Settings, count: int) -> tuple[str, list[str | None], str]:
    """How resolution changes, the kind of attention of each level, and that of the middle."""
    default = ["CrossAttnDownBlock2D"] * (count - 1) + ["DownBlock2D"]
    down = settings.words("down_block_types", default)
    if len(down) != count:
        raise ValueError(f"down_block_types {down} and block_out_channels differ in length")
    for block in down:
        if block not in BLOCKS:
            raise ValueError(f"down_block_types: {block!r} is not supported; allowed: {', '.join(BLOCKS)}")
    mirrored = [BLOCKS[block][0] for block in reversed(down)]
    up = settings.words("up_block_types", mirrored)
    if up != mirrored:
        raise ValueError(f"up_block_types {up} are not supported: they do not mirror down_block_types {down}")
    ways = {BLOCKS[block][1] for block in down}
    if len(ways) > 1:
        raise ValueError(f"down_block_types {down} are not supported: they change resolution in two ways")
    middle = MIDDLES[settings.one_of("mid_block_type", *MIDDLES)]
    kinds = [BLOCKS[block][2] for block in down]
    if any(kind not in (None, middle) for kind in kinds):
        raise ValueError(f"mid_block_type is not supported beside down_block_types {down}: text enters in two ways")
    return ways.pop(), kinds, middle


def _attentions(settings: Settings, channels: list[int], kinds: list[str | None], middle: str) -> list[Table | None]:
    """Attention of each level, and of the middle."""
    heads = settings.integers("attention_head_dim", len(channels), 8)
    depths = settings.integers("transformer_layers_per_block", len(channels), 1)
    only_text = settings.one_of("only_cross_attention", False, True)
    middle_only = settings.take("mid_block_only_cross_attention")
    if middle_only not in (None, only_text):
        raise ValueError(f"mid_block_only_cross_attention {middle_only!r} is not supported: the levels differ from it")
    norm = settings.one_of("cross_attention_norm", None, "group_norm")
    if middle == "transformer" and (only_text or norm):
        raise ValueError("only_cross_attention and cross_attention_norm are not supported beside transformer blocks")
    if middle == "appended" and len(set(heads)) > 1:
        raise ValueError(f"attention_head_dim {heads} is not supported: features per head differ between levels")
    attentions: list[Table | None] = []
    for kind, width, number, depth in zip(
        [*kinds, middle], [*channels, channels[-1]], [*heads, heads[-1]], [*depths, depths[-1]], strict=True
    ):
        if kind == "transformer":  # diffusers calls the number of heads attention_head_dim here
            attentions.append({"kind": kind, "depth": depth, "num_heads": number})
        elif kind == "appended":
            if width % number:
                raise ValueError(f"attention_head_dim {number} does not divide the {width} channels of its level")
            text = {"text_norm": {"kind": "group", "groups": TEXT_GROUPS}} if norm else {}
            attentions.append({"kind": kind, "num_heads": width // number, "only_text": only_text, **text})
        else:
            attentions.append(None)
    return attentions


def _activation(settings: Settings, resample: str) -> str:
    """The activation; the embedded time goes through it once, either for all blocks or in each."""
    name = settings.one_of("act_fn", "silu", "swish", "gelu")
    skipped, once = settings.take("resnet_skip_time_act", False), settings.take("time_embedding_act_fn")
    if bool(skipped) != (once is not None) or once not in (None, name) or (skipped and resample == "conv"):
        raise ValueError(f"resnet_skip_time_act {skipped!r} with time_embedding_act_fn {once!r} is not supported")
    return "silu" if name == "swish" else name


def _residual_scale(settings: Settings, resample: str) -> Table:
    scale, middle = settings.number("resnet_out_scale_factor", 1), settings.number("mid_block_scale_factor", 1)
    if middle != scale or (scale != 1 and resample == "conv"):
        raise ValueError(f"resnet_out_scale_factor {scale} with mid_block_scale_factor {middle} is not supported")
    return {} if scale == 1 else {"residual_scale": scale}


def _text(settings: Settings, table: Table, activation: str) -> Table:
    """How text and what is told beside it enter."""
    context = settings.integer("cross_attention_dim", 1280)
    text: Table = {"context_dim": context}
    width = settings.take("encoder_hid_dim")
    if width is not None:
        settings.one_of("encoder_hid_dim_type", "text_proj", None)
        text["text_dim"] = width
    kind = settings.one_of("addition_embed_type", None, "text", "text_time")
    if kind == "text":
        text["pooling"] = {"num_heads": table.get("addition_embed_type_num_heads", 64), "projected": False}
    elif kind == "text_time":
        if activation != "silu":
            raise ValueError(f"addition_embed_type 'text_time' with act_fn {activation!r} is not supported")
        whole = settings.integer("projection_class_embeddings_input_dim")
        text["vector"] = _vector(whole, settings.integer("addition_time_embed_dim"), context)
    return text


def _vector(whole: int, number_dim: int, context: int) -> dict[str, Any]:
    """Split a told vector: SDXL has six numbers; its refiner five, beside a pooled text as wide as its text."""
    numbers = 5 if whole - 5 * number_dim == context else 6
    if whole <= numbers * number_dim:
        raise ValueError(
            f"projection_class_embeddings_input_dim {whole} is not supported: it must exceed {numbers} times "
            f"addition_time_embed_dim {number_dim}, sizes and crops, by the width of the pooled text"
        )
    return {"pooled_dim": whole - numbers * number_dim, "numbers": numbers, "number_dim": number_dim}


def _only_text(state: State, part: UNetConfig) -> State:
    """Attention to the text alone has keys and values of the text where others have those of pixels."""
    own = {name.rpartition(".to_k.")[0] for name in state if ".to_k." in name}

    def rename(name: str) -> str:
        where, added, which = name.partition(".add_")
        return f"{where}.to_{which.replace('_proj', '')}" if added and where not in own else name

    return {rename(name): value for name, value in state.items()}


PEERS: dict[str, Peer] = {"UNet2DConditionModel": Peer(unet, UNet, NAMES, _only_text)}
