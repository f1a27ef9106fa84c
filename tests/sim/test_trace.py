"""The walk: its FLOPs against torch's counter, its labels, its bytes alive, and that it leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import minimodels
from minimodels import loader
from minimodels.config import Architecture
from minimodels.kernels.backend import attention_backend
from minimodels.kernels.scope import KV_CACHE, STAGE, TRACER, AttentionCall, scope
from minimodels.loader import load
from minimodels.pipelines import example_input, generate
from minimodels.run import build
from minimodels.sim.call import Call
from minimodels.sim.formulas import operator
from minimodels.sim.trace import Walk
from minimodels.sim.traffic import tensors_in

ROUNDING = 512  # bytes, as the CUDA allocator rounds


class Ends:
    """A tracer under which loops run a step, growing ones their first and last, unweighted; labels go to `walk`."""

    clocks = False

    def __init__(self, walk: Walk | None = None) -> None:
        self.walk = walk

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        return nullcontext() if self.walk is None else self.walk.scope(kind, name, call)

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        return iter((0,) if growth == "constant" else sorted({0, n - 1}))


@contextmanager
def ends(walk: Walk | None = None) -> Iterator[None]:
    """Entered after the walk, which is a tracer itself."""
    token = TRACER.set(Ends(walk))
    try:
        yield
    finally:
        TRACER.reset(token)


def walk_ends(config: Architecture, parts: nn.ModuleDict, backend: str, **options: Any) -> Walk:
    """Walk `config` on meta, first and last steps only, for an A100."""
    tokens, walk = example_input(config, 1, "meta"), Walk(parts, **options)
    with attention_backend(backend, "sm80"), torch.inference_mode(), walk, ends(walk):
        walk.hold(tokens)
        generate(config, parts, tokens)
    return walk


BASELINE_TOO = ("llama-tiny", "parti-tiny", "parti-350m")
# Of the published sizes one of each kind that takes under 3 s: make test-all has the others
AT_SCALE = ("imagen", "ldm-1.45b", "llama2-7b", "muse-632m", "parti-350m", "phenaki-0.9b", "stable-diffusion-1.5")


def quick(name: str, backend: str) -> bool:
    return name in BASELINE_TOO or backend == "flash" and (name.endswith("-tiny") or name in AT_SCALE)


RUNS = [
    pytest.param(name, backend, marks=() if quick(name, backend) else pytest.mark.slow)
    for name in loader.names()
    for backend in ("flash", "baseline")
]


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_flops_equal_those_of_torch(name: str, backend: str) -> None:
    config = load(name)
    parts, tokens = build(config, "meta", torch.bfloat16), example_input(config, 1, "meta")
    calls = walk_ends(config, parts, backend).calls
    counter = FlopCounterMode(display=False)
    with attention_backend(backend, "sm80"), torch.inference_mode(), counter, ends():
        generate(config, parts, tokens)
    assert [call.name for call in calls if call.work.flops is None] == []
    assert sum(call.work.flops or 0 for call in calls) == counter.get_total_flops() > 0


class Listing(TorchDispatchMode):
    """Lists the operators of a real run, views left out: their names and the shapes of the tensors they take."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs, outputs = tensors_in((*args, *kwargs.values())), [out] if isinstance(out, Tensor) else tensors_in(out)
        storages = {x.untyped_storage()._cdata for x in inputs}
        if func._schema.is_mutable or not any(x.untyped_storage()._cdata in storages for x in outputs):
            self.operators.append((operator(func), tuple(tuple(x.shape) for x in inputs)))
        return out


@pytest.mark.parametrize("backend", ("baseline", "flash", "sdpa"))
@pytest.mark.parametrize("name", ("parti-tiny", "llama-tiny"))
def test_a_real_run_executes_the_walked_operators(name: str, backend: str) -> None:
    config = load(name)
    parts, tokens = build(config, "meta"), example_input(config, 2, "meta")
    walk = Walk(parts, full=True)
    with attention_backend(backend, "cpu"), torch.inference_mode(), walk:
        generate(config, parts, tokens)
    parts, tokens, listing = build(config, "cpu"), example_input(config, 2, "cpu"), Listing()
    with attention_backend(backend), torch.inference_mode(), listing:
        generate(config, parts, tokens)
    assert listing.operators == [(call.name, call.shapes) for call in walk.calls]


@pytest.mark.parametrize("backend", ("baseline", "flash"))
@pytest.mark.parametrize("name", ("parti-tiny", "llama-tiny"))
def test_remembered_results_record_the_same_calls(name: str, backend: str) -> None:
    config = load(name)
    parts = build(config, "meta", torch.bfloat16)
    with_memory, without = (walk_ends(config, parts, backend, memoise=memoise) for memoise in (True, False))
    assert len(with_memory.calls) == len(without.calls) > 100
    for a, b in zip(with_memory.calls, without.calls, strict=True):
        assert [(field.name, getattr(a, field.name)) for field in fields(Call)] == [
            (field.name, getattr(b, field.name)) for field in fields(Call)
        ]
    assert with_memory.storages.cache_peak == without.storages.cache_peak > 0


@pytest.fixture
def own_operator() -> Iterator[Any]:
    """An operator of a namespace of its own that nobody wrote a formula for."""
    library = torch.library.Library("minimodels_test", "DEF")
    library.define("mystery(Tensor x) -> Tensor")
    library.impl("mystery", lambda x: x.new_empty(x.shape[0]), "Meta")
    yield torch.ops.minimodels_test.mystery
    library._destroy()


def test_an_operator_without_formula_is_unmodelled_not_free(own_operator: Any) -> None:
    x = torch.empty(5, 3, device="meta")
    walk = Walk()
    with torch.inference_mode(), walk:
        own_operator(x)
        torch.linalg.qr(x)
        torch.tanh(x)
    own, qr, tanh = walk.calls
    assert own.name == "minimodels_test::mystery" and own.category == qr.category == "Other"
    assert own.work.flops is None and (own.work.bytes_read, own.work.bytes_written) == (60, 20)
    assert qr.work.flops is None and (qr.work.bytes_read, qr.work.bytes_written) == (60, 60 + 36)
    assert tanh.category == "Elementwise" and tanh.work.flops == 0, "known by its tag"


def only(calls: list[Call], **facts: Any) -> Call:
    """The one kind of call with these facts: all that match agree in everything else asked of them."""
    found = [call for call in calls if all(getattr(call, key) == value for key, value in facts.items())]
    assert found, facts
    assert len({(call.category, call.module, call.role, call.scope) for call in found}) == 1, facts
    return found[0]


def test_calls_say_where_and_what_they_are() -> None:
    config = load("parti-tiny")
    calls = walk_ends(config, build(config, "meta"), "baseline").calls
    assert list(dict.fromkeys(call.stage for call in calls)) == [
        "text_encoder", "decode", "detokenize", "super_resolution",
    ]  # fmt: skip

    for role in ("self", "cross"):
        core = f"attention.{role}/core.baseline"
        in_core = [call for call in calls if call.stage == "decode" and call.scope == core]
        assert {call.name for call in in_core} >= {"bmm", "softmax", "mul"}
        assert {call.role for call in in_core} == {role} and {call.module for call in in_core} == {"attention"}
        assert all(call.attention is not None and call.attention.backend == "baseline" for call in in_core)
        for name in ("bmm", "softmax", "mul"):
            assert only(in_core, name=name).category == "Attention", "compute of the core"
        projection = only(calls, stage="decode", scope=f"attention.{role}", name="linear")
        assert (projection.category, projection.module) == ("Linear", "attention")
        assert projection.role is None and projection.attention is None, "outside the core"
    assert only(calls, stage="decode", scope="attention.self", name="copy_").category == "Memory", "into the cache"
    matrix = only(calls, stage="decode", scope="feed_forward", name="linear")
    assert (matrix.category, matrix.module, matrix.role) == ("Linear", "feed_forward", None)
    assert only(calls, stage="decode", name="relu").category == "Elementwise"
    assert only(calls, stage="decode", name="layer_norm").category == "Norm"
    assert only(calls, stage="decode", name="embedding").category == "Embedding"
    head = [call for call in calls if call.stage == "decode" and call.scope == "" and call.name == "linear"]
    assert {call.shapes for call in head} == {((2, 1, 48), (37, 48))} and {call.category for call in head} == {"Linear"}
    sampling = [call for call in calls if call.scope == "" and call.name == "softmax"]
    assert {call.category for call in sampling} == {"Elementwise"}, "a softmax outside attention is its own"
    inner = only(calls, stage="super_resolution", scope="res_block", name="conv2d")
    assert (inner.category, inner.module) == ("Convolution", "res_block")
    assert only(calls, stage="super_resolution", scope="", name="conv2d").module is None


def test_fused_attention_is_one_call_that_knows_its_facts() -> None:
    config = load("llama-tiny")
    calls = walk_ends(config, build(config, "meta", torch.bfloat16), "flash").calls
    first = next(call for call in calls if call.name == "scaled_dot_product_attention")
    assert (first.stage, first.scope) == ("prefill", "attention.self/core.flash")
    assert (first.category, first.module, first.role) == ("Attention", "attention", "self")
    assert first.attention == AttentionCall("flash", 1, 7, 7, 6, 2, 8, True, False)
    decode = [call.attention for call in calls if call.stage == "decode" and call.attention is not None]
    assert {(call.query_length, call.key_length) for call in decode} == {(1, 8), (1, 17)}, "first and last step"


def test_weights_are_counted_where_they_are_used() -> None:
    config = load("parti-tiny")
    walk = walk_ends(config, build(config, "meta"), "flash")
    networks = {stage: {".".join(name.split(".")[:2]) for name in used} for stage, used in walk.weight_use.items()}
    networks |= {
        stage: {name.split(".")[0] for name in networks[stage]} for stage in ("detokenize", "super_resolution")
    }
    assert networks == {
        "text_encoder": {"transformer.encoder"},
        "decode": {"transformer.decoder"},
        "detokenize": {"detokenizer"},
        "super_resolution": {"super_resolution"},
    }


@pytest.mark.parametrize("backend", ("baseline", "flash", "efficient"))
@pytest.mark.parametrize("name", ("parti-tiny", "llama-tiny", "parti-350m"))
def test_live_bytes_return_to_the_held_inputs(name: str, backend: str) -> None:
    config = load(name)
    parts, tokens = build(config, "meta", torch.bfloat16), example_input(config, 1, "meta")
    walk = Walk(parts)
    with attention_backend(backend, "sm80"), torch.inference_mode(), walk, ends(walk):
        walk.hold(tokens)
        out = generate(config, parts, tokens)
    held = rounded(tokens)
    assert walk.storages.live == held + rounded(out), "the result is alive"
    del out
    assert walk.storages.live == held and walk.storages.cache == 0
    assert max(call.live for call in walk.calls) > 2 * held


def rounded(x: Tensor) -> int:
    """Bytes that the allocator takes for x."""
    return -(-x.numel() * x.element_size() // ROUNDING) * ROUNDING


def test_the_cache_holds_keys_and_values_of_every_layer() -> None:
    config = load("llama2-7b")
    walk = walk_ends(config, build(config, "meta", torch.bfloat16), "flash")
    layers, heads, capacity, head_dim = 32, 32, 2048 + 128, 128
    assert walk.storages.cache_peak == 2 * layers * heads * capacity * head_dim * 2


def live(walk: Walk) -> list[tuple[str, int]]:
    return [(call.name, call.live) for call in walk.calls]


def test_storages_live_from_their_birth_to_their_last_owner() -> None:
    def float32(n: int) -> Tensor:
        return torch.empty(n, device="meta")

    x, block = float32(1000), 4096  # 4000 bytes, rounded
    walk = Walk()
    with torch.inference_mode(), walk:
        walk.hold(x)
        a = x + 1  # x a
        b = a * 2  # x a b
        del a
        b.mul_(3)  # x b: nothing new
        view = b[7:17]
        del b
        c = view + 1  # x b c: the view keeps b
        del view
        d = torch.cat([c, c, c])  # x c d
        d = d * 2  # x c d d': the old d lives until the new one is bound
        c, d = d, c  # nothing
        del d
        c = x.reshape(10, 100) * c.new_zeros(100)  # x d' zeros, x d' zeros c
    del c
    assert live(walk) == [
        ("add", 2 * block),
        ("mul", 3 * block),
        ("mul_", 2 * block),
        ("add", 2 * block + 512),
        ("cat", block + 2 * 512),
        ("mul", block + 3 * 512),
        ("new_zeros", block + 2 * 512),
        ("mul", 2 * block + 2 * 512),
    ]
    assert walk.storages.live == block


def test_weights_are_not_counted_as_alive() -> None:
    parts = nn.ModuleDict({"layer": nn.Linear(100, 60, device="meta")})
    x, walk = torch.empty(5, 100, device="meta"), Walk(parts)
    with torch.inference_mode(), walk, scope(STAGE, "only"):
        parts["layer"](x)
    (linear,) = walk.calls
    assert linear.live == 2048 + 1536, "x, 2000 bytes, and the result, 1200 bytes"
    assert walk.weight_use == {"only": {"layer.weight", "layer.bias"}}
    assert linear.reads[0] > 0 > max(linear.reads[1:]), "weights have negative numbers"


def test_the_cache_is_what_its_scope_makes() -> None:
    walk = Walk()
    with torch.inference_mode(), walk:
        with scope(KV_CACHE):
            first = torch.zeros(1000, device="meta")
        second = torch.zeros(300, device="meta")
        assert walk.storages.cache == 4096 and walk.storages.live == 4096 + 1536
        del first
        with scope(KV_CACHE):
            third = torch.zeros(200, device="meta")
        del second
        assert walk.storages.cache == walk.storages.live == 1024
        del third
    assert walk.storages.cache_peak == 4096 and walk.storages.cache == walk.storages.live == 0


def test_a_failed_walk_leaves_nothing_behind() -> None:
    x = torch.empty(3, device="meta")
    with pytest.raises(ZeroDivisionError), torch.inference_mode(), Walk() as walk:
        _ = x + 1
        raise ZeroDivisionError
    _ = x + 1
    assert len(walk.calls) == 1 and TRACER.get() is None
    assert isinstance(scope("attention", "self"), nullcontext)


FRESH = """
import sys
from minimodels import build, load
from minimodels.kernels.backend import attention_backend
from minimodels.pipelines import example_input, generate
from minimodels.sim.trace import Walk
from minimodels.sim.traffic import tensors_in
import torch

for backend in ("baseline", "flash", "efficient"):
    for name in ("parti-tiny", "llama-tiny"):
        config = load(name)
        parts, walk = build(config, "meta", torch.bfloat16), Walk()
        with attention_backend(backend, "sm80"), torch.inference_mode(), walk:
            generate(config, parts, example_input(config, 1, "meta"))
        assert len(walk.calls) > 100
assert "torch._dynamo" not in sys.modules, "a walk imported Dynamo"

def softened(x):
    return torch.softmax(torch.nn.functional.layer_norm(x, (5,)), -1).sum()

x = torch.randn(3, 5)
found = torch.compile(softened, fullgraph=True, backend="aot_eager")(x)
torch.testing.assert_close(found, softened(x))
import torch._dynamo
assert torch._dynamo.__spec__ is not None and sys.modules["torch._dynamo"] is torch._dynamo
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
print("compiled")
"""


def test_a_walk_never_imports_dynamo_and_compiling_still_works() -> None:
    root = Path(minimodels.__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    result = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, env=environment, timeout=120)
    assert result.stdout.strip() == "compiled" and result.returncode == 0, result.stderr
