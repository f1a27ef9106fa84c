"""Reading a profiler's trace: traces written by hand, as a GPU would leave them; times in nanoseconds."""

from __future__ import annotations

import itertools

import pytest
import torch

from minimodels.kernels.scope import TRACER
from minimodels.run import steps
from minimodels.sim.profiler import (
    Event,
    Executed,
    KnotWalk,
    Labels,
    attention_backend_of,
    outermost,
    stage_starts,
    times,
    trace,
)


def operator(name: str, start: int, end: int, number: int = 0) -> Event:
    return Event("operator", f"aten::{name}", start, end, number, 0)


def kernel(start: int, end: int, cause: int, name: str = "some_kernel") -> Event:
    return Event("device", name, start, end, 0, cause)


def label(name: str, start: int, end: int) -> Event:
    return Event("label", name, start, end, 0, 0)


GPU = [
    label("stage.decode", 1_000, 9_000),
    operator("linear", 1_100, 1_900, 1),
    operator("t", 1_150, 1_200, 2),
    operator("mm", 1_300, 1_800, 3),
    Event("other", "cudaLaunchKernel", 1_400, 1_500, 0, 3),
    operator("view", 2_000, 2_050, 4),
    operator("add", 2_100, 2_300, 5),
    kernel(1_700, 2_700, 3),
    kernel(2_700, 2_900, 1, "Memset (Device)"),
    kernel(3_400, 3_700, 5),
    kernel(8_000, 8_100, 77),
    Event("other", "stage.decode", 1_700, 3_700, 0, 0),
]


def test_kernels_belong_to_the_outermost_operator_that_launched_them() -> None:
    operators, lost = outermost(GPU)
    assert [(op.name, op.inside) for op in operators] == [("linear", ["t", "mm"]), ("view", []), ("add", [])]
    assert [op.work for op in operators] == [[(1_700, 2_700), (2_700, 2_900)], [], [(3_400, 3_700)]]
    assert lost == pytest.approx(100e-9)  # launched by no operator of the trace


def test_a_gap_is_the_idle_time_of_the_device_since_the_stage_began() -> None:
    operators, _ = outermost(GPU)
    found = times(operators, stage_starts(GPU))
    assert found == [pytest.approx((1_200e-9, 700e-9)), (0, 0), pytest.approx((300e-9, 500e-9))]


def test_idle_time_between_stages_belongs_to_neither() -> None:
    first, second = Executed("relu", 0, 0, work=[(100, 150)]), Executed("relu", 0, 0, work=[(900, 950)])
    assert times([first, second], [80, 890]) == [pytest.approx((50e-9, 20e-9)), pytest.approx((50e-9, 10e-9))]


def test_overlapping_kernels_leave_no_negative_gap() -> None:
    first, second = Executed("mm", 0, 0, work=[(100, 500)]), Executed("relu", 0, 0, work=[(200, 300), (600, 650)])
    assert times([first, second], [100]) == [pytest.approx((400e-9, 0)), pytest.approx((150e-9, 100e-9))]


def test_shuffled_steps_come_back_in_order_where_their_loop_began() -> None:
    events = [
        operator("before", 10, 20),
        label("step 0.6 of outer", 100, 400),
        operator("a6", 110, 120),
        label("step 0.6.0.3 of inner", 130, 200),
        operator("b63", 140, 150),
        label("step 0.6.0.0 of inner", 210, 300),
        operator("b60", 220, 230),
        operator("c6", 310, 320),
        label("step 0.0 of outer", 500, 800),
        operator("a0", 510, 520),
        label("step 0.0.0.3 of inner", 530, 600),
        operator("b03", 540, 550),
        label("step 0.0.0.0 of inner", 610, 700),
        operator("b00", 620, 630),
        operator("c0", 710, 720),
        operator("after", 900, 910),
    ]
    ordered = [op.name for op in outermost(events)[0]]
    assert ordered == ["before", "a0", "b00", "b03", "c0", "a6", "b60", "b63", "c6", "after"]


def nested(x: torch.Tensor) -> torch.Tensor:
    """Loops within loops, whose operators tell the steps apart by number and kind."""
    for i in steps("outer", 7, "affine"):
        for j in steps("inner", 5, "affine"):
            x = torch.relu(x) if j else torch.sigmoid(x)
        for _ in steps("last", 3, "constant"):
            x = torch.tanh(x) if i else torch.exp(x)
    return x


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_run_lists_the_operators_of_the_walk(seed: int) -> None:
    walk, x = KnotWalk(), torch.zeros(3)
    x_on_meta = x.to("meta")
    with torch.inference_mode(), walk:
        nested(x_on_meta)
    tracer = Labels(walk.knots, lambda: None, seed)
    order: list[int] = []
    for i in tracer.loop("outer", 7, "affine"):
        order.append(i)
        order.extend(tracer.loop("inner", 5, "affine"))
        order.extend(tracer.loop("last", 3, "constant"))
    assert sorted(order) == sorted(itertools.chain.from_iterable(walk.knots.values()))

    def run() -> None:
        token = TRACER.set(Labels(walk.knots, lambda: None, seed))
        with torch.inference_mode():
            nested(x)
        TRACER.reset(token)

    operators, lost = outermost(trace(run, on_gpu=False))
    assert [op.name for op in operators] == [call.name for call in walk.calls]
    assert lost == 0


@pytest.mark.parametrize(
    ("inside", "backend"),
    [
        (["_scaled_dot_product_flash_attention_for_cpu", "empty_like"], "flash"),
        (["_scaled_dot_product_flash_attention", "_flash_attention_forward"], "flash"),
        (["_scaled_dot_product_efficient_attention", "_efficient_attention_forward"], "efficient"),
        (["_scaled_dot_product_cudnn_attention"], "cudnn"),
        (["_scaled_dot_product_attention_math", "matmul"], "math"),
        (["matmul"], None),
    ],
)
def test_the_attention_kernel_is_read_from_the_operators_inside(inside: list[str], backend: str | None) -> None:
    assert attention_backend_of(Executed("scaled_dot_product_attention", 0, 1, inside)) == backend
