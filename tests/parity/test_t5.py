"""T5: the encoder equals transformers' T5EncoderModel with the same weights, in both of its forms.

v1.1 has a gated MLP with the tanh form of GELU, the original one a plain MLP with ReLU. A causal stack with
relative positions and cross-attention equals T5's decoder.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.config import Stack as StackConfig
from minimodels.transformer import Cache, Encoder, Stack
from tests.parity.peers import assert_close, exact, randomise

transformers = pytest.importorskip("transformers")
modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
pytestmark = pytest.mark.parity

BATCH, LENGTH, VOCAB = 3, 41, 53
FORMS = {
    "v1.1": {"gated": True, "activation": "gelu_tanh", "feed_forward_proj": "gated-gelu"},
    "original": {"gated": False, "activation": "relu", "feed_forward_proj": "relu"},
}
SIZES: dict[str, dict[str, int]] = {
    "inner width of dim": {
        "dim": 30,
        "num_heads": 3,
        "head_dim": 10,
        "depth": 3,
        "ff_dim": 43,
        "buckets": 10,
        "max_distance": 17,
    },
    "wider than dim": {
        "dim": 33,
        "num_heads": 5,
        "head_dim": 7,
        "depth": 2,
        "ff_dim": 77,
        "buckets": 32,
        "max_distance": 128,
    },
    "all distances far": {
        "dim": 20,
        "num_heads": 2,
        "head_dim": 9,
        "depth": 2,
        "ff_dim": 21,
        "buckets": 4,
        "max_distance": 5,
    },
}


def stack_config(sizes: dict[str, int], form: dict[str, Any]) -> StackConfig:
    """T5 as a setting of our stack."""
    return StackConfig.model_validate({
        "depth": sizes["depth"], "dim": sizes["dim"], "num_heads": sizes["num_heads"],
        "num_kv_heads": sizes["num_heads"], "head_dim": sizes["head_dim"], "ff_dim": sizes["ff_dim"],
        "gated": form["gated"], "bias": False, "activation": form["activation"], "scaled": False,
        "norm": {"kind": "rms", "eps": 1e-6},
        "position": {"kind": "relative", "buckets": sizes["buckets"], "max_distance": sizes["max_distance"]},
    })  # fmt: skip


def t5_config(sizes: dict[str, int], form: dict[str, Any], **changes: Any) -> Any:
    """The same sizes as transformers' config."""
    return transformers.T5Config(
        vocab_size=VOCAB,
        d_model=sizes["dim"],
        d_kv=sizes["head_dim"],
        d_ff=sizes["ff_dim"],
        num_layers=sizes["depth"],
        num_heads=sizes["num_heads"],
        relative_attention_num_buckets=sizes["buckets"],
        relative_attention_max_distance=sizes["max_distance"],
        layer_norm_epsilon=1e-6,
        feed_forward_proj=form["feed_forward_proj"],
        **changes,
    )


def their_name(name: str, layers: str, feed_forward: int) -> str:
    """transformers' name of one of our parameters; sublayer `feed_forward` of a layer is its MLP."""
    gated = "feed_forward.gate" in name
    for mine, their in (
        ("embedding.weight", "shared.weight"),
        ("relative.shared.weight", "block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("layers.", "block."),
        ("self_norm.", "layer.0.layer_norm."),
        ("self_attention.to_q", "layer.0.SelfAttention.q"),
        ("self_attention.to_k", "layer.0.SelfAttention.k"),
        ("self_attention.to_v", "layer.0.SelfAttention.v"),
        ("self_attention.to_out", "layer.0.SelfAttention.o"),
        ("cross_norm.", "layer.1.layer_norm."),
        ("cross_attention.to_q", "layer.1.EncDecAttention.q"),
        ("cross_attention.to_k", "layer.1.EncDecAttention.k"),
        ("cross_attention.to_v", "layer.1.EncDecAttention.v"),
        ("cross_attention.to_out", "layer.1.EncDecAttention.o"),
        ("ff_norm.", f"layer.{feed_forward}.layer_norm."),
        ("feed_forward.gate", f"layer.{feed_forward}.DenseReluDense.wi_0"),
        ("feed_forward.up", f"layer.{feed_forward}.DenseReluDense.wi_1"),
        ("feed_forward.down", f"layer.{feed_forward}.DenseReluDense.wo"),
    ):
        name = name.replace(mine, their)
    name = "final_layer_norm.weight" if name in ("norm.weight", "stack.norm.weight") else name
    assert not gated or name.endswith("wi_0.weight")
    return name if name == "shared.weight" else layers + name.removeprefix("stack.")


def their_state(state: dict[str, Tensor], gated: bool, layers: str, feed_forward: int) -> dict[str, Tensor]:
    """Our weights under transformers' names; the ungated MLP calls its first matrix wi."""
    named = {their_name(name, layers, feed_forward): value for name, value in state.items()}
    return named if gated else {name.replace(".wi_1.", ".wi."): value for name, value in named.items()}


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_features_equal_those_of_transformers(sizes: dict[str, int], form: dict[str, Any], dtype: torch.dtype) -> None:
    encoder = Encoder(VOCAB, LENGTH, stack_config(sizes, form)).to(dtype).eval().requires_grad_(False)
    randomise(encoder, small="to_q")  # scores are unscaled
    reference = transformers.T5EncoderModel(t5_config(sizes, form)).to(dtype).eval().requires_grad_(False)
    state = their_state(encoder.state_dict(), form["gated"], "encoder.", 1)
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert missing == ["encoder.embed_tokens.weight"] and not unexpected, "tied to shared.weight"
    exact(reference, "T5LayerNorm")
    tokens = torch.randint(VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(19))
    assert_close(encoder(tokens), reference(tokens).last_hidden_state)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_a_causal_stack_equals_the_decoder_of_transformers(
    sizes: dict[str, int], form: dict[str, Any], dtype: torch.dtype
) -> None:
    stack = Stack(stack_config(sizes, form), LENGTH, causal=True, context_dim=sizes["dim"])
    stack = stack.to(dtype).eval().requires_grad_(False)
    randomise(stack, small="to_q")  # scores are unscaled
    reference = modeling.T5Stack(t5_config(sizes, form, is_decoder=True)).to(dtype).eval().requires_grad_(False)
    state = their_state(stack.state_dict(), form["gated"], "", 2)
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert missing == ["embed_tokens.weight"] and not unexpected, "it is given features, not tokens"
    exact(reference, "T5LayerNorm")
    generator = torch.Generator().manual_seed(23)
    x = torch.randn(BATCH, LENGTH, sizes["dim"], generator=generator, dtype=dtype)
    context = torch.randn(BATCH, 7, sizes["dim"], generator=generator, dtype=dtype)
    expected = reference(inputs_embeds=x, encoder_hidden_states=context, use_cache=False).last_hidden_state
    assert_close(stack(x, cache=Cache((), stack.project_context(context))), expected)
