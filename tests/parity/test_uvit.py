"""aMUSEd's network equals diffusers' UVit2DModel with the same random weights, which diffusers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from minimodels.token_config import UVit as UVitConfig
from minimodels.weights import from_pretrained
from tests.parity.peers import assert_close, exact, randomise, reread

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

COMMON: dict[str, Any] = {
    "hidden_size": 24, "num_attention_heads": 3, "cond_embed_dim": 14, "micro_cond_encode_dim": 6,
    "micro_cond_embed_dim": 30, "encoder_hidden_size": 22, "vocab_size": 41, "codebook_size": 37, "in_channels": 10,
    "block_out_channels": 20, "num_res_blocks": 3, "block_num_heads": 5, "num_hidden_layers": 2,
    "intermediate_size": 50,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "resampled, as amused-512": COMMON | {"downsample": True, "upsample": True},
    "not resampled, as amused-256": COMMON | {"layer_norm_eps": 1e-3, "hidden_dropout": 0.1, "num_hidden_layers": 3},
    "stages as wide as the transformer": COMMON
    | {"block_out_channels": 24, "block_num_heads": 4, "num_res_blocks": 1, "intermediate_size": 31},
}


def make_theirs(config: dict[str, Any], dtype: torch.dtype) -> Any:
    return randomise(diffusers.UVit2DModel(**config)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_logits_equal_those_of_diffusers(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = make_theirs(CONFIGS[name], dtype)
    ours = reread(theirs, tmp_path)
    if dtype == torch.float64:
        exact(theirs, "RMSNorm")
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(41, (2, 6, 10), generator=generator)
    text, pooled = (torch.randn(2, *shape, generator=generator).to(dtype) for shape in ((7, 22), (14,)))
    numbers = torch.tensor([[512, 384, 0, 0, 6.0], [256, 512, 20, 31, 5.5]])
    with torch.inference_mode():
        found = ours(tokens, ours.context(text, pooled, numbers))
        assert_close(found, theirs(tokens, text, pooled, numbers))


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_input_has_a_say(name: str, tmp_path: Path) -> None:
    ours = reread(make_theirs(CONFIGS[name], torch.float64), tmp_path)
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randint(41, (1, 4, 6), generator=generator)
    told = [torch.randn(1, *shape, generator=generator).double() for shape in ((7, 22), (14,), (5,))]
    with torch.inference_mode():
        before = ours(tokens, ours.context(*told))
        for index in range(3):
            changed = [x.flip(-1) if place == index else x for place, x in enumerate(told)]
            assert (ours(tokens, ours.context(*changed)) - before).abs().max() > 1e-3
        assert (ours(tokens.flip(1), ours.context(*told)) - before.flip(2)).abs().max() > 1e-3, "places differ"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_bias", True),
        ("ln_elementwise_affine", False),
        ("upsample", False),
        ("micro_cond_embed_dim", 32),
        ("num_attention_heads", 5),
        ("codebook_size", 41),
        ("block_num_heads", 0),
        ("rotary", True),
    ],
)
def test_an_unsupported_setting_is_named(setting: str, value: object, tmp_path: Path) -> None:
    make_theirs(CONFIGS["resampled, as amused-512"], torch.float32).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    ours = {"num_attention_heads": "num_heads"}  # what our part calls it, where the part finds the fault
    with pytest.raises(ValueError, match=ours.get(setting, setting)):
        from_pretrained(tmp_path)


def test_an_odd_grid_cannot_be_halved(tmp_path: Path) -> None:
    ours = reread(make_theirs(CONFIGS["resampled, as amused-512"], torch.float32), tmp_path)
    told = ours.context(torch.zeros(1, 7, 22), torch.zeros(1, 14), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="both sides must be even"):
        ours(torch.zeros(1, 5, 6, dtype=torch.long), told)


@pytest.mark.parametrize(("key", "value"), [("dim", 25), ("channels", 22), ("vocab", 37)])
def test_sizes_that_cannot_be_are_refused(key: str, value: int) -> None:
    sizes = {
        "kind": "uvit", "vocab": 38, "codebook_size": 37, "embedding_dim": 10, "text_dim": 22, "channels": 20,
        "vector": {"pooled_dim": 14, "numbers": 5, "number_dim": 6}, "res_blocks": 1, "stage_heads": 5,
        "resample": True, "depth": 2, "dim": 24, "num_heads": 3, "ff_dim": 50, "norm_eps": 1e-6,
    }  # fmt: skip
    UVitConfig.model_validate(sizes)
    with pytest.raises(ValidationError, match=key):
        UVitConfig.model_validate(sizes | {key: value})
