"""Attention by our kernels: which one takes a call, with what limits, and that models say the same with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels import loader
from minimodels.kernels import cross_attention, decode_attention
from minimodels.kernels.attention import attention, attention_rotated, attention_with_cache
from minimodels.kernels.backend import attention_backend
from minimodels.kernels.fused import rotate
from minimodels.kernels.launch import Launch, specialisation
from minimodels.kernels.operator import OPERATORS
from minimodels.run import Run, build
from minimodels.sim.measure import measure
from minimodels.sim.simulate import simulate


class Seen(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


CALLS = {
    "temporal_attention": ((2, 8, 16, 64), (2, 8, 16, 64), {}),
    "temporal_attention, causal": ((2, 3, 8, 16, 64), (2, 3, 8, 16, 64), {"causal": True}),
    "cross_attention": ((2, 8, 4096, 40), (2, 8, 77, 40), {}),
    "flash_attention, long": ((2, 8, 4096, 40), (2, 8, 4096, 40), {}),
    "flash_attention, bias": ((2, 8, 256, 64), (2, 8, 77, 64), {"bias": _meta(1, 8, 256, 77)}),
    "flash_attention, grouped keys": ((2, 8, 256, 64), (2, 2, 77, 64), {}),
    "flash_attention, many features": ((1, 8, 256, 256), (1, 8, 128, 256), {}),
    "flash_attention, three batch dimensions": (
        (2, 3, 5, 2, 256, 32), (2, 3, 5, 2, 256, 32), {"bias": _meta(3, 1, 2, 256, 256)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_reaches_the_kernel_made_for_it(name: str) -> None:
    q, k, options = CALLS[name]
    with attention_backend("triton!", "sm90"), Seen() as seen:
        out = attention(_meta(*q), _meta(*k), _meta(*k), **options)
    ours = [x.removeprefix("minimodels::") for x in seen.names if x.startswith("minimodels::")]
    assert ours == [name.partition(",")[0]]
    assert out.shape == q


@pytest.mark.parametrize(
    ("q", "said"),
    [
        (torch.empty(1, 1, 200, 512, device="meta", dtype=torch.bfloat16), "head_dim is at most 256, not 512"),
        (torch.empty(1, 1, 200, 64, device="meta", dtype=torch.float64), "not float64"),
    ],
)
def test_a_call_beyond_our_limits_names_the_limit_and_the_value(q: Tensor, said: str) -> None:
    with attention_backend("triton!", "sm90"), pytest.raises(ValueError, match=said):
        attention(q, q, q)


def test_features_that_do_not_lie_together_are_copied_in_the_open() -> None:
    q = _meta(2, 8, 64, 16).mT
    with attention_backend("triton!", "sm90"), Seen() as seen:
        attention(q, q, q)
    assert seen.names.count("aten::clone") == 3 and "minimodels::temporal_attention" in seen.names
    with pytest.raises(ValueError, match="beside each other"):
        OPERATORS["minimodels::flash_attention"].plan(q[None], q[None], q[None], None, False, 0.1)


@pytest.mark.parametrize("length", (24, 77))
def test_in_float32_only_tiles_that_do_not_spill_are_taken(length: int) -> None:
    q = torch.empty(1, 12, length, 64, device="meta")
    with attention_backend("triton!", "sm90"), Seen() as seen:
        attention(q, q, q)
    ours = [name for name in seen.names if name.startswith("minimodels::")]
    assert ours == ["minimodels::temporal_attention" if length == 24 else "minimodels::flash_attention"]


def test_nothing_to_attend_with_is_nothing() -> None:
    q, k = torch.empty(0, 2, 200, 16), torch.empty(0, 2, 77, 16)
    with attention_backend("triton"):
        assert attention(q, k, k).shape == q.shape


def test_a_mask_of_truth_values_and_a_full_cache_are_refused_by_every_backend() -> None:
    q, keys = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 9, 16)
    for backend in ("triton", "sdpa", "baseline"):
        with attention_backend(backend):
            with pytest.raises(ValueError, match="must be floats, not torch.bool"):
                attention(q, keys, keys, bias=torch.ones(1, 9, dtype=torch.bool))
            with pytest.raises(ValueError, match="a cache of 9 has no room for 1 more at 9"):
                attention_with_cache(q, q, q, keys, keys, 9)


@pytest.mark.parametrize("shape", [(2, 3, 5, 2, 150, 16), (2, 150, 16)])
def test_any_number_of_batch_dimensions_gives_what_torch_gives(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, *shape, dtype=torch.float64).float()
    bias = torch.randn(*shape[-3:-1], shape[-2])
    with attention_backend("triton"):
        found = attention(q, k, v, bias=bias, causal=True)
    with attention_backend("baseline"):
        torch.testing.assert_close(found, attention(q, k, v, bias=bias, causal=True))


@pytest.mark.parametrize(("n", "heads", "kv_heads"), [(1, 4, 2), (3, 4, 4), (70, 2, 2)])
def test_a_cache_is_appended_to_and_attended_to_as_by_torch(n: int, heads: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    pos, capacity, d = 9, 9 + n, 16
    q, (k, v) = torch.randn(2, heads, n, d), torch.randn(2, 2, kv_heads, n, d)
    filled = torch.randn(2, 2, kv_heads, capacity, d)
    results = []
    for backend in ("triton", "sdpa"):
        keys, values = filled.clone()
        with attention_backend(backend):
            results.append((attention_with_cache(q, k, v, keys, values, pos), keys, values))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_step_of_a_decoder_appends_and_attends_in_one_operator() -> None:
    profile = simulate(loader.load("llama-tiny"), Run(device="h100-sxm", attention="triton"))
    decode = [op for op in profile.ops if op.stage == "decode"]
    inside = [op.name for op in decode if op.scope.endswith("attention.self") or "core" in op.scope]
    assert "minimodels::decode_attention" in {op.name for op in decode}
    assert not {"aten::copy_", "aten::scaled_dot_product_attention"} & set(inside), inside
    theirs = simulate(loader.load("llama-tiny"), Run(device="h100-sxm", attention="sdpa"))
    assert sum(op.weight * (op.flops or 0) for op in profile.ops) == sum(
        op.weight * (op.flops or 0) for op in theirs.ops
    )


@pytest.mark.parametrize("name", ("make-a-video-tiny", "animatediff-tiny", "phenaki-tiny"))
def test_nothing_is_copied_between_the_projections_and_the_temporal_kernel(name: str) -> None:
    """Guidance runs two batches side by side: folding batch and positions into one dimension would copy."""
    profile = simulate(loader.load(name), Run(device="h100-sxm", attention="triton"))
    inside = [op for op in profile.ops if "attention.temporal" in op.scope]
    assert {op.name for op in inside} == {"linear", "minimodels::temporal_attention"}
    calls = [op for op in inside if op.attention]
    assert name == "phenaki-tiny" or any(op.shapes[0][0] == 2 for op in calls), "a batch of 2"


@pytest.mark.parametrize("name", ("llama-tiny", "parti-tiny", "muse-tiny", "phenaki-tiny", "imagen-tiny"))
def test_a_run_on_a_cpu_does_what_its_walk_says(name: str) -> None:
    run = Run(device="cpu", dtype="float32", attention="triton", warmup=1, repeats=1)
    profile = measure(loader.load(name), run)  # raises where they differ
    assert {op.attention.backend for op in profile.ops if op.attention} == {"reference"}


def test_a_decoder_says_the_same_with_our_attention() -> None:
    config = loader.load("llama-tiny")
    decoder: Any = build(config, "cpu")["language_model"]
    tokens = torch.arange(1, 12)[None] % 7
    results = []
    for backend in ("triton", "sdpa"):
        with torch.inference_mode(), attention_backend(backend):
            cache = decoder.empty_cache(1, 11)
            logits = [decoder(tokens[:, :7], cache, 0)] + [
                decoder(tokens[:, i : i + 1], cache, i) for i in range(7, 11)
            ]
            results.append(torch.cat(logits, 1))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)  # sums in another order, float32


def _launches(module: Any, *args: Any, target: str = "sm90") -> list[Launch]:
    with attention_backend("triton", target):
        return list(module.plan(*args)[1])


@pytest.mark.parametrize("target", ("sm80", "sm90", "gfx942"))
def test_the_keys_of_one_sequence_are_split_over_the_whole_gpu(target: str) -> None:
    new, cache = _meta(1, 32, 1, 128), _meta(1, 32, 4096, 128)
    launches = _launches(decode_attention, new, new, new, cache, cache, None, None, 4000, 0.1, target=target)
    units = {"sm80": 108, "sm90": 132, "gfx942": 304}[target]
    assert len(launches) == 2 and launches[0].grid[0] >= 4 * units


@pytest.mark.parametrize("kv_heads", (32, 8))
def test_a_growing_cache_compiles_no_kernel_anew(kv_heads: int) -> None:
    """One for a single share of the keys, one for several, and the one that joins them."""
    q, new, cache = _meta(1, 32, 1, 128), _meta(1, kv_heads, 1, 128), _meta(1, kv_heads, 4096, 128)
    found = {
        specialisation(launch)
        for pos in range(4095)
        for launch in _launches(decode_attention, q, new, new, cache, cache, None, None, pos, 0.1)
    }
    assert len(found) == 3


@pytest.mark.parametrize(
    ("queries", "head_dim", "dtype", "taken"),
    [
        (64, 96, torch.bfloat16, True), (64, 128, torch.bfloat16, False), (32, 192, torch.float16, True),
        (32, 256, torch.bfloat16, False), (16, 256, torch.bfloat16, True), (8, 128, torch.float32, True),
        (64, 64, torch.float32, False), (65, 64, torch.bfloat16, False),
    ],
)  # fmt: skip
def test_decoding_takes_the_queries_that_registers_hold(
    queries: int, head_dim: int, dtype: torch.dtype, taken: bool
) -> None:
    q, cache = (torch.empty(1, 2, n, head_dim, dtype=dtype, device="meta") for n in (queries, 300))
    with torch.inference_mode(), attention_backend("triton", "sm90"), Seen() as seen:
        attention_with_cache(q, q, q, cache, cache, 200)
    ours = [name for name in seen.names if name.startswith("minimodels::")]
    assert ours == ["minimodels::decode_attention" if taken else "minimodels::flash_attention"]


def test_rotated_keys_that_registers_do_not_hold_are_refused() -> None:
    rotate = OPERATORS["minimodels::temporal_attention"].plan
    for n, head_dim, taken in ((64, 128, True), (128, 64, True), (128, 128, False), (16, 160, False)):
        q, table = _meta(1, 3, 2, n, head_dim), _meta(n, head_dim)
        if taken:
            assert rotate(q, q, q, None, table, table, True, 0.1)[1]
        else:
            with pytest.raises(ValueError, match=f"at most 128 features, 8,192 in all; not {n} of {head_dim}"):
                rotate(q, q, q, None, table, table, True, 0.1)


def test_a_few_programs_share_the_keys_of_cross_attention() -> None:
    """Keys are read again by every program: as many blocks of queries go to one as leave no multiprocessor idle."""
    q, k = _meta(1, 64, 8, 4096, 40), _meta(1, 64, 8, 77, 40)
    blocks = 64 * 8 * 4096 // 64
    (launch,) = _launches(cross_attention, q, k, k, 0.1)
    assert 132 <= launch.grid[0] < blocks / 8


@pytest.mark.parametrize(("frames", "inside"), ((21, True), (200, False)))
@torch.no_grad()
def test_attention_over_frames_rotates_inside_the_kernel_where_they_are_few(frames: int, inside: bool) -> None:
    """As Wan with factorised attention does: projections (b, f, p, heads d), rotated by the frame."""
    torch.manual_seed(0)
    q, k, v = (rearrange(torch.randn(2, frames, 3, 2 * 16), "b f p (h d) -> b p h f d", d=16) for _ in range(3))
    cos, sin = torch.randn(frames + 1, 16), torch.randn(frames + 1, 16)
    expected = attention(*rotate(q, k, cos, sin, 0), v)
    with attention_backend("triton", "cpu"), Seen() as seen:
        found = attention_rotated(q, k, v, cos, sin)
    torch.testing.assert_close(found, expected)
    assert ("minimodels::temporal_attention" in seen.names) == inside
    assert ("aten::roll" in seen.names) == (not inside)


def test_the_temporal_layers_of_wan_rotate_inside() -> None:
    config = loader.load("wan-factorised")
    ops = simulate(config, Run(attention="triton", kernels="triton", device="h200")).ops
    calls = {where: sum(op.weight for op in ops if op.name == name and "temporal" in op.scope)
             for where, name in (("inside", "minimodels::temporal_attention"), ("before", "roll"))}  # fmt: skip
    assert calls["inside"] > 0 and calls["before"] == 0, calls
