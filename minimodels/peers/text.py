"""Text models of transformers as ours: T5, the text half of CLIP, LLaMA.

The tokens of `T5ForConditionalGeneration` on both sides are text; our record calls those of its decoder image tokens.
"""

from __future__ import annotations

from minimodels.config import DecoderOnly, EncoderDecoder, TextEncoder
from minimodels.peers import Peer, Settings, State, Table
from minimodels.transformer import TextEncoder as TextEncoderModule
from minimodels.transformer import TextToTokens, language_model

T5_LENGTH = 512  # tokens that T5 is trained on; its relative positions have no limit

# Of training, of generation, and what the class itself says: nothing of what a forward pass computes
WITHOUT_EFFECT = (
    "architectures", "attention_dropout", "bos_token_id", "cache_implementation", "chunk_size_feed_forward",
    "classifier_dropout", "decoder_start_token_id", "dense_act_fn", "diversity_penalty", "do_sample", "dropout",
    "dropout_rate", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "gradient_checkpointing", "id2label", "initializer_factor", "initializer_range", "is_encoder_decoder",
    "is_gated_act", "is_llama_config", "label2id", "length_penalty", "max_length", "max_sequence_length",
    "min_length", "model_type", "n_positions", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_past", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
    "remove_invalid_values", "repetition_penalty", "return_dict", "task_specific_params", "temperature",
    "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype", "transformers_version", "typical_p",
    "use_cache",
)  # fmt: skip

T5_NAMES = (
    (r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\..*", ""),  # T5 reads it nowhere
    (r"^shared\..*", ""),  # both embeddings are given it
    (r"^lm_head\.", "decoder.head."),
    (r"^(encoder|decoder)\.embed_tokens\.", r"\1.embedding."),
    (
        r"^(encoder|decoder)\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.",
        r"\1.stack.relative.embedding.",
    ),
    (r"^(encoder|decoder)\.final_layer_norm\.", r"\1.stack.norm."),
    (r"^(encoder|decoder)\.block\.", r"\1.stack.layers."),
    (r"\.layer\.0\.layer_norm\.", ".self_norm."),
    (r"\.layer\.\d\.SelfAttention\.(q|k|v)\.", r".self_attention.to_\1."),
    (r"\.layer\.\d\.SelfAttention\.o\.", ".self_attention.to_out."),
    (r"^(decoder\..*)\.layer\.1\.layer_norm\.", r"\1.cross_norm."),
    (r"\.layer\.\d\.EncDecAttention\.(q|k|v)\.", r".cross_attention.to_\1."),
    (r"\.layer\.\d\.EncDecAttention\.o\.", ".cross_attention.to_out."),
    (r"\.layer\.\d\.layer_norm\.", ".ff_norm."),
    (r"\.layer\.\d\.DenseReluDense\.wi_0\.", ".feed_forward.gate."),
    (r"\.layer\.\d\.DenseReluDense\.wi(_1)?\.", ".feed_forward.up."),
    (r"\.layer\.\d\.DenseReluDense\.wo\.", ".feed_forward.down."),
)
UMT5_NAMES = (
    (
        r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.",
        r"encoder.stack.relatives.\1.embedding.",
    ),
    *T5_NAMES,
    (r"^encoder\.", ""),
)
T5_ENCODER_NAMES = (*T5_NAMES, (r"^encoder\.", ""), (r"^decoder\..*", ""))
CLIP_NAMES = (
    (r"^text_model\.", ""),
    (r"^embeddings\.position_ids$", ""),  # 0, 1, 2, ...
    (r"^embeddings\.token_embedding\.", "embedding."),
    (r"^embeddings\.position_embedding\.", "stack.positions."),
    (r"^final_layer_norm\.", "stack.norm."),
    (r"^text_projection\.", "project."),
    (r"^encoder\.layers\.", "stack.layers."),
    (r"\.layer_norm1\.", ".self_norm."),
    (r"\.layer_norm2\.", ".ff_norm."),
    (r"\.self_attn\.(q|k|v)_proj\.", r".self_attention.to_\1."),
    (r"\.self_attn\.out_proj\.", ".self_attention.to_out."),
    (r"\.mlp\.fc1\.", ".feed_forward.up."),
    (r"\.mlp\.fc2\.", ".feed_forward.down."),
)
LLAMA_NAMES = (
    (r".*\.rotary_emb\.inv_freq$", ""),  # computed
    (r"^lm_head\.", "head."),
    (r"^model\.embed_tokens\.", "embedding."),
    (r"^model\.norm\.", "stack.norm."),
    (r"^model\.layers\.", "stack.layers."),
    (r"\.input_layernorm\.", ".self_norm."),
    (r"\.post_attention_layernorm\.", ".ff_norm."),
    (r"\.self_attn\.(q|k|v)_proj\.", r".self_attention.to_\1."),
    (r"\.self_attn\.o_proj\.", ".self_attention.to_out."),
    (r"\.mlp\.(up|gate|down)_proj\.", r".feed_forward.\1."),
)


def _t5_stack(settings: Settings) -> Table:
    """T5 as a setting of our stack, without its depth."""
    heads = settings.integer("num_heads", 8)
    form = settings.one_of("feed_forward_proj", "relu", "gated-gelu", "gated-silu", "gated-relu", "gelu")
    activation = form.removeprefix("gated-")
    if form == "gated-gelu":  # T5 1.1 means the form with tanh by this name alone
        activation = "gelu_tanh"
    dim, head_dim = settings.integer("d_model", 512), settings.integer("d_kv", 64)
    return {
        "dim": dim, "num_heads": heads, "num_kv_heads": heads,
        "head_dim": None if head_dim * heads == dim else head_dim, "ff_dim": settings.integer("d_ff", 2048),
        "gated": form.startswith("gated-"), "bias": "none", "activation": activation, "scaled": False,
        "norm": {"kind": "rms", "eps": settings.number("layer_norm_epsilon", 1e-6)},
        "position": {
            "kind": "relative", "buckets": settings.integer("relative_attention_num_buckets", 32),
            "max_distance": settings.integer("relative_attention_max_distance", 128),
        },
    }  # fmt: skip


def t5_encoder(table: Table) -> TextEncoder:
    """T5EncoderModel as a text encoder."""
    settings = Settings(table)
    stack = _t5_stack(settings) | {"depth": settings.integer("num_layers", 6)}
    record = {
        "kind": "text-encoder", "vocab": settings.integer("vocab_size", 32128), "causal": False, "features": "last",
        "text_len": table.get("n_positions", T5_LENGTH), "stack": stack,
    }  # fmt: skip
    settings.close(*WITHOUT_EFFECT, "num_decoder_layers", "scale_decoder_outputs", "tie_word_embeddings")
    return TextEncoder.model_validate(record)


def umt5_encoder(table: Table) -> TextEncoder:
    """UMT5EncoderModel as a text encoder, whose layers have relative positions of their own."""
    defaults = {"vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
    part = t5_encoder(defaults | table)
    position = part.stack.position.model_copy(update={"shared": False})
    return part.model_copy(update={"stack": part.stack.model_copy(update={"position": position})})


def t5(table: Table) -> EncoderDecoder:
    """T5ForConditionalGeneration as an encoder and decoder of text."""
    settings = Settings(table)
    stack, depth = _t5_stack(settings), settings.integer("num_layers", 6)
    tied = settings.take("tie_word_embeddings", True) is not False
    tied = bool(settings.take("scale_decoder_outputs", tied))  # newer files say what tied ones also do to features
    vocab, length = settings.integer("vocab_size", 32128), table.get("n_positions", T5_LENGTH)
    if table.get("decoder_start_token_id", 0) != 0:
        raise ValueError(f"decoder_start_token_id {table['decoder_start_token_id']!r} is not supported, only 0")
    decoder_depth = settings.take("num_decoder_layers")
    record = {
        "kind": "encoder-decoder", "text_vocab": vocab, "text_len": length, "image_vocab": vocab,
        "image_tokens": length, "shared": "all" if tied else "embedding", "encoder": stack | {"depth": depth},
        "decoder": stack | {"depth": depth if decoder_depth is None else decoder_depth},
    }  # fmt: skip
    settings.close(*WITHOUT_EFFECT)
    return EncoderDecoder.model_validate(record)


def _share(state: State, source: str, *copies: str) -> State:
    """The names in `copies` stand for the weight `source` where the file leaves them out, or has it once more."""
    given = state.get(source)
    if given is None:
        return state
    same = {name: given for name in copies if name not in state or given.equal(state[name])}
    return state | same


def _share_t5(state: State, part: EncoderDecoder | TextEncoder) -> State:
    embeddings = "shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
    source = next((name for name in embeddings if name in state), embeddings[0])
    return _share(state, source, *embeddings, "lm_head.weight")


def clip_text(table: Table, *, projected: bool = False) -> TextEncoder:
    """The text half of CLIP, with its projection or without.

    A file whose eos_token_id is 2 means the token of the highest number, as all CLIPs of before 2023.
    """
    settings = Settings(table)
    heads, dim = settings.integer("num_attention_heads", 8), settings.integer("hidden_size", 512)
    activation = settings.one_of("hidden_act", "quick_gelu", "gelu")
    end = settings.take("eos_token_id", 49407)
    width = settings.integer("projection_dim", 512) if projected else None
    record = {
        "kind": "text-encoder", "vocab": settings.integer("vocab_size", 49408), "causal": True, "features": "last",
        "text_len": settings.integer("max_position_embeddings", 77), "projection": width,
        "end": end if projected and end != 2 else None,
        "stack": {
            "depth": settings.integer("num_hidden_layers", 12), "dim": dim, "num_heads": heads, "num_kv_heads": heads,
            "ff_dim": settings.integer("intermediate_size", 2048), "gated": False, "bias": "all", "scaled": True,
            "activation": "gelu_quick" if activation == "quick_gelu" else activation,
            "norm": {"kind": "layer", "eps": settings.number("layer_norm_eps", 1e-5)}, "position": {"kind": "learned"},
        },
    }  # fmt: skip
    settings.close(*WITHOUT_EFFECT, "projection_dim")
    return TextEncoder.model_validate(record)


def clip_text_projected(table: Table) -> TextEncoder:
    """CLIPTextModelWithProjection: `pooled` gives the features and the projected vector."""
    return clip_text(table, projected=True)


def llama(table: Table) -> DecoderOnly:
    """LlamaForCausalLM as a language model."""
    settings = Settings(table)
    heads = settings.integer("num_attention_heads", 32)
    kv_heads = settings.take("num_key_value_heads")
    head_dim = None if table.get("head_dim") is None else settings.integer("head_dim")
    dim = settings.integer("hidden_size", 4096)
    for name in ("attention_bias", "mlp_bias"):
        settings.one_of(name, False)
    record = {
        "kind": "decoder-only", "vocab": settings.integer("vocab_size", 32000),
        "context_len": settings.integer("max_position_embeddings", 2048),
        "tied": settings.one_of("tie_word_embeddings", False, True),
        "decoder": {
            "depth": settings.integer("num_hidden_layers", 32), "dim": dim, "num_heads": heads,
            "num_kv_heads": heads if kv_heads is None else kv_heads,
            "head_dim": None if head_dim is None or head_dim * heads == dim else head_dim,
            "ff_dim": settings.integer("intermediate_size", 11008), "gated": True, "bias": "none",
            "activation": settings.one_of("hidden_act", "silu"), "scaled": True,
            "norm": {"kind": "rms", "eps": settings.number("rms_norm_eps", 1e-6)},
            "position": {"kind": "rotary", "theta": _theta(settings)},
        },
    }  # fmt: skip
    settings.close(*WITHOUT_EFFECT)
    return DecoderOnly.model_validate(record)


def _theta(settings: Settings) -> float:
    """The base of rotary positions, unscaled; transformers 5 writes it in a table, 4 beside one of scaling."""
    base = settings.number("rope_theta", 10000.0)
    for name in ("rope_parameters", "rope_scaling"):
        given = settings.take(name)
        if given is None:
            continue
        if not isinstance(given, dict) or given.get("rope_type", given.get("type", "default")) != "default":
            raise ValueError(f"{name} {given!r} is not supported: only plain rotary positions are")
        rope = Settings(given)
        base = rope.number("rope_theta", base)
        rope.close("rope_type", "type")
    return base


def _share_llama(state: State, part: DecoderOnly) -> State:
    return _share(state, "model.embed_tokens.weight", "lm_head.weight")


PEERS: dict[str, Peer] = {
    "T5EncoderModel": Peer(t5_encoder, TextEncoderModule, T5_ENCODER_NAMES, _share_t5),
    "UMT5EncoderModel": Peer(umt5_encoder, TextEncoderModule, UMT5_NAMES, _share_t5),
    "T5ForConditionalGeneration": Peer(t5, TextToTokens, T5_NAMES, _share_t5),
    "CLIPTextModel": Peer(clip_text, TextEncoderModule, CLIP_NAMES),
    "CLIPTextModelWithProjection": Peer(clip_text_projected, TextEncoderModule, CLIP_NAMES),
    "LlamaForCausalLM": Peer(llama, language_model, LLAMA_NAMES, _share_llama),
}
