"""Building and running: weights, buffers, labels, loops, and torch.compile of every tiny config."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels import loader
from minimodels.autoencoder_config import CausalDecoder, CVivitDecoder, KlDecoder, VqDecoder
from minimodels.blocks import Computed, RotaryTable
from minimodels.config import ConvUpscaler, DecoderOnly, EncoderDecoder, Part, TextEncoder, VitDecoder
from minimodels.diffusion_config import CascadedDiffusion, CascadedVideo, LatentModel
from minimodels.dit_config import ClassImage, DiffusionTransformer, SinusoidalGrid
from minimodels.kernels.backend import attention_backend
from minimodels.kernels.scope import label
from minimodels.loader import load
from minimodels.masked import MaskedTransformer
from minimodels.pipelines import example_input, generate
from minimodels.run import Growth, build, parameters, scope, steps
from minimodels.token_config import MaskedTransformer as MaskedTransformerConfig
from minimodels.token_config import UVit as UVitConfig
from minimodels.transformer import Cache, Decoder, TextToTokens
from minimodels.unet_config import EfficientUNet, Prior, UNet
from minimodels.uvit import UVit

TINY = [name for name in loader.names() if name.endswith("-tiny")]
CACHED = [
    name for name in TINY if any(isinstance(part, EncoderDecoder | DecoderOnly) for _, part in load(name).parts())
]


@pytest.mark.parametrize("growth", ("constant", "affine", "any"))
def test_every_step_runs_where_nobody_watches(growth: Growth) -> None:
    assert list(steps("decode", 7, growth)) == [0, 1, 2, 3, 4, 5, 6]
    assert list(steps("decode", 1, growth)) == [0]
    assert list(steps("decode", 0, growth)) == []


def test_there_are_tiny_configs() -> None:
    assert {"parti-tiny", "llama-tiny"} <= set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_a_seed_decides_every_weight(name: str) -> None:
    built = [build(load(name), seed=seed) for seed in (1, 1, 2)]
    first, again, other = (dict(parts.named_parameters()) for parts in built)
    for key, parameter in first.items():
        module = built[0].get_submodule(key.rpartition(".")[0])
        assert torch.equal(parameter, again[key]), key
        if parameter.dim() > 1 and not isinstance(module, Computed):
            assert not torch.equal(parameter, other[key]), key
            spread = 4 / math.sqrt(2 * parameter.numel())  # of the deviation of so many samples: 4 sigma
            assert abs(parameter.std() * scale(module, key, parameter) - 1) < spread, key


def scale(module: nn.Module, key: str, parameter: Tensor) -> float:
    """What brings the weights of a layer to one: the root of its fan-in; vectors that are looked up have it."""
    looked_up = isinstance(module, nn.Embedding) or not key.endswith("weight")
    return 1.0 if looked_up else math.sqrt(parameter[0].numel())


@pytest.mark.parametrize("name", TINY)
def test_a_run_is_decided_by_its_seeds(name: str) -> None:
    config = load(name)
    results = []
    for _ in range(2):
        torch.manual_seed(3)  # sampling draws from the global generator
        results.append(generate(config, build(config, seed=1), example_input(config, 3, "cpu", seed=2)))
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", TINY)
def test_activations_are_finite_and_of_order_one(name: str, dtype: torch.dtype) -> None:
    config = load(name)
    parts = build(config, dtype=dtype)
    found: dict[str, list[Tensor]] = {}

    def watch(key: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                found.setdefault(key, []).append(output.float().pow(2).mean().sqrt())

        return hook

    for key, module in parts.named_modules():
        module.register_forward_hook(watch(key))
    generate(config, parts, example_input(config, 3, "cpu"))
    assert len(found) > 20
    for key, sizes in found.items():
        size = torch.stack(sizes)
        assert size.isfinite().all(), key
        # Sampling divides by the signal left at the first step, 1/14, and a latent by its scale, 1/5.
        most = 100 if isinstance(config, LatentModel | CascadedDiffusion | CascadedVideo | ClassImage) else 10
        assert 0.05 < size.min() and size.max() < most, (key, size)


class OnlyMeta(TorchDispatchMode):
    """Fails on any operator that makes a tensor with memory behind it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        assert not isinstance(out, Tensor) or out.is_meta, func
        return out


@pytest.mark.parametrize("name", ("llama2-70b", "parti-tiny"))
def test_building_on_meta_allocates_nothing(name: str) -> None:
    with OnlyMeta():
        parts = build(load(name), "meta", torch.bfloat16)
    tensors = [*parts.parameters(), *parts.buffers()]
    assert tensors and all(tensor.is_meta for tensor in tensors)
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors)


@pytest.mark.parametrize("name", TINY)
def test_meta_and_cpu_builds_have_the_same_parameters(name: str) -> None:
    there, here = build(load(name), "meta"), build(load(name), "cpu", torch.bfloat16)
    shapes = [{key: value.shape for key, value in parts.named_parameters()} for parts in (there, here)]
    assert shapes[0] == shapes[1]
    assert parameters(there) == parameters(here) == sum(shape.numel() for shape in shapes[0].values())
    for parts in (there, here):
        assert not any(module.training for module in parts.modules())
        assert not any(parameter.requires_grad for parameter in parts.parameters())
    assert all(t.device.type == "cpu" and t.dtype == torch.bfloat16 for t in (*here.parameters(), *here.buffers()))


# float32 angles up to 28 radians are rounded to 2e-6; bfloat16 keeps 8 bits of a number up to 1
@pytest.mark.parametrize(("dtype", "tolerance"), ((torch.float32, 5e-6), (torch.bfloat16, 2**-8)), ids=str)
def test_rotary_tables_are_right_after_build(dtype: torch.dtype, tolerance: float) -> None:
    decoder = build(load("llama-tiny"), dtype=dtype)["language_model"]
    assert isinstance(decoder, Decoder)
    table = decoder.stack.rotary
    assert isinstance(table, RotaryTable) and table.cos.shape == table.sin.shape == (29, 8) and table.cos.dtype == dtype
    for position in range(29):
        for feature in range(8):
            angle = position * 10000.0 ** (-2 * (feature % 4) / 8)
            sign = -1 if feature < 4 else 1
            assert abs(table.cos[position, feature].item() - math.cos(angle)) <= tolerance
            assert abs(table.sin[position, feature].item() - sign * math.sin(angle)) <= tolerance


def test_a_scope_is_nothing_without_an_observer() -> None:
    assert isinstance(scope("attention", "self"), nullcontext)


def test_scopes_appear_as_ranges_in_the_profiler() -> None:
    config = load("parti-tiny", ["transformer.image_tokens=4", "detokenizer.grid=2"])
    parts, text = build(config), example_input(config, 1, "cpu")
    with attention_backend("baseline"), profile(activities=[ProfilerActivity.CPU]) as watched:
        generate(config, parts, text)
    counts = {event.key: event.count for event in watched.key_averages()}
    assert counts[label("stage", "text_encoder")] == counts["stage.decode"] == counts["stage.detokenize"] == 1
    assert counts["stage.super_resolution"] == 1
    steps_run, layers = 4, 3
    assert counts["attention.cross"] == layers * (1 + steps_run), "keys and values once, then every step"
    assert counts["attention.self"] == 2 + layers * steps_run + 2, "encoder, decoder, detokenizer"
    assert counts["feed_forward"] == counts["attention.self"]
    assert counts["core.baseline"] == 2 + 2 * layers * steps_run + 2
    assert isinstance(scope("attention", "self"), nullcontext), "the profiler is gone"


def arguments(part: Part) -> tuple[Tensor, ...]:
    """Random input of a part, with the batch that guidance would double."""
    generator = torch.Generator().manual_seed(7)

    def tokens(vocab: int, length: int) -> Tensor:
        return torch.randint(vocab, (3, length), generator=generator)

    if isinstance(part, EncoderDecoder):
        return tokens(part.text_vocab, part.text_len), tokens(part.image_vocab, part.image_tokens)
    if isinstance(part, DecoderOnly):
        return (tokens(part.vocab, part.context_len),)
    if isinstance(part, VitDecoder):
        return (tokens(part.codebook_size, part.grid**2),)
    if isinstance(part, ConvUpscaler):
        return (torch.randn(1, 3, 9, 11, generator=generator),)
    if isinstance(part, TextEncoder):
        return (tokens(part.vocab, part.text_len),)
    if isinstance(part, MaskedTransformerConfig):
        text = torch.randn(3, 5, part.text_dim, generator=generator)
        axes, vocab = part.condition_axes, part.condition_vocab
        low = [tokens(vocab, prod(axes))] if vocab and axes else []
        return (tokens(part.vocab + 1, part.tokens), text, *low)
    if isinstance(part, UVitConfig):
        grid = torch.randint(part.vocab, (2, 4, 6), generator=generator)
        text = torch.randn(2, 5, part.text_dim, generator=generator)
        pooled = torch.randn(2, part.vector.pooled_dim, generator=generator)
        return grid, text, pooled, 100 * torch.rand(2, part.vector.numbers, generator=generator)
    if isinstance(part, KlDecoder):
        return (torch.randn(2, part.latent_channels, 5, 7, generator=generator),)
    if isinstance(part, CausalDecoder):
        return (torch.randn(2, part.latent_channels, 3, 5, 7, generator=generator),)
    if isinstance(part, VqDecoder):
        return (torch.randint(part.codebook_size, (2, 5, 7), generator=generator),)
    if isinstance(part, CVivitDecoder):
        return (torch.randint(part.codebook_size, (2, part.max_frames, part.grid, part.grid), generator=generator),)
    if isinstance(part, Prior):
        text = torch.randn(2, part.text_len, part.text_dim, generator=generator)
        own, other = torch.randn(2, 2, part.embedding_dim, generator=generator)
        return own, torch.tensor([3, 901]), text, other
    if isinstance(part, EfficientUNet):
        side = 3 * part.shrinks
        x = torch.randn(2, part.in_channels, side, side, generator=generator)
        return x, torch.tensor([3, 901]), torch.randn(2, 5, part.text_dim, generator=generator)
    if isinstance(part, UNet):
        side = 3 * part.shrinks
        frames = (3,) if part.temporal else ()
        x = torch.randn(2, part.in_channels, *frames, side, side, generator=generator)
        width = None if part.image_tokens else part.text_dim or part.context_dim
        context = (torch.randn(2, 5, width, generator=generator),) if width else ()
        return x, torch.tensor([3, 901]), *context
    if isinstance(part, DiffusionTransformer):
        position = part.stack.position
        grid = [position.side] * 2 if isinstance(position, SinusoidalGrid) else [2, 3, 5][-len(part.patch) :]
        lengths = [count * size for count, size in zip(grid, part.patch, strict=True)]
        text = (torch.randn(2, 5, part.text.dim, generator=generator),) if part.text else ()
        return torch.randn(2, part.in_channels, *lengths, generator=generator), torch.tensor([3, 901]), *text
    raise AssertionError(f"say here what {type(part).__name__} takes")


def named_arguments(part: Part) -> dict[str, Tensor | float]:
    """What else a denoiser is told, by name."""
    generator = torch.Generator().manual_seed(8)
    if isinstance(part, EfficientUNet):
        return {"noise_level": torch.tensor([5, 70])}
    told: dict[str, Tensor | float] = {}
    if isinstance(part, DiffusionTransformer):
        if part.classes:
            told["classes"] = torch.tensor([part.classes, 3])
        if part.pooled_dim:
            told["pooled"] = torch.randn(2, part.pooled_dim, generator=generator)
        if part.guidance:
            told["guidance"] = 3.5
    if isinstance(part, UNet):
        if part.second_context_dim:
            told["second_context"] = torch.randn(2, 4, part.second_context_dim, generator=generator)
        if part.vector:
            told["vector"] = torch.randn(2, part.vector.dim, generator=generator)
        if part.image_tokens:
            told["image"] = torch.randn(2, part.image_tokens.dim, generator=generator)
        if part.noise_level:
            told["noise_level"] = torch.tensor([5, 70])
        if part.frame_rate:
            told["frame_rate"] = torch.tensor([4.0, 8.0])
    return told


def call(module: nn.Module, part: Part) -> Callable[..., Tensor]:
    """The module as a function of what `arguments` gives; a masked transformer makes its own keys and values."""
    told = named_arguments(part)
    if not isinstance(module, MaskedTransformer | UVit):
        return lambda *inputs: module(*inputs, **told)

    def masked(tokens: Tensor, *told: Tensor) -> Tensor:
        return module(tokens, module.context(*told))

    return masked


# One part of each kind that compiles in seconds; UNets take half a minute each: make test-all has them all
QUICK_TO_COMPILE = (
    ("llama-tiny", "language_model"),
    ("make-a-video-tiny", "prior"),
    ("parti-tiny", "detokenizer"),
    ("parti-tiny", "super_resolution"),
    ("phenaki-tiny", "text_encoder"),
    ("phenaki-tiny", "transformer"),
    ("stable-diffusion-tiny", "text_encoder"),
)
PARTS = [
    pytest.param(name, key, id=f"{name}, {key}", marks=() if (name, key) in QUICK_TO_COMPILE else pytest.mark.slow)
    for name in TINY
    for key, _ in load(name).parts()
]
# aot_eager runs the same kernels on the same numbers; it may fold a scale or a bias: float32 round-off of order one
FLOAT32 = 1e-5


def compiled(function: Any) -> tuple[Any, CompileCounterWithBackend]:
    """`function` through torch.compile without graph breaks, and the counter of its compilations."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(function, fullgraph=True, backend=counter), counter


@pytest.mark.filterwarnings("ignore:.*functools.lru_cache.*")
@pytest.mark.parametrize(("name", "key"), PARTS)
def test_every_tiny_part_compiles_whole_and_equals_eager(name: str, key: str) -> None:
    config = load(name)
    part, module = dict(config.parts())[key], build(config)[key]
    inputs, plain = arguments(part), call(module, part)
    function, counter = compiled(plain)
    torch.testing.assert_close(function(*inputs), plain(*inputs), atol=FLOAT32, rtol=0)
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:.*functools.lru_cache.*")
def test_a_switched_backend_recompiles_and_equals_eager() -> None:
    config = load("llama-tiny", ["language_model.decoder.depth=1"])
    module, inputs = build(config)["language_model"], arguments(dict(config.parts())["language_model"])
    function, counter = compiled(module)
    for frames, backend in enumerate(("flash", "baseline"), start=1):
        with attention_backend(backend):
            torch.testing.assert_close(function(*inputs), module(*inputs), atol=FLOAT32, rtol=0)
        assert counter.frame_count == frames
        fused = any("scaled_dot_product_attention" in str(node.target) for node in counter.graphs[-1].graph.nodes)
        assert fused == (backend == "flash")
    with attention_backend("flash"):
        torch.testing.assert_close(function(*inputs), module(*inputs), atol=FLOAT32, rtol=0)
    assert counter.frame_count == 2, "both graphs are kept"


@pytest.mark.filterwarnings("ignore:.*functools.lru_cache.*")
@pytest.mark.parametrize("name", CACHED)
def test_decoding_with_a_cache_compiles_whole_and_equals_eager(name: str) -> None:
    part = next(key for key, part in load(name).parts() if isinstance(part, EncoderDecoder | DecoderOnly))
    config = load(name, [f"{part}.decoder.depth=1"])
    module = build(config)[part]
    decoder = module.decoder if isinstance(module, TextToTokens) else module
    assert isinstance(decoder, Decoder)
    *text, tokens = arguments(dict(config.parts())[part])
    cross = decoder.stack.project_context(module.encoder(*text)) if isinstance(module, TextToTokens) else ()
    caches = [Cache(decoder.stack.empty_cache(3, 11), cross) for _ in range(2)]
    function, counter = compiled(decoder)
    with torch.no_grad():
        for i in range(9):
            current = tokens[:, i : i + 1]
            found, expected = function(current, caches[0], i), decoder(current, caches[1], i)
            torch.testing.assert_close(found, expected, atol=FLOAT32, rtol=0)
    torch.testing.assert_close(caches[0].layers, caches[1].layers, atol=FLOAT32, rtol=0)
    assert counter.frame_count <= 3, "the first step, then one graph for any position"
