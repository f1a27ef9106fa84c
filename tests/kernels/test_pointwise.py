"""Gated activation and rotary: counts by hand, limits, and models that run them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minimodels import loader
from minimodels.kernels import fused
from minimodels.kernels.backend import kernel_backend
from minimodels.kernels.glu import row_stride
from minimodels.kernels.operator import OPERATORS
from minimodels.kernels.work import Work
from minimodels.pipelines import example_input, generate
from minimodels.run import build
from minimodels.sim.trace import Walk
from tests.kernels.cases import glu, rotary
from tests.sim.test_trace import Listing


def _work(name: str, args: tuple[object, ...]) -> Work:
    out = OPERATORS[name].call(*args)
    return OPERATORS[name].work(args, {}, (out,) if isinstance(out, Tensor) else out)


def test_bytes_are_those_counted_by_hand() -> None:
    gate = _work(glu.OPERATOR, glu.arguments(2, 5, 24, activation="gelu", device="meta"))
    assert (gate.bytes_read, gate.bytes_written, gate.launches) == (2 * 2 * 5 * 24 * 2, 2 * 5 * 24 * 2, 1)
    turned = _work(rotary.OPERATOR, rotary.arguments(2, 6, 3, 5, 16, device="meta"))
    rows = 2 * (6 + 3) * 5 * 16 * 2
    assert (turned.bytes_read, turned.bytes_written, turned.launches) == (rows + 2 * 5 * 16 * 2, rows, 1)


def test_offsets_are_64_bits_wide_from_2_to_the_31_on() -> None:
    for rows, expected in ((1 << 19, False), (1 << 20, True)):  # the halves of a row of 2048 lie in one of 4096
        _, (launch,) = OPERATORS[glu.OPERATOR].plan(*glu.arguments(rows - 1, 2048, activation="silu", device="meta"))
        assert launch.constants["WIDE"] is expected
    for heads, expected in ((120, False), (128, True)):
        _, (launch,) = OPERATORS[rotary.OPERATOR].plan(*rotary.arguments(64, heads, 1, 2048, 128, device="meta"))
        assert launch.constants["WIDE"] is expected


@pytest.mark.parametrize("count", [65535, 65536, 1 << 20])
def test_any_number_of_sequences_fits_the_grid(count: int) -> None:
    _, (launch,) = OPERATORS[rotary.OPERATOR].plan(*rotary.arguments(count, 8, 8, 3, 64, device="meta"))
    assert launch.grid[0] * launch.constants["ROWS"] >= count * 16 * 3 and launch.grid[1:] == (1, 1)


def test_rows_of_one_stride_are_recognised() -> None:
    x = torch.zeros(3, 5, 14)
    assert row_stride(x) == row_stride(x[..., 7:]) == 14 and row_stride(x[:, :1]) == 70 and row_stride(x[0, 0]) == 14
    assert row_stride(x.transpose(0, 1)) is None and row_stride(x.transpose(1, 2)) is None


def test_rotated_tensors_lie_as_their_inputs_do() -> None:
    q, k, cos, sin = rotary.arguments(2, 3, 1, 7, 24, dtype=torch.float32)
    for given, found in zip((q, k), OPERATORS[rotary.OPERATOR].call(q, k, cos, sin), strict=True):
        assert found.stride() == given.stride()


def test_entrances_run_torch_where_the_kernel_cannot() -> None:
    x = torch.randn(3, 5, 14)
    q, k, cos, sin = rotary.arguments(2, 3, 1, 7, 24, dtype=torch.float32)
    listing = Listing()
    with kernel_backend("triton"), torch.no_grad(), listing:
        fused.gated(x, x, "gelu")
        fused.gated(x.double(), x.double(), "gelu")
        fused.gated(x.mT, x.mT, "gelu")
        fused.rotate(q, k, cos, sin, 0)
        fused.rotate(q.double(), k.double(), cos.double(), sin.double(), 0)
    names = [name for name, _ in listing.operators]
    assert (names.count(glu.OPERATOR), names.count("gelu"), names.count(rotary.OPERATOR), names.count("roll")) == (
        1, 2, 1, 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-tiny", ("gated", "rotate", "draw_token")),
        ("muse-tiny", ("gated", "unmask_step")),
        ("amused-tiny", ("gated", "unmask_step")),
        ("parti-tiny", ("draw_token",)),
        ("stable-diffusion-tiny", ("gated", "guided_step")),
    ],
)
def test_a_run_under_our_kernels_has_the_operators_of_its_walk(name: str, expected: tuple[str, ...]) -> None:
    config = loader.load(name)
    parts, tokens = build(config, "meta"), example_input(config, 2, "meta")
    walk = Walk(parts, full=True)
    with kernel_backend("triton"), torch.inference_mode(), walk:
        generate(config, parts, tokens)
    parts, tokens, listing = build(config, "cpu"), example_input(config, 2, "cpu"), Listing()
    with kernel_backend("triton"), torch.inference_mode(), listing:
        generate(config, parts, tokens)
    for ran, call in zip(listing.operators, walk.calls, strict=True):
        assert ran == (call.name, call.shapes)
    assert {f"minimodels::{operator}" for operator in expected} <= {call.name for call in walk.calls}
    assert [call.name for call in walk.calls if call.work.flops is None] == []


def test_a_language_model_says_the_same_under_our_kernels() -> None:
    config = loader.load("llama-tiny")
    parts, tokens = build(config, "cpu"), example_input(config, 2, "cpu")
    with torch.inference_mode():
        expected = parts["language_model"](tokens)
        with kernel_backend("triton"):
            found = parts["language_model"](tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # sums in another order, float32
