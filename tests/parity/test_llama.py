"""LLaMA: the decoder equals transformers' LlamaForCausalLM with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.config import DecoderOnly
from minimodels.transformer import Cache, Decoder, language_model
from tests.parity.peers import assert_close, exact, randomise

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES: dict[str, dict[str, int]] = {
    "multi-head": {"dim": 30, "num_heads": 3, "num_kv_heads": 3, "depth": 3, "ff_dim": 43, "vocab": 37},
    "grouped": {"dim": 48, "num_heads": 6, "num_kv_heads": 2, "depth": 2, "ff_dim": 77, "vocab": 29},
    "one key head": {"dim": 70, "num_heads": 5, "num_kv_heads": 1, "depth": 3, "ff_dim": 19, "vocab": 53},
    "one layer, one head": {"dim": 6, "num_heads": 1, "num_kv_heads": 1, "depth": 1, "ff_dim": 5, "vocab": 7},
    "own head_dim": {
        "dim": 36,
        "num_heads": 4,
        "num_kv_heads": 2,
        "depth": 2,
        "ff_dim": 41,
        "vocab": 31,
        "head_dim": 10,
    },
}
BATCH, LENGTH = 3, 13


def ours(sizes: dict[str, int], dtype: torch.dtype, theta: float = 10000.0) -> Decoder:
    """Our decoder with every parameter drawn."""
    stack = {key: sizes.get(key) for key in ("depth", "dim", "num_heads", "num_kv_heads", "head_dim", "ff_dim")}
    config = DecoderOnly.model_validate({
        "kind": "decoder-only", "vocab": sizes["vocab"], "context_len": 29,
        "decoder": stack | {
            "gated": True, "bias": False, "activation": "silu", "scaled": True, "norm": {"kind": "rms", "eps": 1e-5},
            "position": {"kind": "rotary", "theta": theta},
        },
    })  # fmt: skip
    decoder = randomise(language_model(config).to(dtype))
    assert decoder.stack.rotary is not None
    decoder.stack.rotary.fill()
    return decoder


def theirs(sizes: dict[str, int], state: dict[str, Tensor], dtype: torch.dtype, theta: float = 10000.0) -> Any:
    """transformers' model of the same sizes with our weights under its names."""
    config = transformers.LlamaConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["dim"],
        intermediate_size=sizes["ff_dim"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["num_heads"],
        num_key_value_heads=sizes["num_kv_heads"],
        head_dim=sizes.get("head_dim", sizes["dim"] // sizes["num_heads"]),
        max_position_embeddings=29,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=False,
        attn_implementation="sdpa",  # its eager form takes the softmax in float32 whatever the dtype
    )
    model = transformers.LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    model.load_state_dict({their_name(name): value for name, value in state.items()}, strict=True)
    exact(model, "LlamaRMSNorm")
    return model


def their_name(name: str) -> str:
    """transformers' name of one of our parameters."""
    for mine, their in (
        ("embedding.", "model.embed_tokens."),
        ("head.", "lm_head."),
        ("stack.norm.", "model.norm."),
        ("stack.layers.", "model.layers."),
        ("self_attention.to_q.", "self_attn.q_proj."),
        ("self_attention.to_k.", "self_attn.k_proj."),
        ("self_attention.to_v.", "self_attn.v_proj."),
        ("self_attention.to_out.", "self_attn.o_proj."),
        ("feed_forward.", "mlp."),
        ("mlp.up.", "mlp.up_proj."),
        ("mlp.gate.", "mlp.gate_proj."),
        ("mlp.down.", "mlp.down_proj."),
        ("self_norm.", "input_layernorm."),
        ("ff_norm.", "post_attention_layernorm."),
    ):
        name = name.replace(mine, their)
    return name


def draw_tokens(vocab: int) -> Tensor:
    return torch.randint(vocab, (BATCH, LENGTH), generator=torch.Generator().manual_seed(13))


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_logits_equal_those_of_transformers(sizes: dict[str, int], dtype: torch.dtype) -> None:
    decoder = ours(sizes, dtype)
    reference = theirs(sizes, decoder.state_dict(), dtype)
    tokens = draw_tokens(sizes["vocab"])
    assert_close(decoder(tokens), reference(tokens).logits)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
def test_logits_equal_those_of_transformers_with_another_theta(dtype: torch.dtype) -> None:
    sizes = SIZES["grouped"]
    decoder = ours(sizes, dtype, theta=500.0)
    reference = theirs(sizes, decoder.state_dict(), dtype, theta=500.0)
    tokens = draw_tokens(sizes["vocab"])
    assert_close(decoder(tokens), reference(tokens).logits)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_cached_logits_equal_those_of_transformers_with_its_cache(sizes: dict[str, int], dtype: torch.dtype) -> None:
    """Prefill of 5 tokens, then one by one, each side with its own cache."""
    decoder = ours(sizes, dtype)
    reference = theirs(sizes, decoder.state_dict(), dtype)
    tokens = draw_tokens(sizes["vocab"])
    cache, their_cache, pos = Cache(decoder.stack.empty_cache(BATCH, LENGTH), ()), None, 0
    for chunk in (5, *[1] * (LENGTH - 5)):
        part = tokens[:, pos : pos + chunk]
        output = reference(part, past_key_values=their_cache, use_cache=True)
        their_cache = output.past_key_values
        assert_close(decoder(part, cache, pos), output.logits)
        pos += chunk


def test_every_parameter_counts() -> None:
    """A parameter left unmapped or unused would let the comparison pass: changing any one changes the logits."""
    sizes = SIZES["grouped"]
    decoder, tokens = ours(sizes, torch.float64), draw_tokens(sizes["vocab"])
    before = decoder(tokens)
    for name, parameter in decoder.named_parameters():
        parameter += 0.1 * parameter.flip(0)
        assert (decoder(tokens) - before).abs().max() > 1e-4, name
        parameter.copy_(ours(sizes, torch.float64).get_parameter(name))
    assert torch.equal(decoder(tokens), before)
