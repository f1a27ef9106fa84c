"""CLIP's text encoder, read from a directory of transformers, equals transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.diffusion_config import LatentDiffusion
from minimodels.loader import load
from minimodels.parts import make
from minimodels.peers.text import PEERS
from minimodels.run import parameters
from minimodels.weights import load as load_weights
from minimodels.weights import read
from tests.parity.peers import assert_close, randomise, reread, without_count

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)

BATCH, LENGTH, VOCAB, END = 3, 11, 53, 41
SIZES: dict[str, dict[str, Any]] = {
    "quick GELU": {"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 43},
    "GELU": {
        "hidden_size": 28, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 77,
        "hidden_act": "gelu", "layer_norm_eps": 1e-3,
    },
    "one head": {"hidden_size": 9, "num_attention_heads": 1, "num_hidden_layers": 5, "intermediate_size": 7},
}  # fmt: skip
EVERY_SIZE = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())


def theirs(kind: str, sizes: dict[str, Any], dtype: torch.dtype, **changes: Any) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCAB, max_position_embeddings=LENGTH + 2, projection_dim=17, bos_token_id=1,
        attn_implementation="sdpa",
        **{"eos_token_id": END} | sizes | changes,
    )  # fmt: skip
    return randomise(getattr(transformers, kind)(config)).to(dtype)


def draw_tokens() -> Tensor:
    """Texts whose end stands before their highest token, at a place of its own in each, and once more after it."""
    tokens = torch.randint(END, (BATCH, LENGTH), generator=torch.Generator().manual_seed(13))
    for row, place in enumerate((2, 5, 8)):
        tokens[row, place], tokens[row, place + 1], tokens[row, -1] = END, VOCAB - 1, END
    return tokens


@DTYPES
@EVERY_SIZE
def test_features_equal_those_of_transformers(sizes: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    reference, tokens = theirs("CLIPTextModel", sizes, dtype), draw_tokens()
    assert_close(reread(reference, tmp_path)(tokens), reference(tokens).last_hidden_state)


@EVERY_SIZE
def test_features_under_a_mask_equal_those_of_transformers(sizes: dict[str, Any], tmp_path: Path) -> None:
    reference, tokens = theirs("CLIPTextModel", sizes, torch.float64), draw_tokens()
    mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    mask[0, 4:], mask[2, 9:] = False, False
    expected = reference(tokens, attention_mask=mask.long()).last_hidden_state
    assert_close(reread(reference, tmp_path)(tokens, mask), expected)
    assert not torch.allclose(expected, reference(tokens).last_hidden_state)


@DTYPES
@EVERY_SIZE
@pytest.mark.parametrize("eos", [END, 2], ids=["first of its kind", "highest"])
def test_the_projected_token_equals_that_of_transformers(
    eos: int, sizes: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    """Which token stands for the text: the first that ends one, or by an old convention the highest."""
    reference, tokens = theirs("CLIPTextModelWithProjection", sizes, dtype, eos_token_id=eos), draw_tokens()
    features, pooled = reread(reference, tmp_path).pooled(tokens)
    expected = reference(tokens)
    assert_close(features, expected.last_hidden_state)
    assert_close(pooled, expected.text_embeds)


@DTYPES
@EVERY_SIZE
def test_penultimate_features_equal_those_of_transformers(
    sizes: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    """SDXL: features of the layer before the last, without a norm, and the projected token of the last."""
    reference, tokens = theirs("CLIPTextModelWithProjection", sizes, dtype), draw_tokens()
    reference.save_pretrained(tmp_path)
    peer, part = read(tmp_path)
    encoder: Any = load_weights(peer, part.model_copy(update={"features": "penultimate"}), tmp_path)
    expected = reference(tokens, output_hidden_states=True)
    features, pooled = encoder.pooled(tokens)
    assert_close(features, expected.hidden_states[-2])
    assert_close(encoder(tokens), expected.hidden_states[-2])
    assert_close(pooled, expected.text_embeds)


VIT_L = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072}
VIT_H = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 23, "intermediate_size": 4096}
BIG_G = {"hidden_size": 1280, "num_attention_heads": 20, "num_hidden_layers": 32, "intermediate_size": 5120}
PUBLISHED = {
    "stable-diffusion-1.5": ("text_encoder", "CLIPTextModel", VIT_L),
    "stable-diffusion-2.1": ("text_encoder", "CLIPTextModel", VIT_H | {"hidden_act": "gelu"}),
    "sdxl": ("second_text_encoder", "CLIPTextModelWithProjection", BIG_G | {"hidden_act": "gelu"}),
    "sdxl-refiner": ("text_encoder", "CLIPTextModelWithProjection", BIG_G | {"hidden_act": "gelu"}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_encoder_of_transformers_is_our_config_of_it(name: str) -> None:
    section, kind, sizes = PUBLISHED[name]
    config = load(name)
    assert isinstance(config, LatentDiffusion)
    expected = getattr(config, section)
    with torch.device("meta"):
        reference = getattr(transformers, kind)(
            transformers.CLIPTextConfig(**sizes, eos_token_id=2, projection_dim=sizes["hidden_size"])
        )
        part = PEERS[kind].part(reference.config.to_dict())
        assert part.model_copy(update={"features": expected.features}) == without_count(expected)
        assert parameters(make(part)) == parameters(reference) == expected.published.params


@pytest.mark.parametrize(
    ("setting", "value"), [("hidden_act", "relu"), ("hidden_size", 0), ("layer_norm_eps", "1e-5"), ("use_rope", True)]
)
def test_a_setting_that_our_encoder_lacks_is_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        PEERS["CLIPTextModel"].part({setting: value})
