"""Kernels of a replayed graph go to the operators that launched them at capture: traces as a GPU leaves them, in ns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimodels.sim.profiler import Event, Executed, times
from minimodels.sim.replays import Differs, attribute, replays, typical

GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel"
ADD = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>>"
FLASH = "void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>>"
COMBINE = "void pytorch_flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>>"
FILL = "void at::native::vectorized_elementwise_kernel<2, at::native::FillFunctor<long>>"
LAUNCH = 71  # correlation ids of graph launches


def executed(name: str, *kernels: str) -> Executed:
    """An operator as it ran eagerly."""
    return Executed(name, 0, 0, kernels=list(kernels), work=[(0, 1)] * len(kernels))


CAPTURED = [
    executed("linear", GEMM),
    executed("view"),
    executed("zeros", "Memset (Device)"),
    executed("scaled_dot_product_attention", FLASH, COMBINE),
    executed("copy_", "Memcpy DtoD (Device -> Device)"),
    executed("add", ADD),
]
IN_REPLAY = (GEMM, "Memset (Unknown)", FLASH, COMBINE, "Memcpy DtoD (Device -> Device)", ADD)


def launch(start: int, number: int) -> Event:
    return Event("other", "cudaGraphLaunch", start, start + 900, number, 0)


def replay(start: int, number: int, names: tuple[str, ...] = IN_REPLAY) -> list[Event]:
    """Kernels of 100 ns, 10 ns apart, all with the correlation id of the launch."""
    return [Event("device", name, start + 110 * i, start + 110 * i + 100, number, 0) for i, name in enumerate(names)]


def test_a_replay_is_the_work_with_the_id_of_its_launch() -> None:
    """Two fills before a graph with random numbers, launched by themselves, are no part of it."""
    prologue = [
        Event("operator", "aten::fill_", 90, 95, 5, 0),
        Event("other", "cudaLaunchKernel", 91, 94, 301, 5),
        Event("device", FILL, 800, 802, 301, 5),
        Event("device", FILL, 803, 805, 302, 5),
    ]
    events = [
        launch(100, LAUNCH),
        launch(1_100, LAUNCH + 9),
        *replay(3_000, LAUNCH + 9),
        *replay(1_000, LAUNCH),
        *prologue,
    ]
    assert replays(events) == [replay(1_000, LAUNCH), replay(3_000, LAUNCH + 9)]
    assert replays([launch(0, LAUNCH)]) == [[]], "a launch whose kernels are missing"
    assert replays(replay(0, LAUNCH)) == []


def test_kernels_go_to_operators_in_the_order_of_capture() -> None:
    found = attribute(replay(1_000, LAUNCH), CAPTURED)
    assert [one.name for one in found] == [one.name for one in CAPTURED]
    assert [one.work for one in found] == [
        [(1_000, 1_100)],
        [],
        [(1_110, 1_210)],
        [(1_220, 1_320), (1_330, 1_430)],
        [(1_440, 1_540)],
        [(1_550, 1_650)],
    ]
    assert CAPTURED[0].work == [(0, 1)], "what ran eagerly stays as it was"


def test_gaps_lie_between_the_kernels_of_replays_in_a_row() -> None:
    every = [op for start in (1_000, 2_000) for op in attribute(replay(start, LAUNCH), CAPTURED)]
    first, second = times(every, [900])[:6], times(every, [900])[6:]
    assert [gap for _, gap in first] == pytest.approx([100e-9, 0, 10e-9, 20e-9, 10e-9, 10e-9])
    assert second[0] == pytest.approx((100e-9, 350e-9)), "the device waited for the next launch"
    assert first[3] == second[3] == pytest.approx((200e-9, 20e-9))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (IN_REPLAY[:-1], "a replay has 5 kernels, of 6 at capture; those it has agree"),
        ((*IN_REPLAY, ADD), "a replay has 7 kernels, of 6 at capture"),
        (
            (*IN_REPLAY[:3], *IN_REPLAY[4:]),
            "kernel 3 of a replay is Memcpy DtoD.*at capture scaled_dot.* launched .*splitkv",
        ),
        ((ADD, *IN_REPLAY[1:]), r"kernel 0 of a replay is void at::native::.*\.\.\., at capture linear launched sm90"),
        (("Memset (Device)", *IN_REPLAY), "kernel 0 of a replay is Memset"),
        ((), "a replay has 0 kernels"),
    ],
)  # fmt: skip
def test_other_kernels_than_captured_are_refused_with_where_they_differ(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(Differs, match=said):
        attribute(replay(0, LAUNCH, names), CAPTURED)


def test_times_are_the_medians_of_replays_operator_by_operator() -> None:
    first, warm = [(1.0, 9.0), (2.0, 0.0)], [(0.5, 1.0), (2.5, 0.5)]
    assert typical([first, warm, [(0.6, 2.0), (2.0, 0.25)]]) == [(0.6, 2.0), (2.0, 0.25)]
    assert typical([first]) == first


@given(st.lists(st.integers(0, 4), max_size=20))
def test_every_kernel_goes_to_one_operator(counts: list[int]) -> None:
    captured = [executed(f"op{i}", *(f"k{i}.{j}" for j in range(count))) for i, count in enumerate(counts)]
    names = tuple(name for one in captured for name in one.kernels)
    found = attribute(replay(0, LAUNCH, names), captured)
    assert [name for one in found for name in one.kernels] == list(names)
    assert [len(one.work) for one in found] == counts
    assert sum(len(one.work) for one in found) == len(names)
