"""Compiled runs: kernels by name, place and category, and the walk's facts kept to the last FLOP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch

from minimodels import loader
from minimodels.run import Run
from minimodels.sim import measure as measuring
from minimodels.sim.compiled import Kernel, category_of, kernels
from minimodels.sim.compiled_session import CompiledSession
from minimodels.sim.measure import measure
from minimodels.sim.profile import Profile
from minimodels.sim.profiler import Event
from minimodels.sim.simulate import simulate
from minimodels.sim.views import by_category, by_stage, stage_peaks
from tests.sim.test_measure import TINY, flops

NEEDS_COMPILER = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor needs a C++ compiler on a CPU: none is here"
)


class AotEager(CompiledSession):
    """Compiles all but the last step: graphs run torch's own kernels, which needs no compiler."""

    backend = "aot_eager"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Toy operators gain nothing from a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("kernel", "operator", "category"),
    [
        ("triton_poi_fused_add_mul_silu_3", None, "Elementwise"),
        ("triton_poi_fused__unsafe_view_gelu_0", None, "Elementwise"),
        ("triton_poi_fused_add_convolution_silu_7", None, "Elementwise"),  # the bias of a convolution
        ("triton_poi_fused_cat_clone_1", None, "Memory"),
        ("triton_poi_fused__to_copy_permute_12", None, "Memory"),
        ("triton_per_fused_add_native_layer_norm_2", None, "Norm"),
        ("triton_red_fused_native_group_norm_0", None, "Norm"),
        ("triton_red_fused__to_copy_add_embedding_mean_mul_pow_rsqrt_0", None, "Norm"),
        ("triton_poi_fused_embedding_0", None, "Embedding"),
        ("triton_per_fused__safe_softmax_add_4", None, "Attention"),
        ("triton_red_fused__softmax_div_5", None, "Elementwise"),
        ("triton_tem_fused_addmm_relu_9", None, "Linear"),
        ("triton_tem_fused_convolution_9", None, "Convolution"),
        ("graph_1_cpp_fused__unsafe_view_mul_silu_4", None, "Elementwise"),
        ("graph_0_cpp_fused_clone_permute_view_4", None, "Memory"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "addmm", "Linear"),
        ("sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_kernel", None, "Convolution"),
        ("sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_kernel", "convolution", "Convolution"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, float>", None, "Convolution"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x128>", "mm", "Linear"),
        ("void gemv2T_kernel_val<int, int, __nv_bfloat16>", None, "Linear"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", None, "Attention"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>", None, "Attention"),
        ("Memcpy DtoD (Device -> Device)", None, "Memory"),
        ("Memset (Device)", "zero_", "Memory"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<long>>", "full", "Memory"),
        ("void at::native::CatArrayBatchedCopy<...>", "cat", "Memory"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, ArgMaxOps>>", "argmax", "Norm"),  # known
        ("aten::add", "add", "Elementwise"),
        ("a_kernel_of_somebody", None, "Other"),
    ],
)
def test_a_kernel_is_what_its_name_says(kernel: str, operator: str | None, category: str) -> None:
    assert category_of(kernel, operator, {"argmax": "Norm"}) == category


GPU = [
    Event("label", "stage.decode", 0, 10_000, 0, 0),
    Event("label", "step 0.6 of decode", 100, 5_000, 0, 0),
    Event("other", "Torch-Compiled Region: 0/1", 150, 3_000, 0, 0),
    Event("operator", "aten::addmm", 200, 300, 5, 0),
    Event("other", "cudaLaunchKernel", 250, 260, 901, 0),
    Event("other", "cuLaunchKernelEx", 400, 410, 902, 0),
    Event("label", "step 0.0 of decode", 5_000, 9_000, 0, 0),
    Event("other", "cuLaunchKernel", 5_100, 5_110, 903, 0),
    Event("device", "nvjet_tst", 5_200, 5_400, 901, 5),  # runs while the host is a step ahead
    Event("device", "triton_poi_fused_add_3", 5_400, 5_500, 902, 0),
    Event("device", "triton_poi_fused_add_3", 5_600, 5_750, 903, 0),
    Event("device", "somebody_elses", 6_000, 6_020, 7, 0),
    Event("other", "cudaLaunchKernel", 11_000, 11_010, 904, 0),
    Event("device", "Memset (Device)", 11_100, 11_110, 904, 0),
]


def test_a_kernel_belongs_to_the_step_that_launched_it() -> None:
    found, lost = kernels(GPU, on_gpu=True)
    assert found == [
        Kernel("nvjet_tst", "addmm", "decode", (0, 6), 5_200, 5_400),
        Kernel("triton_poi_fused_add_3", None, "decode", (0, 6), 5_400, 5_500),
        Kernel("triton_poi_fused_add_3", None, "decode", (0, 0), 5_600, 5_750),
        Kernel("Memset (Device)", None, "run", (), 11_100, 11_110),
    ]
    assert lost == pytest.approx(20e-9)


def test_on_a_cpu_kernels_are_inductors_and_the_outermost_operators() -> None:
    events = [
        Event("label", "stage.decode", 0, 1_000, 0, 0),
        Event("other", "## Call CompiledFxGraph abc ##", 50, 400, 0, 0),
        Event("other", "graph_0_cpp_fused_add_0", 100, 150, 0, 0),
        Event("operator", "aten::addmm", 200, 300, 5, 0),
        Event("operator", "aten::copy_", 210, 220, 6, 0),
        Event("operator", "aten::slice", 310, 320, 7, 0),
    ]
    found, lost = kernels(events, on_gpu=False)
    assert [(one.name, one.stage, one.path, one.start, one.end) for one in found] == [
        ("graph_0_cpp_fused_add_0", "decode", (), 100, 150),
        ("aten::addmm", "decode", (), 200, 300),
    ]
    assert lost == 0


def compiled(name: str, monkeypatch: pytest.MonkeyPatch, session: type[CompiledSession] = AotEager) -> Profile:
    monkeypatch.setitem(measuring.SESSIONS, "compiled", session)
    return measure(loader.load(name), Run(device="cpu", dtype="float32", mode="compiled", repeats=2, warmup=1))


def check(profile: Profile, name: str) -> None:
    """What any measured profile promises, and what a compiled one keeps of the walk."""
    walked = simulate(loader.load(name), Run(device="a100-80gb", dtype="float32"))
    assert [stage.name for stage in profile.stages] == [stage.name for stage in walked.stages]
    for stage in profile.stages:
        assert stage.wall_seconds and stage.seconds == pytest.approx(stage.wall_seconds, rel=1e-9)
    assert flops(profile) == flops(walked)
    found, expected = by_stage(profile), by_stage(walked)
    assert {stage: part.known_flops for stage, part in found.items()} == {
        stage: part.known_flops for stage, part in expected.items()
    }
    counted = {key: part.known_flops for key, part in by_category(profile).items() if part.known_flops}
    assert counted == {key: part.known_flops for key, part in by_category(walked).items() if part.known_flops}
    for op in profile.ops:
        assert op.name.startswith(("compiled::", "walked::")) and op.provenance == "measured"
        assert op.flops == 0 and op.launches == 1 if op.name.startswith("compiled::") else op.launches == 0
    assert Profile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in TINY])
def test_a_compiled_run_times_kernels_and_keeps_the_flops_of_the_walk(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(compiled(name, monkeypatch), name)


@pytest.mark.slow
def test_kernels_weigh_what_the_steps_they_ran_in_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of the decoding loop draws one token."""
    profile = compiled("llama-tiny", monkeypatch)
    drawn = [op for op in profile.ops if op.name == "compiled::aten::argmax"]
    assert sum(op.weight for op in drawn if op.stage == "decode") == 10 == drawn[-1].steps
    assert sum(op.weight for op in drawn if op.stage == "prefill") == 1


@pytest.mark.slow
def test_memory_is_that_of_the_uncompiled_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = compiled("llama-tiny", monkeypatch)
    theirs = measure(loader.load("llama-tiny"), Run(device="cpu", dtype="float32", repeats=1, warmup=1))
    assert stage_peaks(ours) == stage_peaks(theirs)
    assert (ours.memory.peak, ours.memory.kv_cache) == (theirs.memory.peak, theirs.memory.kv_cache)
    assert ours.memory.peak_op is not None and theirs.memory.peak_op is not None
    at = theirs.ops[theirs.memory.peak_op]
    assert ours.ops[ours.memory.peak_op].name == f"walked::{at.category}"


@NEEDS_COMPILER
@pytest.mark.slow
def test_inductor_on_a_cpu_names_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = compiled("llama-tiny", monkeypatch, CompiledSession)
    check(profile, "llama-tiny")
    assert any("cpp_fused" in op.name for op in profile.ops)


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler is here")

    class Broken(CompiledSession):
        backend = staticmethod(fails)  # type: ignore[assignment]

    with pytest.raises(
        ValueError, match=r"mode 'compiled': torch.compile fails: .*no compiler is here.*; --mode eager"
    ):
        compiled("llama-tiny", monkeypatch, Broken)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama-tiny", "stable-diffusion-tiny"])
def test_inductor_on_a_gpu_names_its_kernels(name: str) -> None:
    profile = measure(loader.load(name), Run(device="cuda", dtype="bfloat16", mode="compiled", repeats=2, warmup=1))
    walked = simulate(loader.load(name), Run(device="a100-80gb"))
    assert flops(profile) == flops(walked)
    assert any("triton_" in op.name for op in profile.ops)
    assert (profile.environment.attributed or 0) >= 0.98
    for stage in profile.stages:
        assert stage.seconds == pytest.approx(stage.wall_seconds, rel=1e-9)
