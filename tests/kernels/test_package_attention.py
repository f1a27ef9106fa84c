"""The attention backend `flash-attn`: a package, here a fake one that computes in plain torch; predicted as flash."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minimodels import loader
from minimodels.kernels.attention import attention
from minimodels.kernels.backend import attention_backend, choice
from minimodels.kernels.package_attention import flash_attn
from minimodels.run import Run
from minimodels.sim import views
from minimodels.sim.simulate import simulate
from minimodels.sim.trace import Walk
from tests.kernels.fake_packages import Install


def _heads(*batch: int, n: int, heads: int, d: int = 24) -> Tensor:
    """(*batch, heads, n, d) as a view of a projection."""
    return torch.randn(*batch, n, heads * d).half().unflatten(-1, (heads, d)).transpose(-3, -2)


def _walked(q: Tensor, k: Tensor, target: str = "sm80", causal: bool = False, bias: Tensor | None = None) -> Walk:
    walk = Walk()
    with attention_backend("flash-attn", target), torch.inference_mode(), walk:
        assert attention(q, k, k, causal=causal, bias=bias).shape == q.shape
    return walk


def _meta(n: int = 5, m: int = 7, d: int = 64, batch: int = 2, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    return [torch.empty(batch, 3, length, d, dtype=dtype, device="meta") for length in (n, m)]


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [3, 1])
def test_the_package_attends_as_the_definition(causal: bool, kv_heads: int, install: Install) -> None:
    install()
    q, k, v = _heads(2, n=5, heads=3), _heads(2, n=7, heads=kv_heads), _heads(2, n=7, heads=kv_heads)
    found = flash_attn(q, k, v, causal, 0.2)
    with attention_backend("baseline"):
        expected = attention(*(x.double() for x in (q, k, v)), causal=causal, scale=0.2)
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=0)  # float16 rounds values of order one
    assert found.stride() == q.stride(), "it goes out to the next projection without a copy"


def test_torch_knows_the_operator(install: Install) -> None:
    install()
    q, k = _heads(2, n=5, heads=3), _heads(2, n=7, heads=3)
    torch.library.opcheck(flash_attn, (q, k, k, True, 0.2))

    def twice(q: Tensor, k: Tensor) -> Tensor:
        return flash_attn(flash_attn(q, k, k, True, 0.2), k, k, False, 0.2)

    with torch.no_grad():
        compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")(q, k)
        assert torch.equal(compiled, twice(q, k))
    with pytest.raises(RuntimeError, match="flash_attn has no gradient"):
        flash_attn(q.requires_grad_(), k, k, True, 0.2)


def test_a_package_that_is_not_installed_is_named_before_anything_runs() -> None:
    before = choice()
    said = "needs the package flash-attn, which is not installed"
    with pytest.raises(ValueError, match=said), attention_backend("flash-attn"):
        raise AssertionError("entered")
    assert choice() is before
    q, k = _heads(2, n=5, heads=3), _heads(2, n=7, heads=3)
    with torch.no_grad(), pytest.raises(ValueError, match="the package flash-attn is not installed .*flash_attn"):
        flash_attn(q, k, k, True, 0.2)


def test_on_a_cpu_it_says_that_it_needs_a_gpu(install: Install) -> None:
    install()
    q, k = _heads(2, n=5, heads=3), _heads(2, n=7, heads=3)
    with attention_backend("flash-attn"), pytest.raises(ValueError, match="flash-attn: needs a GPU"):
        attention(q, k, k)


@pytest.mark.parametrize(
    ("given", "target", "limit"),
    [
        (_meta(d=512), "sm80", "head_dim is a multiple of 8 up to 256, not 512"),
        (_meta(d=20), "sm80", "head_dim is a multiple of 8 up to 256, not 20"),
        (_meta(dtype=torch.float32), "sm80", "needs float16 or bfloat16, not float32"),
        (_meta(batch=65_536), "sm80", "at most 65,535, not 65,536 and 3"),
        (_meta(), "sm75", "needs sm80 or newer, not sm75"),
        ([*_meta(), torch.empty(5, 7, device="meta", dtype=torch.bfloat16)], "sm80", "takes no bias"),
    ],
)
def test_a_call_it_cannot_do_names_the_limit_and_the_value(given: list[Tensor], target: str, limit: str) -> None:
    with pytest.raises(ValueError) as error:
        _walked(given[0], given[1], target, bias=given[2] if given[2:] else None)
    assert "attention backend 'flash-attn' cannot do this call" in str(error.value) and limit in str(error.value)


def test_a_walk_needs_no_package_and_takes_a_causal_mask_of_fewer_queries() -> None:
    q, k = _meta()
    walk = _walked(q, k, causal=True)
    (call,) = walk.calls
    assert call.attention is not None and call.attention.backend == "flash-attn" and call.attention.causal
    assert call.work.flops == 4 * 2 * 3 * 5 * 7 * 64


def test_it_is_predicted_as_torchs_flash_kernel_and_the_profile_says_which_ran() -> None:
    config = loader.load("llama2-7b", ["run.prompt_len=64", "run.gen_len=3"])
    package, torchs = (simulate(config, Run(device="h100-sxm", attention=name)) for name in ("flash-attn", "flash!"))
    assert set(views.attention_backends(package)) == {"flash-attn"} and package.run.attention == "flash-attn"
    assert views.elapsed(package) == pytest.approx(views.elapsed(torchs), rel=1e-12)
    assert views.totals(package.ops).flops == views.totals(torchs.ops).flops
