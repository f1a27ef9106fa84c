"""The transformer, the ViT decoder and the upscaler: caching, causality, positions, sizes and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import Attention, Heads
from minimodels.config import AutoregressiveImage, LanguageModel
from minimodels.config import Stack as StackConfig
from minimodels.kernels.backend import attention_backend
from minimodels.kernels.fused import rotate
from minimodels.loader import load
from minimodels.pixel_decoder import VitDecoder
from minimodels.run import build, parameters
from minimodels.transformer import Cache, Decoder, Encoder, Stack, TextToTokens
from minimodels.upscaler import ConvUpscaler

BATCH, TEXT, LENGTH = 3, 7, 11
# Logits are of order one; float32 rounds 6e-8 of that, in sums of some hundred terms over three layers.
FLOAT32 = 1e-5

POSITIONS: dict[str, dict[str, Any]] = {
    "learned": {"kind": "learned"},
    "rotary": {"kind": "rotary", "theta": 10000.0},
    "relative": {"kind": "relative", "buckets": 6, "max_distance": 9},
}


def stack_config(**changes: Any) -> StackConfig:
    """A decoder stack of toy size with odd numbers."""
    defaults: dict[str, Any] = {
        "depth": 3, "dim": 30, "num_heads": 3, "num_kv_heads": 3, "ff_dim": 43, "gated": False, "bias": "none",
        "activation": "relu",
        "scaled": True, "norm": {"kind": "layer", "eps": 1e-6}, "position": POSITIONS["learned"],
    }  # fmt: skip
    return StackConfig.model_validate(defaults | changes)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter, so that none is at a value which hides it; matrices keep activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
        else:
            parameter.data.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    return module.requires_grad_(False).eval()


def parti() -> tuple[Decoder, Tensor, Tensor]:
    """Parti's tiny decoder, what it attends to (b, m, d), and tokens (b, n)."""
    config = load("parti-tiny")
    transformer = randomise(build(config)["transformer"])
    assert isinstance(transformer, TextToTokens)
    text, tokens = draw_tokens(53, TEXT), draw_tokens(37, LENGTH)
    return transformer.decoder, transformer.encoder(text), tokens


def llama() -> tuple[Decoder, None, Tensor]:
    """LLaMA's tiny decoder, grouped and rotary, no context, and tokens (b, n)."""
    decoder = randomise(build(load("llama-tiny"))["language_model"])
    assert isinstance(decoder, Decoder)
    return decoder, None, draw_tokens(67, LENGTH)


def draw_tokens(vocab: int, length: int) -> Tensor:
    return torch.randint(vocab, (BATCH, length), generator=torch.Generator().manual_seed(5))


def full(decoder: Decoder, context: Tensor | None, tokens: Tensor) -> Tensor:
    """Logits of all positions at once, without a cache."""
    cross = () if context is None else decoder.stack.project_context(context)
    return decoder(tokens, Cache((), cross))


def cached(decoder: Decoder, context: Tensor | None, tokens: Tensor, chunks: tuple[int, ...]) -> Tensor:
    """The same logits, `chunks` tokens at a time through a cache."""
    assert sum(chunks) == tokens.shape[1]
    cross = () if context is None else decoder.stack.project_context(context)
    cache = Cache(decoder.stack.empty_cache(len(tokens), tokens.shape[1]), cross)
    logits, pos = [], 0
    for chunk in chunks:
        logits.append(decoder(tokens[:, pos : pos + chunk], cache, pos))
        pos += chunk
    return torch.cat(logits, dim=1)


CHUNKS = {
    "token by token": (1,) * LENGTH,
    "prefill, then decode": (7, 1, 1, 1, 1),
    "prefill in two parts, then decode": (4, 5, 1, 1),
    "all at once": (LENGTH,),
}


@pytest.mark.parametrize("backend", ("sdpa", "baseline", "flash"))
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
@pytest.mark.parametrize("model", (parti, llama), ids=("parti", "llama"))
def test_cached_decode_equals_full_forward(model: Any, chunks: tuple[int, ...], backend: str) -> None:
    decoder, context, tokens = model()
    with attention_backend(backend):
        expected, found = full(decoder, context, tokens), cached(decoder, context, tokens, chunks)
    assert expected.std() > 0.1, "logits must differ for the comparison to mean anything"
    torch.testing.assert_close(found, expected, atol=FLOAT32, rtol=0)


@pytest.mark.parametrize("num_kv_heads", (1, 3))
@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS.keys())
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
def test_cached_decode_equals_full_forward_for_every_position(
    chunks: tuple[int, ...], position: dict[str, Any], num_kv_heads: int
) -> None:
    config = stack_config(position=position, num_kv_heads=num_kv_heads)
    decoder = Decoder(17, LENGTH, config, context_dim=None, start=True)
    randomise(decoder)
    if decoder.stack.rotary is not None:
        decoder.stack.rotary.fill()
    tokens = draw_tokens(18, LENGTH)
    expected, found = full(decoder, None, tokens), cached(decoder, None, tokens, chunks)
    torch.testing.assert_close(found, expected, atol=FLOAT32, rtol=0)


@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS.keys())
def test_position_matters(position: dict[str, Any]) -> None:
    """Without positions, the last of several tokens could not tell the order of those before it."""
    decoder = Decoder(17, LENGTH, stack_config(depth=1, position=position), context_dim=None, start=False)
    randomise(decoder)
    if decoder.stack.rotary is not None:
        decoder.stack.rotary.fill()
    tokens = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 4, 3, 5]])
    logits = decoder(tokens)[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("model", (parti, llama), ids=("parti", "llama"))
def test_a_later_token_never_changes_an_earlier_logit(model: Any) -> None:
    decoder, context, tokens = model()
    before = full(decoder, context, tokens)
    for position in range(LENGTH):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % 37
        differs = (full(decoder, context, changed) != before).any(-1)
        # Exactly equal before: the same operations on the same numbers. From the position on, all change.
        assert not differs[:, :position].any()
        assert differs[:, position:].all()


def test_every_text_token_changes_every_image_logit() -> None:
    """The encoder is bidirectional and the decoder attends to all of it."""
    transformer = randomise(build(load("parti-tiny"))["transformer"])
    assert isinstance(transformer, TextToTokens)
    text, tokens = draw_tokens(53, TEXT), draw_tokens(37, LENGTH)
    features, logits = transformer.encoder(text), transformer(text, tokens)
    for position in range(TEXT):
        changed = text.clone()
        changed[:, position] = (changed[:, position] + 1) % 53
        assert (transformer.encoder(changed) != features).any(-1).all()
        assert (transformer(changed, tokens) != logits).any(-1).all()


def test_rows_of_a_batch_do_not_mix() -> None:
    decoder, context, tokens = parti()
    assert context is not None
    together = full(decoder, context, tokens)
    for row in range(BATCH):
        alone = full(decoder, context[row : row + 1], tokens[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1], atol=FLOAT32, rtol=0)


def test_rotary_scores_depend_on_distance_alone() -> None:
    config = stack_config(position=POSITIONS["rotary"])
    table = Stack(config, 29, causal=True).rotary
    assert table is not None
    table.fill()
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(1, 3, 1, 10, generator=generator) for _ in range(2))

    def turned(x: Tensor, pos: int) -> Tensor:
        return rotate(x, x, *table.table(pos + 1), pos)[0]

    near = (turned(q, 5) * turned(k, 2)).sum(-1)
    far = (turned(q, 25) * turned(k, 22)).sum(-1)
    torch.testing.assert_close(near, far, atol=1e-5, rtol=0)  # angles of order 25, float32
    torch.testing.assert_close(turned(q, 17).norm(), q.norm(), atol=1e-5, rtol=0)
    assert (near - (turned(q, 5) * turned(k, 3)).sum(-1)).abs().max() > 1e-3


def test_scores_are_scaled_only_where_the_config_says() -> None:
    """Doubling head_dim's scale is the same as scaling the queries."""
    scaled, plain = stack_config(), stack_config(scaled=False)
    with_scale, without = (Attention(30, 30, Heads.of(stack), "self") for stack in (scaled, plain))
    randomise(with_scale)
    without.load_state_dict(with_scale.state_dict())
    x = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(2))
    assert (with_scale(x) - without(x)).abs().max() > 1e-3
    without.to_q.weight.data *= 10**-0.5  # head_dim 10
    torch.testing.assert_close(with_scale(x), without(x), atol=FLOAT32, rtol=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    (("parti-20b", 20.5e9), ("parti-3b", 3.09e9), ("parti-750m", 790e6), ("parti-350m", 387e6)),
)
def test_parti_has_as_many_parameters_as_its_table_implies(name: str, expected: float) -> None:
    found = parameters(build(load(name), "meta")["transformer"])
    assert abs(found / expected - 1) <= 0.01  # the counts are given to two or three digits


@pytest.mark.parametrize(
    ("name", "expected"),
    (("llama2-7b", 6_738_415_616), ("llama2-13b", 13_015_864_320), ("llama2-70b", 68_976_648_192)),
)
def test_llama_has_exactly_the_parameters_of_the_released_checkpoint(name: str, expected: int) -> None:
    config = load(name)
    assert isinstance(config, LanguageModel)
    assert config.language_model.published is not None
    assert parameters(build(config, "meta")["language_model"]) == config.language_model.published.params == expected


@pytest.mark.parametrize("part", ("detokenizer", "super_resolution"))
def test_parti_image_networks_are_near_their_published_size(part: str) -> None:
    config = load("parti-20b")
    published = getattr(config, part).published.params
    # "600 M" and "about 30 M": one digit is stated, so within half of the next
    assert abs(parameters(build(config, "meta")[part]) / published - 1) <= 0.07


def test_the_vit_decoder_has_the_parameters_of_its_formula() -> None:
    """Lookup, entrance, positions, 2 norms + 4 projections + 2 matrices per layer, last norm, exit."""
    vocab, code, grid, patch, depth, dim, ff = 37, 6, 5, 4, 2, 40, 80  # parti-tiny
    layer = 2 * 2 * dim + 4 * dim * dim + 2 * dim * ff
    expected = vocab * code + (code + 1) * dim + grid**2 * dim + depth * layer + 2 * dim + (dim + 1) * 3 * patch**2
    assert parameters(build(load("parti-tiny"), "meta")["detokenizer"]) == expected


def test_the_upscaler_has_the_parameters_of_its_formula() -> None:
    """Entrance, wide blocks, exit and the 5x5 skip, for each doubling."""
    channels, expansion, blocks, doublings = 8, 4, 2, 2  # parti-tiny
    wide = channels * expansion
    block = channels * wide * 9 + wide + wide * channels * 9 + channels
    doubling = 3 * channels * 9 + channels + blocks * block + channels * 12 * 9 + 12 + 3 * 12 * 25 + 12
    assert parameters(build(load("parti-tiny"), "meta")["super_resolution"]) == doublings * doubling


@pytest.mark.parametrize(("name", "side"), (("parti-20b", 256), ("parti-tiny", 20)))
def test_codes_become_an_image_and_a_larger_image(name: str, side: int) -> None:
    config = load(name)
    assert isinstance(config, AutoregressiveImage)
    parts = build(config, "meta", torch.bfloat16)
    with torch.inference_mode():
        pixels = parts["detokenizer"](torch.zeros(3, config.transformer.image_tokens, dtype=torch.long, device="meta"))
        large = parts["super_resolution"](pixels)
    assert pixels.shape == (3, 3, side, side) and pixels.dtype == torch.bfloat16
    assert large.shape == (3, 3, 4 * side, 4 * side) and large.dtype == torch.bfloat16


def test_each_code_becomes_the_patch_at_its_place() -> None:
    """With the mixing of tokens switched off, a code changes its own patch only, in row-major order."""
    config = load("parti-tiny")
    assert isinstance(config, AutoregressiveImage)
    decoder = randomise(build(config)["detokenizer"])
    assert isinstance(decoder, VitDecoder)
    for module in decoder.modules():
        if isinstance(module, Attention):
            nn.init.zeros_(module.to_out.get_parameter("weight"))
    grid, patch = 5, 4
    codes = torch.arange(grid**2)[None]
    before = decoder(codes)
    for place in (0, 3, 7, 24):
        changed = codes.clone()
        changed[0, place] = 36
        differs = (decoder(changed) != before).any(1)[0]
        patches = rearrange(differs, "(h p) (w q) -> (h w) (p q)", p=patch, q=patch)
        assert patches.any(-1).nonzero().flatten().tolist() == [place]


def test_only_the_direction_of_a_code_matters() -> None:
    """ViT-VQGAN's codes are normalised to the unit sphere."""
    decoder = randomise(build(load("parti-tiny"))["detokenizer"])
    assert isinstance(decoder, VitDecoder)
    codes = torch.arange(25)[None]
    before = decoder(codes)
    decoder.codebook.weight.data *= 3
    torch.testing.assert_close(decoder(codes), before, atol=FLOAT32, rtol=0)


def test_the_upscaler_doubles_and_stays_local() -> None:
    """A changed pixel reaches no further than the convolutions' radius and moves with its position."""
    config = load("parti-tiny", ["super_resolution.doublings=1"])
    network = randomise(build(config)["super_resolution"])
    assert isinstance(network, ConvUpscaler)
    x = torch.randn(1, 3, 21, 27, generator=torch.Generator().manual_seed(4))
    before = network(x)
    assert before.shape == (1, 3, 42, 54)
    changed = x.clone()
    changed[:, :, 10, 9] += 1
    rows, columns = (network(changed) != before).any(1)[0].nonzero().unbind(1)
    radius = 1 + 2 * 2 + 1  # entrance, two blocks of two, exit: all 3x3
    assert 2 * 10 - 2 * radius <= rows.min() <= 20 and 21 <= rows.max() <= 2 * 10 + 1 + 2 * radius
    assert 2 * 9 - 2 * radius <= columns.min() <= 18 and 19 <= columns.max() <= 2 * 9 + 1 + 2 * radius


def test_the_encoder_takes_shorter_sequences() -> None:
    """Positions are counted from the start, whatever the length."""
    encoder = Encoder(13, TEXT, stack_config())
    randomise(encoder)
    tokens = draw_tokens(13, 4)
    assert encoder(tokens).shape == (BATCH, 4, 30)
    with pytest.raises(ValueError, match=f"{TEXT + 2} tokens exceed the {TEXT} that have positions"):
        encoder(draw_tokens(13, TEXT + 2))
