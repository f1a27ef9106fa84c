"""A network given what it cannot take raises a ValueError that says what it takes, and still compiles whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from minimodels.autoencoder import KlAutoencoder, VqAutoencoder
from minimodels.autoencoder_config import KlDecoder, VqDecoder
from minimodels.loader import load
from minimodels.masked import MaskedTransformer
from minimodels.run import build
from minimodels.transformer import Decoder, TextEncoder
from minimodels.uvit import UVit


def network(name: str, part: str) -> Any:
    return build(load(name))[part]


def picture(channels: int, side: int = 8, *frames: int) -> Tensor:
    return torch.zeros(2, channels, *frames, side, side)


def text(width: int) -> Tensor:
    return torch.zeros(2, 7, width)


def tokens(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.long)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector": None}, "is told vector"), ({"vector": torch.zeros(2, 3)}, "vector is 3 wide"),
        ({"context": None}, "is told context"), ({"context": text(5)}, "context is 5 wide"),
        ({"noise_level": 3.0}, "not told noise_level"), ({"image": torch.zeros(2, 4)}, "not told image"),
        ({"x": picture(4, 7)}, "7 x 7: both sides must be multiples of"), ({"x": picture(5)}, "has 5 channels"),
        ({"x": picture(4, 8, 3)}, "x must be (b, c, h, w)"), ({"t": torch.ones(3)}, "each of 2 samples"),
    ],
)  # fmt: skip
def test_a_unet_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    unet = network("sdxl-tiny", "unet")
    right = {
        "x": picture(unet.config.in_channels), "t": 3, "context": text(unet.config.context_dim),
        "vector": torch.zeros(2, unet.config.vector.dim),
    }  # fmt: skip
    assert unet(**right).shape == right["x"].shape
    assert message in refusal(lambda: unet(**right | change))


@pytest.mark.parametrize("missing", ["image", "frame_rate"])
def test_a_unet_for_video_names_what_is_missing(missing: str) -> None:
    unet = network("make-a-video-tiny", "decoder")
    told = {"image": torch.zeros(2, 10), "frame_rate": 4.0}
    assert unet(picture(3, 8, 3), 5, **told).shape == (2, 6, 3, 8, 8)
    del told[missing]
    assert f"is told {missing}" in refusal(lambda: unet(picture(3, 8, 3), 5, **told))
    assert "must be (b, c, f, h, w)" in refusal(lambda: unet(picture(3), 5, **told))


def test_both_unets_of_a_cascade_take_numbers_or_one_for_each_sample() -> None:
    for name, channels, told in (("unet", 3, {}), ("super_resolution_1", 6, {"noise_level": 3.0})):
        unet, x = network("imagen-tiny", name), torch.randn(2, channels, 8, 8)
        each = {key: torch.full((2,), value) for key, value in told.items()}
        assert torch.equal(unet(x, 5.0, text(20), **told), unet(x, t=torch.full((2,), 5.0), context=text(20), **each))
        assert "context is 21 wide" in refusal(lambda unet=unet, x=x, told=told: unet(x, 5, text(21), **told))
    assert "is told noise_level" in refusal(lambda: network("imagen-tiny", "super_resolution_1")(x, 5, text(20)))


def test_a_text_encoder_names_its_limits() -> None:
    encoder = cast(TextEncoder, network("stable-diffusion-tiny", "text_encoder"))
    length = load("stable-diffusion-tiny").text_encoder.text_len  # type: ignore[union-attr]
    assert f"700 tokens exceed the {length} that have positions" in refusal(lambda: encoder(tokens(1, 700)))
    assert "no projection" in refusal(lambda: encoder.pooled(tokens(1, length)))


def test_a_decoder_says_when_its_cache_is_full() -> None:
    decoder = cast(Decoder, network("llama-tiny", "language_model"))
    cache = decoder.empty_cache(2, 5)
    decoder(tokens(2, 3), cache)
    decoder(tokens(2, 2), cache, 3)
    assert "6 tokens exceed the 5 that the cache has room for" in refusal(lambda: decoder(tokens(2, 1), cache, 5))


def test_a_cache_of_a_decoder_with_context_holds_its_keys() -> None:
    parts = build(load("parti-tiny"))
    decoder = cast(Decoder, parts["transformer"].decoder)
    width = load("parti-tiny").transformer.encoder.dim  # type: ignore[union-attr]
    features = torch.randn(2, 7, width)
    cache = decoder.empty_cache(2, 4, features)
    assert len(cache.cross) == len(cache.layers) and cache.cross[0].keys.shape[2] == 7
    assert f"takes {width}" in refusal(lambda: decoder.empty_cache(2, 4, features[..., 1:]))


def test_a_masked_transformer_names_what_is_wrong() -> None:
    parts = build(load("muse-tiny"))
    lower, upper = (cast(MaskedTransformer, parts[name]) for name in ("transformer", "super_resolution"))
    features, low = text(lower.text_dim), tokens(2, load("muse-tiny").transformer.tokens)  # type: ignore[union-attr]
    assert f"takes {lower.text_dim}" in refusal(lambda: lower.context(text(3)))
    assert "is told low-resolution tokens" in refusal(lambda: upper.context(features))
    assert "is not told low-resolution tokens" in refusal(lambda: lower.context(features, low))
    assert "exceed" in refusal(lambda: lower(tokens(2, 10 * low.shape[1]), lower.context(features)))


def test_amuseds_transformer_names_what_is_wrong() -> None:
    config, model = load("amused-tiny"), cast(UVit, network("amused-tiny", "transformer"))
    part: Any = dict(config.parts())["transformer"]
    right = [text(part.text_dim), torch.zeros(2, part.vector.pooled_dim), torch.zeros(2, 5)]
    for index in range(3):
        wrong = [given[..., 1:] if place == index else given for place, given in enumerate(right)]
        assert "wide, this network takes" in refusal(lambda wrong=wrong: model.context(*wrong))
    assert model.resample
    assert "must be even" in refusal(lambda: model(tokens(2, 3, 4), model.context(*right)))


@pytest.mark.parametrize(("name", "kind"), [("stable-diffusion-tiny", KlAutoencoder), ("muse-tiny", VqAutoencoder)])
def test_an_autoencoder_names_what_is_wrong(name: str, kind: type[nn.Module]) -> None:
    part = load(name).decoder  # type: ignore[union-attr]
    assert isinstance(part, KlDecoder | VqDecoder)
    model: Any = kind(part)
    for x, message in (
        (picture(4, part.grows), "4 channels"), (text(3), "x must be"),
    ):  # fmt: skip
        assert message in refusal(lambda x=x: model.encode(x))
    if isinstance(model, KlAutoencoder):
        assert "takes 4" in refusal(lambda: model.decode(picture(3, 4)))
