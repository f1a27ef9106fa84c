"""The entrances of our operators: models under `--kernels triton` say the same, and a walk is what runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minimodels import loader
from minimodels.kernels.backend import kernel_backend
from minimodels.pipelines import example_input, generate
from minimodels.run import Run, build
from minimodels.sim.measure import measure
from minimodels.sim.simulate import simulate

NORMS = {"stable-diffusion-tiny": "group_norm", "llama-tiny": "add_layer_norm", "make-a-video-tiny": "group_norm",
         "imagen-tiny": "group_norm", "sdxl-tiny": "add_layer_norm", "modelscope-tiny": "layer_norm",
         "dit-tiny": "layer_norm", "flux-tiny": "rotate", "wan-tiny": "rotate"}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_a_walk_under_our_kernels_has_our_operators_and_a_cpu_run_the_same(name: str) -> None:
    config = loader.load(name)
    ours = simulate(config, Run(kernels="triton"))
    assert f"minimodels::{NORMS[name]}" in {op.name for op in ours.ops}
    theirs = simulate(config, Run())
    assert not any(op.name.startswith("minimodels::") for op in theirs.ops)
    assert sum(op.weight * (op.flops or 0) for op in ours.ops) == sum(op.weight * (op.flops or 0) for op in theirs.ops)
    run = Run(device="cpu", dtype="float32", kernels="triton", warmup=1, repeats=1)
    assert {op.name for op in measure(config, run).ops if op.name.startswith("minimodels::")}, (
        "raises where they differ"
    )


TORCHS = ("group_norm", "layer_norm", "rms_norm")


@pytest.mark.parametrize("layout", ("contiguous", "channels-last"))
@pytest.mark.parametrize("name", [name for name in loader.names() if name.endswith("-tiny")])
def test_no_norm_of_any_network_is_left_to_torch(name: str, layout: Any) -> None:
    ours = simulate(loader.load(name), Run(kernels="triton", layout=layout))
    assert not {op.name for op in ours.ops if op.name in TORCHS}
    theirs = simulate(loader.load(name), Run(layout=layout))
    assert {op.name for op in theirs.ops} & set(TORCHS), "it has norms"


@pytest.mark.parametrize(
    ("name", "part"),
    (
        ("stable-diffusion-tiny", "unet"), ("sdxl-tiny", "unet"), ("dit-tiny", "transformer"),
        ("flux-tiny", "transformer"),
        ("wan-tiny", "transformer"),
    ),
)  # fmt: skip
def test_a_network_says_the_same_under_our_kernels(name: str, part: str) -> None:
    config = loader.load(name)
    parts = build(config, "cpu")
    network = parts[part]
    seen: list[tuple[Any, Any]] = []
    hook = network.register_forward_pre_hook(lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    generate(config, parts, example_input(config, 1, "cpu"))
    hook.remove()
    args, kwargs = seen[0]
    with torch.inference_mode():
        expected = network(*args, **kwargs)
        with kernel_backend("triton"):
            found = network(*args, **kwargs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # sums in another order, float32
