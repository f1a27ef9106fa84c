"""attention(): every backend against the definition, the limits of pinned backends, and which kernel runs where."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.kernels.attention import attention
from minimodels.kernels.backend import attention_backend, choice
from minimodels.kernels.scope import AttentionCall
from minimodels.sim.trace import Walk


class Masks(TorchDispatchMode):
    """The dtypes of the masks that torch's attention is given."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.scaled_dot_product_attention.default:
            self.dtypes.append((args[3] if len(args) > 3 else kwargs["attn_mask"]).dtype)
        return func(*args, **(kwargs or {}))


class Case(NamedTuple):
    """Sizes of one call; `bias` is the shape of the bias, `scale` None for 1 / sqrt(d)."""

    batch: tuple[int, ...] = (2,)
    heads: int = 3
    kv_heads: int = 3
    n: int = 5
    m: int = 7
    d: int = 6
    causal: bool = False
    bias: tuple[int, ...] | None = None
    scale: float | None = None


CASES = {
    "plain": Case(),
    "one query": Case(n=1),
    "one query, causal": Case(n=1, causal=True),
    "one query, one key, causal": Case(n=1, m=1, causal=True),
    "odd head_dim": Case(d=5),
    "head_dim of the VAE": Case(heads=1, kv_heads=1, d=512),
    "square causal": Case(n=7, causal=True),
    "fewer queries than keys, causal": Case(n=3, m=11, causal=True),
    "long rows": Case(n=67, m=131, causal=True),
    "grouped": Case(heads=6, kv_heads=2),
    "grouped, causal": Case(heads=6, kv_heads=2, n=4, m=9, causal=True),
    "one key head": Case(heads=5, kv_heads=1, n=1),
    "no batch dimension": Case(batch=()),
    "no batch dimension, grouped, causal": Case(batch=(), heads=6, kv_heads=3, causal=True),
    "two batch dimensions": Case(batch=(2, 3)),
    "two batch dimensions, causal": Case(batch=(2, 3), n=7, causal=True),
    "three batch dimensions, grouped": Case(batch=(2, 1, 3), heads=4, kv_heads=2, n=3, m=5, causal=True),
    "scale": Case(scale=0.37),
    "scale one": Case(scale=1.0, causal=True),
    "bias of positions": Case(bias=(5, 7)),
    "bias of keys": Case(bias=(7,)),
    "bias of heads": Case(bias=(3, 5, 7)),
    "bias of one batch": Case(bias=(1, 3, 5, 7)),
    "bias of every batch": Case(bias=(2, 3, 5, 7)),
    "bias that masks keys": Case(bias=(2, 1, 1, 7)),
    "bias, causal": Case(bias=(1, 3, 5, 7), causal=True),
    "bias of keys, causal": Case(bias=(2, 1, 1, 7), causal=True),
    "bias, square causal": Case(n=7, bias=(1, 3, 7, 7), causal=True),
    "bias, scale": Case(bias=(1, 3, 5, 7), scale=1.0),
    "bias of heads, two batch dimensions": Case(batch=(2, 3), bias=(3, 5, 7)),
    "bias of one batch, two batch dimensions": Case(batch=(2, 3), bias=(2, 1, 3, 5, 7)),
    "bias of positions, two batch dimensions": Case(batch=(2, 3), bias=(5, 7), causal=True),
    "bias, no batch dimension": Case(batch=(), bias=(3, 5, 7)),
    "bias, grouped": Case(heads=6, kv_heads=2, bias=(1, 6, 5, 7)),
    "one query with bias": Case(n=1, bias=(1, 3, 1, 7)),
}
ON_CPU = ("sdpa", "baseline", "flash")  # the others need a GPU

# Round-off of a softmax and two products of up to 512 terms; bfloat16 rounds scores, weights and result, 2**-8 each.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 5e-2}


def draw(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Contiguous q, k, v and bias of a case."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    q = normal(*case.batch, case.heads, case.n, case.d)
    k = normal(*case.batch, case.kv_heads, case.m, case.d)
    v = normal(*case.batch, case.kv_heads, case.m, case.d)
    return q, k, v, None if case.bias is None else normal(*case.bias)


def projected(x: Tensor) -> Tensor:
    """The same numbers with the strides of a projection split into heads: (*batch, n, heads * d) underneath."""
    return rearrange(rearrange(x, "... heads n d -> ... n heads d").contiguous(), "... n heads d -> ... heads n d")


def reference(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The definition in float64, with the weights of every query written out."""
    q, k, v = q.double(), k.double(), v.double()
    n, m, d = q.shape[-2], k.shape[-2], q.shape[-1]
    groups = q.shape[-3] // k.shape[-3]
    k, v = (repeat(x, "... kv_heads m d -> ... (kv_heads groups) m d", groups=groups) for x in (k, v))
    scores = torch.einsum("...nd,...md->...nm", q, k) * (d**-0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.double()
    rows = []
    for i in range(n):
        seen = m - n + i + 1 if causal else m
        weights = torch.exp(scores[..., i, :seen] - scores[..., i, :seen].amax(-1, keepdim=True))
        weights = weights / weights.sum(-1, keepdim=True)
        rows.append(torch.einsum("...m,...md->...d", weights, v[..., :seen, :]))
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize("strided", (False, True), ids=("contiguous", "strided"))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_backend_equals_the_definition(case: Case, backend: str, dtype: torch.dtype, strided: bool) -> None:
    q, k, v, bias = draw(case, dtype)
    expected = reference(q, k, v, case.causal, bias, case.scale)
    if strided:
        q, k, v = map(projected, (q, k, v))
    with attention_backend(backend):
        out = attention(q, k, v, causal=case.causal, bias=bias, scale=case.scale)
    assert out.shape == q.shape and out.dtype == dtype
    assert (out.double() - expected).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("causal", (False, True))
def test_a_float32_bias_of_half_precision_queries_is_added(backend: str, causal: bool) -> None:
    q, k, v, _ = draw(Case(), torch.bfloat16)
    bias = draw(Case(bias=(3, 5, 7)), torch.float32)[3]
    with attention_backend(backend):
        out = attention(q, k, v, causal=causal, bias=bias)
    assert out.dtype == q.dtype
    assert (out.double() - reference(q, k, v, causal, bias)).abs().max() <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(("backend", "target"), [("flash", "sm90"), ("sdpa", "sm80"), ("cudnn!", "sm90")])
@pytest.mark.parametrize("causal", (False, True))
def test_torchs_kernels_on_a_gpu_are_given_a_bias_of_the_queries_type(backend: str, target: str, causal: bool) -> None:
    """efficient raises at another one, cuDNN reads it as if it were of theirs (pytorch/pytorch#191612)."""
    q, bias = (torch.empty(2, 3, 8, 8, dtype=kind, device="meta") for kind in (torch.bfloat16, torch.float32))
    masks = Masks()
    with attention_backend(backend, target), torch.inference_mode(), masks:
        attention(q, q, q, causal=causal, bias=bias)
    assert masks.dtypes == [torch.bfloat16]


@pytest.mark.parametrize("backend", ON_CPU)
def test_integers_are_not_attended(backend: str) -> None:
    q = torch.ones(2, 3, 5, 16, dtype=torch.int64)
    with attention_backend(backend), pytest.raises(ValueError, match="are floats, not torch.int64"):
        attention(q, q, q)


@pytest.mark.parametrize("backend", ON_CPU)
def test_temporal_attention_takes_strides_of_video_features(backend: str) -> None:
    """(b, f, h*w, heads*d) features, attended along f: five dimensions, none of them in order."""
    x = torch.randn(2, 5, 9, 3 * 4, generator=torch.Generator().manual_seed(1))
    q, k, v = (rearrange(x * s, "b f p (heads d) -> b p heads f d", heads=3) for s in (1.0, 0.5, -2.0))
    assert not q.is_contiguous()
    with attention_backend(backend):
        out = attention(q, k, v)
    # float32 round-off of sums of five terms of order one
    torch.testing.assert_close(out.double(), reference(q, k, v), atol=5e-6, rtol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_arguments_are_left_as_they_were(backend: str) -> None:
    q, k, v, bias = draw(Case(batch=(2, 3), n=7, bias=(2, 1, 3, 7, 7)), torch.float32)
    assert bias is not None
    before = [x.clone() for x in (q, k, v, bias)]
    with attention_backend(backend):
        attention(q, k, v, causal=True, bias=bias)
    assert all(torch.equal(x, y) for x, y in zip((q, k, v, bias), before, strict=True))


@pytest.mark.parametrize("backend", ON_CPU)
def test_causal_aligns_the_last_query_with_the_last_key(backend: str) -> None:
    """Query i of n sees keys 0 to m - n + i: no later key has an influence, the last one it may see has."""
    n, m = 3, 8
    q, k, v, _ = draw(Case(n=n, m=m), torch.float64)
    with attention_backend(backend):
        before = attention(q, k, v, causal=True)
        for key in range(m):
            changed = v.clone()
            changed[..., key, :] += 1
            differs = (attention(q, k, changed, causal=True) != before).any(-1)
            for i in range(n):
                assert bool(differs[..., i].all()) == bool(differs[..., i].any()) == (key <= m - n + i), (i, key)


def on_meta(case: Case, backend: str, target: str, dtype: torch.dtype = torch.bfloat16) -> AttentionCall:
    """What a walk records of one call for a target that is not here."""
    q = torch.empty(*case.batch, case.heads, case.n, case.d, dtype=dtype, device="meta")
    k = torch.empty(*case.batch, case.kv_heads, case.m, case.d, dtype=dtype, device="meta")
    bias = None if case.bias is None else torch.empty(case.bias, dtype=dtype, device="meta")
    walk = Walk()
    with attention_backend(backend, target), torch.inference_mode(), walk:
        out = attention(q, k, k, causal=case.causal, bias=bias, scale=case.scale)
    assert out.shape == q.shape
    calls = {call.attention for call in walk.calls}
    assert len(calls) == 1, "every operator of one attention carries the same facts"
    (call,) = calls
    assert call is not None
    return call


GRID = Case(batch=(65_536,), heads=1, kv_heads=1, d=32)


@pytest.mark.parametrize(
    ("backend", "target", "case", "dtype", "limit"),
    (
        ("flash!", "sm80", Case(d=512), torch.bfloat16, "head_dim is at most 256, not 512"),
        ("flash!", "sm80", Case(bias=(5, 7), d=64), torch.bfloat16, "takes no bias"),
        ("flash!", "sm80", Case(d=64), torch.float32, "needs float16 or bfloat16, not float32"),
        ("flash!", "sm80", GRID, torch.bfloat16, "at most 65,535, not 65,536 and 1"),
        ("flash!", "sm80", GRID._replace(batch=(256, 256)), torch.bfloat16, "at most 65,535, not 65,536 and 1"),
        ("flash!", "sm80", Case(heads=65_536, kv_heads=1, d=32), torch.bfloat16, "at most 65,535, not 2 and 65,536"),
        ("flash!", "sm80", Case(d=64, causal=True), torch.bfloat16, "as many queries as keys, not 5 and 7"),
        ("flash!", "sm75", Case(d=64), torch.float16, "needs sm80 or newer, not sm75"),
        ("cudnn!", "sm90", Case(d=160), torch.bfloat16, "head_dim is a multiple of 8 up to 128, not 160"),
        ("cudnn!", "sm90", Case(d=36), torch.bfloat16, "head_dim is a multiple of 8 up to 128, not 36"),
        ("cudnn!", "sm90", Case(d=64), torch.float32, "needs float16 or bfloat16, not float32"),
        ("cudnn!", "sm90", Case(d=64, m=1), torch.bfloat16, "needs more than one key"),
        ("cudnn!", "sm90", GRID, torch.bfloat16, "at most 65,535, not 65,536 and 1"),
        ("cudnn!", "gfx942", Case(d=64), torch.bfloat16, "needs an NVIDIA GPU, not gfx942"),
        ("efficient!", "sm80", Case(d=6), torch.bfloat16, "head_dim is a multiple of 8 in bfloat16, not 6"),
        ("efficient!", "sm80", Case(d=6), torch.float32, "head_dim is a multiple of 4 in float32, not 6"),
        ("efficient!", "sm80", Case(d=8), torch.float64, "needs float16, bfloat16 or float32, not float64"),
    ),
)
def test_a_pinned_backend_that_cannot_names_the_limit_and_the_value(
    backend: str, target: str, case: Case, dtype: torch.dtype, limit: str
) -> None:
    with pytest.raises(ValueError) as error:
        on_meta(case, backend, target, dtype)
    assert f"attention backend {backend!r} cannot do this call" in str(error.value)
    assert limit in str(error.value)


@pytest.mark.parametrize(
    ("backend", "case", "limit"),
    (
        ("efficient!", Case(), "needs a GPU"),
        ("cudnn!", Case(), "needs an NVIDIA GPU, not cpu"),
        ("flash!", Case(heads=6, kv_heads=2), "grouped keys are not supported on a CPU"),
    ),
)
def test_a_pinned_backend_that_cannot_run_on_a_cpu_says_so(backend: str, case: Case, limit: str) -> None:
    q, k, v, bias = draw(case, torch.float32)
    with attention_backend(backend), pytest.raises(ValueError, match=limit):
        attention(q, k, v, causal=case.causal, bias=bias)


def test_a_pinned_backend_that_can_runs() -> None:
    q, k, v, _ = draw(Case(), torch.float32)
    with attention_backend("flash!"):
        torch.testing.assert_close(attention(q, k, v).double(), reference(q, k, v), atol=5e-6, rtol=0)
    at_the_limit = GRID._replace(batch=(65_535,))
    assert on_meta(at_the_limit, "flash!", "sm80").backend == "flash"
    assert on_meta(Case(d=256), "flash!", "sm80").backend == "flash"
    assert on_meta(Case(d=128), "cudnn!", "sm90").backend == "cudnn"
    assert on_meta(Case(d=512), "efficient!", "sm80").backend == "efficient"
    assert on_meta(GRID, "efficient!", "sm80").backend == "efficient"


@pytest.mark.parametrize(
    "case",
    (Case(d=512), Case(d=64, bias=(5, 7)), Case(d=64, causal=True), GRID),
    ids=("head_dim", "bias", "causal n < m", "grid"),
)
def test_flash_as_a_policy_falls_to_efficient_and_says_so(case: Case) -> None:
    assert on_meta(case, "flash", "sm80").backend == "efficient"


def test_flash_as_a_policy_takes_flash_where_it_can() -> None:
    assert on_meta(Case(d=64), "flash", "sm80").backend == "flash"
    assert on_meta(Case(d=64, n=7, causal=True), "flash", "sm80").backend == "flash"
    assert on_meta(Case(d=64, n=1, causal=True), "flash", "sm80").backend == "flash", "one query needs no mask"
    assert on_meta(Case(d=64, heads=6, kv_heads=2), "flash", "sm80").backend == "flash"


def test_float32_under_the_flash_policy_is_efficient() -> None:
    assert on_meta(Case(d=64), "flash", "sm80", torch.float32).backend == "efficient"


@pytest.mark.parametrize(
    ("target", "case", "dtype", "kernel"),
    (
        ("sm80", Case(d=64), torch.bfloat16, "flash"),
        ("sm89", Case(d=64), torch.bfloat16, "flash"),
        ("sm90", Case(d=64), torch.bfloat16, "cudnn"),
        ("sm100", Case(d=64), torch.bfloat16, "cudnn"),
        ("sm90", Case(d=256), torch.bfloat16, "flash"),
        ("sm90", Case(d=64, m=1), torch.bfloat16, "flash"),
        ("gfx942", Case(d=64), torch.bfloat16, "flash"),
        ("sm80", Case(d=64, bias=(5, 7)), torch.bfloat16, "efficient"),
        ("sm80", Case(d=64), torch.float32, "efficient"),
        ("sm80", Case(d=512), torch.bfloat16, "efficient"),
        ("sm80", Case(d=6), torch.float32, "math"),
        ("cpu", Case(d=64), torch.float32, "flash"),
        ("cpu", Case(heads=6, kv_heads=2), torch.float32, "math"),
    ),
)
def test_sdpa_takes_the_kernel_that_torch_prefers_on_that_gpu(
    target: str, case: Case, dtype: torch.dtype, kernel: str
) -> None:
    assert on_meta(case, "sdpa", target, dtype).backend == kernel


def test_the_record_of_a_call_holds_its_facts() -> None:
    call = on_meta(Case(batch=(2, 3), heads=6, kv_heads=2, n=4, m=9, d=64, causal=True), "baseline", "sm80")
    assert call == AttentionCall("baseline", 6, 4, 9, 6, 2, 64, True, False)
    call = on_meta(Case(d=64, bias=(5, 7)), "flash", "sm80")
    assert call == AttentionCall("efficient", 2, 5, 7, 3, 3, 64, False, True)


def test_the_backend_is_restored_after_an_exception() -> None:
    before = choice()
    with pytest.raises(ZeroDivisionError), attention_backend("baseline"), attention_backend("efficient!", "sm90"):
        assert choice().attention == "efficient!" and choice().target == "sm90"
        raise ZeroDivisionError
    assert choice() is before
    q, k, v, _ = draw(Case(), torch.float32)
    assert attention(q, k, v).shape == q.shape, "efficient! would raise on a CPU"


def test_nested_backends_are_left_in_order() -> None:
    with attention_backend("baseline"):
        with attention_backend("flash"):
            assert choice().attention == "flash"
        assert choice().attention == "baseline"


def test_an_unknown_backend_lists_the_known_ones() -> None:
    before = choice()
    message = "unknown attention backend 'flsh'; allowed: sdpa, baseline, flash"
    with pytest.raises(ValueError, match=message), attention_backend("flsh"):
        pass
    assert choice() is before


@pytest.mark.parametrize("backend", ("baseline", "sdpa"))
@pytest.mark.parametrize(
    ("q", "k", "v", "causal", "message"),
    (
        ((1, 2, 5, 8), (1, 2, 3, 8), (1, 2, 3, 8), True, "a key for every query, not 5 queries and 3 keys"),
        ((1, 5, 3, 8), (1, 2, 3, 8), (1, 2, 3, 8), False, "multiple of kv_heads, not 5 and 2"),
        ((1, 2, 3, 8), (1, 2, 3, 8), (1, 2, 3, 6), False, "keys and values have one shape"),
        ((1, 2, 3, 8), (1, 2, 3, 6), (1, 2, 3, 6), False, "same batch and head_dim"),
        ((1, 2, 3, 8), (2, 2, 3, 8), (2, 2, 3, 8), False, "same batch and head_dim"),
    ),
)
def test_shapes_that_do_not_fit_are_named(
    backend: str, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], causal: bool, message: str
) -> None:
    with attention_backend(backend), pytest.raises(ValueError, match=message):
        attention(torch.randn(q), torch.randn(k), torch.randn(v), causal=causal)
