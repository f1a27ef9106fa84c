"""Which tokens of a text are attended to: what a mask may be, and what of a text it leaves nothing of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minimodels.kernels.backend import attention_backend
from minimodels.loader import load
from minimodels.run import build
from minimodels.transformer import TextEncoder

ENCODERS = pytest.mark.parametrize("name", ["imagen-tiny", "stable-diffusion-tiny"], ids=["T5", "CLIP, causal"])
LENGTH = 7


def encoder(name: str) -> TextEncoder:
    found = build(load(name), dtype=torch.float64)["text_encoder"]
    assert isinstance(found, TextEncoder)
    return found


def tokens(rows: int) -> Tensor:
    return torch.randint(50, (rows, LENGTH), generator=torch.Generator().manual_seed(2))


def masks() -> Tensor:
    """A whole text, one padded behind, one padded in front, one with nothing."""
    mask = torch.ones(4, LENGTH, dtype=torch.bool)
    mask[1, 4:], mask[2, :3], mask[3] = False, False, False
    return mask


@ENCODERS
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_integers_are_a_mask_as_tokenizers_give_it(name: str, dtype: torch.dtype) -> None:
    model, text = encoder(name), tokens(4)
    assert torch.equal(model(text, masks().to(dtype)), model(text, masks()))


@ENCODERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_a_mask_of_another_dtype_is_refused_by_name(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=str(dtype).removeprefix("torch.")):
        encoder(name)(tokens(4), masks().to(dtype))


@ENCODERS
@pytest.mark.parametrize("shape", [(LENGTH,), (4, LENGTH - 1), (3, LENGTH), (4, 1, LENGTH)])
def test_a_mask_of_another_shape_is_refused_with_both(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"mask.*\(4, 7\)"):
        encoder(name)(tokens(4), torch.ones(shape, dtype=torch.bool))


@ENCODERS
def test_a_query_left_with_nothing_attends_to_all_it_could_on_every_backend(name: str) -> None:
    model, text = encoder(name), tokens(4)
    found = {}
    for backend in ("baseline", "sdpa"):
        with attention_backend(backend):
            found[backend] = model(text, masks())
    assert all(features.isfinite().all() for features in found.values())
    torch.testing.assert_close(found["baseline"], found["sdpa"])
    torch.testing.assert_close(found["sdpa"][3], model(text)[3])


@ENCODERS
def test_what_is_masked_is_not_seen_by_those_who_see_anything(name: str) -> None:
    model, text, other = encoder(name), tokens(4), tokens(4)
    other[~masks()] = (other[~masks()] + 1) % 50
    same, seen = (model(each, masks()) for each in (text, other))
    assert torch.equal(same[:3][masks()[:3]], seen[:3][masks()[:3]])
