"""Three counts of FLOPs: what torch counts, what a model asks for, what kernels compute."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest

from minimodels import loader
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim import plots, views
from minimodels.sim.flops import executed_flops, model_flops, visible
from minimodels.sim.profile import Attention, Profile
from minimodels.sim.sentences import sentences
from minimodels.sim.simulate import simulate
from tests.sim.profiles import op

LONG = ("run.prompt_len=32768", "run.gen_len=2", "language_model.context_len=65536")
ROUNDING = 1.02  # the roofline puts points on a grid of 1 % of a decade


def facts(n: int, m: int, backend: str = "flash", causal: bool = True) -> Attention:
    return Attention(
        role="self", backend=backend, batch=2, query_length=n, key_length=m, heads=3, kv_heads=3, head_dim=5,
        causal=causal, bias=False,
    )  # fmt: skip


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 7), (3, 7), (7, 3), (5, 1)])
def test_visible_pairs_are_those_of_a_mask_that_aligns_the_last_query_with_the_last_key(n: int, m: int) -> None:
    pairs = sum(key <= query + m - n for query, key in product(range(n), range(m)))
    assert visible(facts(n, m)) * n * m == pairs
    assert visible(facts(n, m, causal=False)) == 1


def test_only_fused_attention_leaves_out_what_the_mask_hides() -> None:
    whole = 4 * 2 * 3 * 7 * 7 * 5
    fused, baseline, math = (
        op("s", "Attention", name, flops=whole, attention=facts(7, 7, backend))
        for name, backend in (("sdpa", "flash"), ("bmm", "baseline"), ("sdpa", "math"))
    )
    assert [model_flops(one) for one in (fused, baseline, math)] == [whole * 28 // 49] * 3
    assert [executed_flops(one) for one in (fused, baseline, math)] == [whole * 28 // 49, whole, whole]
    linear = op("s", "Linear", "linear", flops=whole)
    assert model_flops(linear) == executed_flops(linear) == whole
    assert model_flops(op("s", "Other", "qr", flops=None)) == 0


def busiest(profile: Profile) -> float:
    """The largest share of the device's peak that one execution of any operator reaches."""
    assert profile.device.peak_flops is not None
    times = ((one, one.device_seconds) for one in profile.ops)
    return max(float(executed_flops(one)) / seconds / profile.device.peak_flops for one, seconds in times if seconds)


@cache
def prompt(device: str, attention: str = "sdpa") -> Profile:
    """LLaMA-2-7B reading 32,768 tokens."""
    dtype = "bfloat16" if "bfloat16" in devices.load(device).datasheet.flops else "float16"
    return simulate(loader.load("llama2-7b", LONG), Run(device=device, attention=attention, dtype=dtype))  # type: ignore[arg-type]


RUNS = [  # published sizes on one device; make test-all has them on the others
    pytest.param(name, device, marks=() if device == "a100-80gb" or name.endswith("-tiny") else pytest.mark.slow)
    for name in loader.names()
    for device in ("a100-80gb", "h100-sxm", "mi300x")
]


@pytest.mark.parametrize(("name", "device"), RUNS)
def test_no_operator_of_any_architecture_exceeds_the_peak(name: str, device: str) -> None:
    found = simulate(loader.load(name), Run(device=device))
    assert 0 < busiest(found) < 1
    utilisation = views.mfu(found)
    assert utilisation is not None and 0 < utilisation < 1


@pytest.mark.parametrize("device", devices.names())
@pytest.mark.parametrize("attention", ["sdpa", "baseline"])
def test_a_long_prompt_does_not_exceed_the_peak(device: str, attention: str) -> None:
    found = prompt(device, attention)
    assert (0.35 if device == "t4" else 0.5) < busiest(found) < 1  # a T4's 70 W hold it to less than half of its peak
    utilisation = views.mfu(found)
    assert utilisation is not None and 0 < utilisation < 1


def test_float32_convolutions_are_held_against_the_peak_of_tf32() -> None:
    found = simulate(loader.load("stable-diffusion-1.5"), Run(dtype="float32", batch=4))
    assert found.device.peak_flops == devices.load("a100-80gb").datasheet.flops["tf32"]
    assert 0.5 < busiest(found) < 1
    llama = simulate(loader.load("llama-tiny"), Run(dtype="float32"))
    assert llama.device.peak_flops == devices.load("a100-80gb").datasheet.flops["float32"]


def test_utilisation_counts_what_the_model_asks_for_whatever_the_kernel_does() -> None:
    asked = [
        sum(one.weight * float(model_flops(one)) for one in prompt("a100-80gb", name).ops)
        for name in ("sdpa", "baseline")
    ]
    computed = [views.totals(prompt("a100-80gb", name).ops).executed_flops for name in ("sdpa", "baseline")]
    assert asked[0] == asked[1] == computed[0] < computed[1]
    assert views.totals(prompt("a100-80gb", "sdpa").ops).flops == computed[1]


def test_sentences_and_roofline_stay_below_the_peak() -> None:
    found = prompt("a100-80gb")
    (attention,) = [text for text in sentences(found) if "Attention in the prefill" in text]
    assert "281 TFLOP at" in attention  # 32768 (32768 + 1) / 2 pairs x 4 x 4096 x 32 layers
    assert int(attention.split("FLOP/s, ")[1].split(" %")[0]) < 100
    heights = plots.roofline([found]).axes[0].collections[0].get_offsets()
    assert found.device.peak_flops is not None
    assert max(y for _, y in heights) < ROUNDING * found.device.peak_flops  # type: ignore[union-attr]
