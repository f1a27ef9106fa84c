"""A network or attention given what it cannot take raises a ValueError that says what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from minimodels.autoencoder import KlAutoencoder, VqAutoencoder
from minimodels.autoencoder_config import KlDecoder, VqDecoder
from minimodels.kernels.attention import attention, attention_with_cache
from minimodels.kernels.backend import attention_backend
from minimodels.loader import load, names
from minimodels.masked import MaskedTransformer
from minimodels.pipelines import example_input, generate
from minimodels.run import build
from minimodels.samplers import sample_token, unmask
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
        ({"vector": 3.0}, "vector must be a tensor (b, "), ({"vector": torch.zeros(2, 1, 3)}, "vector must be (b, "),
        ({"context": torch.zeros(2, 24)}, "context must be (b, n, "),
        ({"context": torch.zeros(24)}, "context must be (b, n, "),
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (tokens(7), "tokens must be (b, n), not of shape (7,)"), (tokens(1, 2, 3), "not of shape (1, 2, 3)"),
        (torch.zeros(1, 7), "integers, not float32"), (torch.ones(1, 7, dtype=torch.bool), "integers, not bool"),
    ],
)  # fmt: skip
def test_what_is_no_batch_of_tokens_is_said(given: Tensor, message: str) -> None:
    clip, parti = network("sdxl-tiny", "second_text_encoder"), network("parti-tiny", "transformer")
    decoder = network("llama-tiny", "language_model")
    for call in (clip, clip.pooled, parti.encoder, decoder):
        assert message in refusal(lambda call=call: call(given))


@pytest.mark.parametrize("name", [name for name in names() if name.endswith("-tiny")])
def test_generate_names_how_many_tokens_it_takes(name: str) -> None:
    config = load(name)
    parts, right = build(config, "meta"), example_input(config, 2, "meta")
    length = right.shape[1]
    for wrong in (right[:, 1:], right[:, :0], torch.cat([right, right], dim=1)):
        message = refusal(lambda wrong=wrong: generate(config, parts, wrong))
        assert f"{name} takes {length} tokens a sample" in message and f"not {wrong.shape[1]}" in message
    assert "must be (b, n)" in refusal(lambda: generate(config, parts, right[0]))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dit-tiny", {"classes": None}, "is told classes"),
        ("dit-tiny", {"pooled": torch.zeros(2, 3)}, "not told pooled"),
        ("dit-tiny", {"x": picture(4, 8)}, "16 tokens are given, this network has positions of 3 x 3"),
        ("dit-tiny", {"x": picture(4, 7)}, "(7, 7) cannot be cut into patches of [2, 2]"),
        ("dit-tiny", {"x": picture(5, 6)}, "x has 5 channels"), ("dit-tiny", {"text": text(5)}, "not told text"),
        ("flux-tiny", {"text": None}, "is told text"),
        ("flux-tiny", {"pooled": torch.zeros(2, 3)}, "pooled is 3 wide"),
        ("flux-tiny", {"guidance": None}, "is told guidance"),
        ("flux-tiny", {"classes": tokens(2)}, "not told classes"),
        ("flux-tiny", {"x": picture(6, 6, 3)}, "x must be (b, c, h, w)"),
        ("flux-tiny", {"t": torch.ones(3)}, "2 samples"),
        ("wan-tiny", {"x": picture(6, 5, 3)}, "(3, 5, 5) cannot be cut into patches of [1, 2, 2]"),
        ("wan-tiny", {"x": picture(6, 6)}, "x must be (b, c, f, h, w)"),
        ("wan-tiny", {"text": text(3)}, "text is 3 wide"),
    ],
)  # fmt: skip
def test_a_transformer_names_what_is_wrong(name: str, change: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {
        "dit-tiny": {"x": picture(4, 6), "t": 3, "classes": tokens(2)},
        "flux-tiny": {"x": picture(6, 6), "t": 3, "text": text(28), "pooled": torch.zeros(2, 20), "guidance": 3.5},
        "wan-tiny": {"x": picture(6, 6, 3), "t": 3, "text": text(20)},
    }[name]
    transformer = network(name, "transformer")
    transformer(**right)
    assert message in refusal(lambda: transformer(**right | change))


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
    assert "(b, n), not of shape (9,)" in refusal(lambda: lower(tokens(9), lower.context(features)))
    assert "exceed" in refusal(lambda: lower(tokens(2, 10 * low.shape[1]), lower.context(features)))


def test_a_prior_names_what_is_wrong() -> None:
    prior, part = network("make-a-video-tiny", "prior"), dict(load("make-a-video-tiny").parts())["prior"]
    width, text_dim = part.embedding_dim, part.text_dim  # type: ignore[attr-defined]
    right = {"x": torch.zeros(2, width), "t": 3, "context": text(text_dim), "embedding": torch.zeros(2, width)}
    assert prior(**right).shape == (2, width)
    for key, wrong, message in (
        ("x", torch.zeros(2, width + 1), f"x is {width + 1} wide"),
        ("context", text(text_dim + 1), f"context is {text_dim + 1} wide"),
        ("context", torch.zeros(2, text_dim), "context must be (b, n, "),
        ("embedding", None, "is told embedding"),
    ):
        assert message in refusal(lambda key=key, wrong=wrong: prior(**right | {key: wrong}))


def test_an_upscaler_names_what_is_wrong() -> None:
    upscaler = network("parti-tiny", "super_resolution")
    assert "x has 4 channels, this network takes 3" in refusal(lambda: upscaler(picture(4)))
    assert "x must be (b, c, h, w)" in refusal(lambda: upscaler(text(3)))


def test_amuseds_transformer_names_what_is_wrong() -> None:
    config, model = load("amused-tiny"), cast(UVit, network("amused-tiny", "transformer"))
    part: Any = dict(config.parts())["transformer"]
    right = [text(part.text_dim), torch.zeros(2, part.vector.pooled_dim), torch.zeros(2, 5)]
    for index in range(3):
        wrong = [given[..., 1:] if place == index else given for place, given in enumerate(right)]
        assert "wide, this network takes" in refusal(lambda wrong=wrong: model.context(*wrong))
    context = model.context(*right)
    assert "tokens must be (b, h, w), not of shape (2, 16)" in refusal(lambda: model(tokens(2, 16), context))
    assert "must be integers, not float32" in refusal(lambda: model(tokens(2, 4, 4).float(), context))
    assert "3 samples are given, this network takes 2" in refusal(lambda: model(tokens(3, 4, 4), context))
    assert model.resample
    assert "must be even" in refusal(lambda: model(tokens(2, 3, 4), model.context(*right)))


@pytest.mark.parametrize(
    ("name", "part"), [("parti-tiny", "detokenizer"), ("muse-tiny", "decoder"), ("phenaki-tiny", "decoder")]
)
def test_a_decoder_of_codes_names_what_is_wrong(name: str, part: str) -> None:
    decoder: Any = network(name, part)
    right = {"parti-tiny": (2, 25), "muse-tiny": (2, 3, 3), "phenaki-tiny": (1, 3, 5, 5)}[name]
    decoder(torch.zeros(right, dtype=torch.long))
    assert "codes must be (b, " in refusal(lambda: decoder(torch.zeros((*right, 1), dtype=torch.long)))
    assert "codes must be integers, not float32" in refusal(lambda: decoder(torch.zeros(right)))
    if name != "muse-tiny":
        wrong = torch.zeros((*right[:-1], right[-1] + 1), dtype=torch.long)
        assert "this network takes 25" in refusal(lambda: decoder(wrong))


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


Q, K = torch.zeros(2, 4, 5, 16), torch.zeros(2, 2, 7, 16)


@pytest.mark.parametrize("backend", ["baseline", "sdpa", "triton"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": Q[0, 0]}, "are (*batch, heads, length, head_dim), not (5, 16) and"),
        ({"k": K[0, 0], "v": K[0, 0]}, "are (*batch, heads, length, head_dim), not"),
        ({"q": Q.bfloat16()}, "one dtype, not torch.bfloat16, torch.float32 and torch.float32"),
        ({"v": K.half()}, "one dtype, not torch.float32, torch.float32 and torch.float16"),
        ({"v": K[..., :8]}, "one shape, not (2, 2, 7, 16) and (2, 2, 7, 8)"),
        ({"q": Q[:, :3]}, "a multiple of kv_heads, not 3 and 2"), ({"q": Q[..., :0]}, "same batch and head_dim"),
        ({"k": K[:, :0], "v": K[:, :0]}, "at least 1, not 4, 0 and 16"),
        ({"scale": 0.0}, "scale multiplies the scores and is positive, not 0.0"), ({"scale": -0.5}, "not -0.5"),
        ({"bias": torch.zeros(5, 6)}, "broadcast to the scores, (2, 4, 5, 7), which (5, 6) cannot be"),
        ({"bias": torch.zeros(3, 5, 7)}, "which (3, 5, 7) cannot be"),
        ({"bias": torch.zeros(1, 2, 4, 5, 7)}, "which (1, 2, 4, 5, 7) cannot be"),
        ({"bias": torch.zeros(7).double()}, "torch.float32, or is float32, not torch.float64"),
    ],
)  # fmt: skip
def test_attention_names_what_is_wrong(change: dict[str, Any], message: str, backend: str) -> None:
    right: dict[str, Any] = {"q": Q, "k": K, "v": K, "bias": torch.zeros(1, 7), "scale": 0.25}
    with attention_backend(backend):
        assert attention(**right).shape == Q.shape
        assert message in refusal(lambda: attention(**right | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": 8}, "a cache of 9 has no room for 2 more at 8"), ({"pos": -1}, "no room for 2 more at -1"),
        ({"keys": torch.zeros(1, 2, 9, 8)}, "is (b, kv_heads, capacity, head_dim), not (1, 2, 9, 8) and (1, 2, 9, 16)"),
        ({"values": torch.zeros(1, 2, 9, 16).half()}, "a cache has the keys' dtype, torch.float32, not"),
        ({"bias": torch.zeros(2, 6)}, "broadcast to the scores, (1, 4, 2, 5), which (2, 6) cannot be"),
        ({"scale": -1.0}, "is positive, not -1.0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["sdpa", "triton"])
def test_attention_with_a_cache_names_what_is_wrong(change: dict[str, Any], message: str, backend: str) -> None:
    new, cache = torch.zeros(1, 2, 2, 16), torch.zeros(2, 1, 2, 9, 16)
    right = {"q": new.repeat(1, 2, 1, 1), "k": new, "v": new, "keys": cache[0], "values": cache[1], "pos": 3}
    with attention_backend(backend):
        assert attention_with_cache(**right).shape == (1, 4, 2, 16)
        assert message in refusal(lambda: attention_with_cache(**right | change))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    message = f"temperature divides the logits and is positive, not {temperature}"
    assert message in refusal(lambda: sample_token(torch.zeros(2, 5), temperature))
    assert message in refusal(lambda: unmask(tokens(2, 3), torch.zeros(2, 3, 5), 7, 1, temperature, 1.0))
