"""T5, read from a directory of transformers, equals transformers' own: the encoder alone, and all of it.

v1.1 has a gated MLP with the tanh form of GELU and an output head of its own, the original one a plain MLP with ReLU
and the embedding as its head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minimodels.loader import load
from minimodels.peers.text import PEERS
from minimodels.run import parameters
from minimodels.transformer import Cache
from minimodels.weights import from_pretrained
from tests.parity.peers import assert_close, exact, randomise, reread, without_count

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)

BATCH, LENGTH, TEXT_LEN, VOCAB = 3, 41, 13, 53
V1_1, ORIGINAL = "gated-gelu", "relu"
EVERY_FORM = pytest.mark.parametrize("form", [V1_1, ORIGINAL], ids=["v1.1", "original"])
SIZES: dict[str, dict[str, int]] = {
    "inner width of dim": {
        "d_model": 30, "num_heads": 3, "d_kv": 10, "num_layers": 3, "d_ff": 43,
        "relative_attention_num_buckets": 10, "relative_attention_max_distance": 17,
    },
    "wider than dim": {
        "d_model": 33, "num_heads": 5, "d_kv": 7, "num_layers": 2, "d_ff": 77,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    },
    "all distances far": {
        "d_model": 20, "num_heads": 2, "d_kv": 9, "num_layers": 2, "d_ff": 21,
        "relative_attention_num_buckets": 4, "relative_attention_max_distance": 5,
    },
}  # fmt: skip
EVERY_SIZE = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())


def theirs(kind: str, sizes: dict[str, int], form: str, dtype: torch.dtype, **changes: Any) -> Any:
    config = transformers.T5Config(
        vocab_size=VOCAB, feed_forward_proj=form, tie_word_embeddings=form == ORIGINAL, **sizes | changes
    )
    model = getattr(transformers, kind)(config)
    if form == V1_1 and kind == "T5ForConditionalGeneration":
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    return randomise(model, small=".q.").to(dtype)  # scores are unscaled


def draw_tokens(length: int, seed: int = 19) -> Tensor:
    return torch.randint(VOCAB, (BATCH, length), generator=torch.Generator().manual_seed(seed))


@DTYPES
@EVERY_FORM
@EVERY_SIZE
def test_features_equal_those_of_transformers(
    sizes: dict[str, int], form: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    reference = theirs("T5EncoderModel", sizes, form, dtype)
    encoder = reread(reference, tmp_path)
    exact(reference, "T5LayerNorm")
    tokens, mask = draw_tokens(LENGTH), torch.ones(BATCH, LENGTH, dtype=torch.bool)
    assert_close(encoder(tokens), reference(tokens).last_hidden_state)
    mask[0, 30:], mask[2, 7:] = False, False
    assert_close(encoder(tokens, mask), reference(tokens, attention_mask=mask).last_hidden_state)


@DTYPES
@EVERY_FORM
@EVERY_SIZE
def test_logits_equal_those_of_transformers(
    sizes: dict[str, int], form: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """With a decoder of another depth than the encoder, all at once and token by token from the start token on."""
    reference = theirs("T5ForConditionalGeneration", sizes, form, dtype, num_decoder_layers=sizes["num_layers"] + 1)
    ours = reread(reference, tmp_path)
    assert parameters(ours) == parameters(reference)
    assert (ours.decoder.head is None) == (form == ORIGINAL)
    exact(reference, "T5LayerNorm")
    text, tokens = draw_tokens(TEXT_LEN), draw_tokens(LENGTH, seed=23)
    tokens[:, 0] = ours.decoder.start_token
    expected = reference(input_ids=text, decoder_input_ids=tokens, use_cache=False).logits
    assert_close(ours(text, tokens), expected)
    stack = ours.decoder.stack
    cache = Cache(stack.empty_cache(BATCH, LENGTH), stack.project_context(ours.encoder(text)))
    for pos in range(LENGTH):
        assert_close(ours.decoder(tokens[:, pos : pos + 1], cache, pos), expected[:, pos : pos + 1])


def test_a_head_that_is_the_embedding_and_unscaled_equals_that_of_transformers(tmp_path: Path) -> None:
    """As transformers 5 writes a v1.1 that was never untied."""
    sizes = SIZES["wider than dim"]
    config = transformers.T5Config(vocab_size=VOCAB, feed_forward_proj=V1_1, tie_word_embeddings=False, **sizes)
    reference = randomise(transformers.T5ForConditionalGeneration(config), small=".q.").double()
    assert reference.lm_head.weight is reference.shared.weight
    ours = reread(reference, tmp_path)
    exact(reference, "T5LayerNorm")
    text, tokens = draw_tokens(TEXT_LEN), draw_tokens(LENGTH, seed=23)
    assert_close(ours(text, tokens), reference(input_ids=text, decoder_input_ids=tokens).logits)


def test_a_head_of_its_own_in_a_file_that_says_tied_is_refused(tmp_path: Path) -> None:
    reference = theirs("T5ForConditionalGeneration", SIZES["wider than dim"], ORIGINAL, torch.float32)
    reference.lm_head.weight = nn.Parameter(torch.ones_like(reference.lm_head.weight))
    reference.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        from_pretrained(tmp_path)


def test_the_published_encoder_of_transformers_is_our_config_of_it() -> None:
    """T5 v1.1 XXL, which Imagen reads text with."""
    expected = dict(load("imagen").parts())["text_encoder"]
    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    with torch.device("meta"):
        config = transformers.T5Config(feed_forward_proj=V1_1, tie_word_embeddings=False, **sizes)
        reference = transformers.T5EncoderModel(config)
    peer = PEERS["T5EncoderModel"]
    with torch.device("meta"):
        part = peer.part(config.to_dict())
        assert part.model_copy(update={"text_len": expected.text_len}) == without_count(expected)  # type: ignore[attr-defined]
        assert parameters(peer.build(part)) == parameters(reference)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("feed_forward_proj", "gated-swish"), ("d_model", "512"), ("decoder_start_token_id", 3), ("unheard_of", 1)],
)
def test_a_setting_that_our_t5_lacks_is_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        PEERS["T5ForConditionalGeneration"].part({setting: value})
