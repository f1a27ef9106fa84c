"""`--layout channels-last`: networks run so from the first convolution to the last, and say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch._prims_common
from torch import Tensor, nn

from minimodels import loader
from minimodels.kernels.backend import attention_backend, kernel_backend
from minimodels.kernels.layout import LAST, channels_last, put_channels_last
from minimodels.kernels.scope import TRACER
from minimodels.pipelines import example_input, generate
from minimodels.run import Run, build, prepare
from minimodels.sim import device as devices
from minimodels.sim.call import Call
from minimodels.sim.formulas_matrix import convolution
from minimodels.sim.simulate import simulate, walk_config
from minimodels.sim.trace import Walk
from minimodels.sim.traffic import convolved_format
from tests.sim.test_independent import Recorder

TINY = ("stable-diffusion-tiny", "sdxl-tiny", "imagen-tiny", "make-a-video-tiny", "modelscope-tiny", "animatediff-tiny",
        "muse-tiny", "amused-tiny", "parti-tiny")  # fmt: skip
LARGE = ("stable-diffusion-1.5", "sdxl", "imagen", "make-a-video", "modelscope-1.7b")
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks are tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prepared(name: str, run: Run, device: str = "cpu") -> nn.ModuleDict:
    return prepare(build(loader.load(name), device, seed=3), run)


def _noting(seen: list[tuple[str, Tensor]], name: str) -> Callable[..., None]:
    return lambda _, args, out: seen.append((name, out))


@contextmanager
def convolved(parts: nn.ModuleDict) -> Iterator[list[tuple[str, Tensor]]]:
    """Name and result of every convolution run inside."""
    seen: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(_noting(seen, name))
        for name, module in parts.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kernels", ("torch", "triton"))
@pytest.mark.parametrize("name", TINY)
def test_a_network_stays_channels_last_and_says_the_same(name: str, kernels: str) -> None:
    config, tokens = loader.load(name), example_input(loader.load(name), 2, "cpu", 5)
    results = []
    for layout in ("contiguous", "channels-last"):
        run = Run(kernels=kernels, layout=layout)  # type: ignore[arg-type]
        parts = prepared(name, run)
        torch.manual_seed(7)
        with kernel_backend(kernels), convolved(parts) as seen:
            results.append(generate(config, parts, tokens))
        if layout == "channels-last":
            # A CPU with one thread has no convolution of three dimensions that keeps them last
            flat = [(name, out) for name, out in seen if out.dim() == 4]
            assert flat and not [name for name, out in flat if not out.is_contiguous(memory_format=torch.channels_last)]
    if results[0].is_floating_point():
        scale = results[0].abs().max().item()
        torch.testing.assert_close(*results, rtol=0, atol=2e-3 * scale)  # other convolutions of a CPU, many steps
    else:
        assert (results[0] == results[1]).float().mean() > 0.9


def copies(calls: list[Call]) -> list[Call]:
    """Convolutions and group norms that first copy their input, and copies of pixels that are operators."""
    inside = ("conv2d", "conv3d", "conv_transpose2d", "group_norm")
    return [
        call for call in calls
        if call.shapes and len(call.shapes[0]) > 3
        and (
            call.work.launches > 1 and call.name in inside
            or call.name in ("contiguous", "clone", "reshape") and call.work.kernel == "copy" and of_pixels(call)
        )
    ]  # fmt: skip


def of_pixels(call: Call) -> bool:
    """Whether a copy is of square pictures: not of an attention's heads, nor of a text's relative positions."""
    return call.module != "attention" and call.stage != "text_encoder" and call.shapes[0][-1] == call.shapes[0][-2]


def moved(call: Call) -> float:
    """Bytes of a call and those it stands for."""
    return call.weight * (call.work.bytes_read + call.work.bytes_written)


@pytest.mark.parametrize("name", LARGE)
def test_a_walk_has_the_copies_that_torch_makes_and_under_our_kernels_none(name: str) -> None:
    device, config = devices.load("h100-sxm"), loader.load(name)
    theirs = walk_config(config, Run(layout="channels-last", attention="flash"), device).calls
    norms = [call for call in theirs if call.name == "group_norm" and len(call.shapes[0]) > 3]
    assert norms and all(call.work.launches == 2 for call in norms), "torch's group norm reads channels first"
    ours = walk_config(config, Run(layout="channels-last", attention="flash", kernels="triton"), device).calls
    left = copies(ours)
    # Noise comes channels first, with 3 or 4 channels to denoise, told 3 or 4 more
    assert left and all(call.shapes[0][-3] <= 8 for call in left), {(call.name, call.shapes[0]) for call in left}
    assert sum(map(moved, ours)) < sum(map(moved, theirs))


@pytest.mark.parametrize("kernels", ("torch", "triton"))
@pytest.mark.parametrize("name", TINY)
def test_a_real_run_lists_the_walked_operators(name: str, kernels: str) -> None:
    config, run = loader.load(name), Run(kernels=kernels, layout="channels-last")  # type: ignore[arg-type]
    on_meta, tokens = prepared(name, run, "meta"), example_input(config, 2, "meta")
    walk = Walk(full=True, keep_views=True)
    with attention_backend("sdpa", "cpu"), kernel_backend(kernels), torch.inference_mode(), walk:
        generate(config, on_meta, tokens)
    parts, tokens, recorder = prepared(name, run), example_input(config, 2, "cpu"), Recorder()
    token = TRACER.set(recorder)
    try:
        with attention_backend("sdpa"), kernel_backend(kernels), torch.inference_mode(), recorder:
            generate(config, parts, tokens)
    finally:
        TRACER.reset(token)
    found = [(op[0], *op[2:], op[1]) for op in recorder.operators]
    assert found == [(call.name, call.stage, call.scope, call.shapes) for call in walk.calls]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*functools.lru_cache.*")
@torch.no_grad()
def test_a_network_compiles_whole_under_our_kernels() -> None:
    run = Run(kernels="triton", layout="channels-last")
    decoder = prepared("make-a-video-tiny", run)["decoder"]
    sizes: Any = dict(loader.load("make-a-video-tiny").parts())["decoder"]
    x, image = torch.randn(1, sizes.in_channels, 5, 16, 16), torch.randn(1, sizes.image_tokens.dim)
    torch._dynamo.reset()
    with kernel_backend("triton"):
        compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
        given = {"context": torch.randn(1, 7, sizes.text_dim or sizes.context_dim), "image": image, "frame_rate": 2.0}
        torch.testing.assert_close(compiled(x, 3.0, **given), decoder(x, 3.0, **given), rtol=0, atol=1e-5)


def test_the_layout_of_a_run_stands_in_its_profile() -> None:
    found = simulate(loader.load("stable-diffusion-tiny"), Run(layout="channels-last"))
    assert found.run.model_dump()["layout"] == "channels-last"


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 4, 1, 1), (6, 1, 3, 3), (6, 4, 3, 1, 1)])
def test_a_weight_put_channels_last_is_taken_for_it(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    put = put_channels_last(weight)
    assert channels_last(put) and not channels_last(weight) and torch.equal(put, weight)


@pytest.mark.parametrize(
    "shape", [(2, 4, 3, 5), (2, 1, 3, 5), (2, 4, 1, 1), (1, 4, 3, 3), (2, 4, 2, 3, 5), (2, 4, 0, 3)]
)
@pytest.mark.parametrize("kind", ("contiguous", "last", "put last", "sliced"))
def test_the_rule_is_torchs(shape: tuple[int, ...], kind: str) -> None:
    x = torch.randn(shape)
    if kind == "last":
        x = x.contiguous(memory_format=LAST[x.dim()])
    elif kind == "put last":
        x = put_channels_last(x)
    elif kind == "sliced":
        x = torch.cat([x, x], dim=1).contiguous(memory_format=LAST[x.dim()])[:, 1 : 1 + shape[1]]
    assert channels_last(x) == (torch._prims_common.suggest_memory_format(x) is not torch.contiguous_format)


@pytest.mark.parametrize(
    ("laid", "copied"), [((False, False), 0), ((True, True), 0), ((False, True), 840), ((True, False), 648)]
)
def test_a_convolution_counts_copies_into_the_layout_it_runs_in(laid: tuple[bool, bool], copied: int) -> None:
    x, weight = torch.zeros(2, 3, 5, 7, device="meta"), torch.zeros(6, 3, 3, 3, device="meta")
    x, weight = (put_channels_last(y) if last else y for y, last in zip((x, weight), laid, strict=True))
    out = torch.empty(2, 6, 3, 5, device="meta")
    with attention_backend("sdpa", "sm90"):
        work = convolution((x, weight, None), {}, (out,))
        wanted = convolved_format(x, weight)
    once = 4 * (2 * 3 * 5 * 7 + 6 * 3 * 9)
    assert work.bytes_read == once + copied and work.bytes_written == 4 * out.numel() + copied
    assert work.launches == 1 + bool(copied) and (wanted is torch.channels_last) == any(laid)
    assert work.conv is not None and work.conv.channels_last == any(laid)
