"""LLaMA, read from a directory of transformers, equals transformers' LlamaForCausalLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.config import LanguageModel
from minimodels.loader import load
from minimodels.parts import make
from minimodels.peers.text import PEERS
from minimodels.run import parameters
from minimodels.transformer import Cache
from tests.parity.peers import assert_close, exact, randomise, reread, without_count

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)

SIZES: dict[str, dict[str, Any]] = {
    "multi-head": {"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 43},
    "grouped": {
        "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 77,
    },
    "one key head": {
        "hidden_size": 70, "num_attention_heads": 5, "num_key_value_heads": 1, "num_hidden_layers": 3,
        "intermediate_size": 19, "rms_norm_eps": 1e-3,
    },
    "one layer, one head": {
        "hidden_size": 6, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 5,
    },
    "own head_dim": {
        "hidden_size": 36, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 41, "head_dim": 10,
    },
    "head tied to the embedding": {
        "hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 43,
        "tie_word_embeddings": True,
    },
    "another theta": {
        "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 77, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
}  # fmt: skip
EVERY_SIZE = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
BATCH, LENGTH, VOCAB = 3, 13, 37


def theirs(sizes: dict[str, Any], dtype: torch.dtype) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, max_position_embeddings=29,
        attn_implementation="sdpa",  # its eager form takes the softmax in float32 whatever the dtype
        **sizes,
    )  # fmt: skip
    return randomise(transformers.LlamaForCausalLM(config)).to(dtype)


def draw_tokens() -> Tensor:
    return torch.randint(VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(13))


@DTYPES
@EVERY_SIZE
def test_logits_equal_those_of_transformers(sizes: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    reference, tokens = theirs(sizes, dtype), draw_tokens()
    decoder = reread(reference, tmp_path)
    assert parameters(decoder) == parameters(reference)
    exact(reference, "LlamaRMSNorm")
    assert_close(decoder(tokens), reference(tokens).logits)


@DTYPES
@EVERY_SIZE
def test_cached_logits_equal_those_of_transformers_with_its_cache(
    sizes: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    """Prefill of 5 tokens, then one by one, each side with its own cache."""
    reference, tokens = theirs(sizes, dtype), draw_tokens()
    decoder = reread(reference, tmp_path)
    exact(reference, "LlamaRMSNorm")
    cache, their_cache, pos = Cache(decoder.stack.empty_cache(BATCH, LENGTH), ()), None, 0
    for chunk in (5, *[1] * (LENGTH - 5)):
        part = tokens[:, pos : pos + chunk]
        output = reference(part, past_key_values=their_cache, use_cache=True)
        their_cache = output.past_key_values
        assert_close(decoder(part, cache, pos), output.logits)
        pos += chunk


def test_every_weight_read_counts(tmp_path: Path) -> None:
    """A weight that is read but unused would let the comparison pass: changing any one changes the logits."""
    decoder, tokens = reread(theirs(SIZES["grouped"], torch.float64), tmp_path), draw_tokens()
    before = decoder(tokens)
    for name, parameter in decoder.named_parameters():
        kept = parameter.clone()
        parameter += 0.1 * parameter.flip(0)
        assert (decoder(tokens) - before).abs().max() > 1e-4, name
        parameter.copy_(kept)
    assert torch.equal(decoder(tokens), before)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("llama2-7b", {}),
        ("llama2-13b", {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
                        "num_attention_heads": 40}),
        ("llama2-70b", {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                        "num_attention_heads": 64, "num_key_value_heads": 8}),
    ],
)  # fmt: skip
def test_a_published_llama_of_transformers_is_our_config_of_it(name: str, sizes: dict[str, int]) -> None:
    config = load(name)
    assert isinstance(config, LanguageModel) and config.language_model.published is not None
    with torch.device("meta"):
        theirs_config = transformers.LlamaConfig(max_position_embeddings=4096, rms_norm_eps=1e-5, **sizes)
        reference = transformers.LlamaForCausalLM(theirs_config)
        part = PEERS["LlamaForCausalLM"].part(theirs_config.to_dict())
        assert part == without_count(config.language_model)
        assert parameters(make(part)) == parameters(reference) == config.language_model.published.params


SCALED = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("attention_bias", True), ("mlp_bias", True), ("hidden_act", "gelu"), ("rope_parameters", SCALED),
     ("rope_scaling", {"type": "linear", "factor": 2.0}), ("quantization_config", {"bits": 4}), ("hidden_size", None)],
)  # fmt: skip
def test_a_setting_that_our_llama_lacks_is_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        PEERS["LlamaForCausalLM"].part({setting: value})


@pytest.mark.parametrize(
    "table", [{"rope_theta": 500.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}]
)
def test_both_ways_to_write_the_base_of_rotary_positions_are_read(table: dict[str, Any]) -> None:
    assert PEERS["LlamaForCausalLM"].part(table).decoder.position.theta == 500.0  # type: ignore[attr-defined]
