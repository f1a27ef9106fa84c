"""Offsets beyond 32 bits and grids of any number of programs: what kernels are planned with. Nothing is allocated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.kernels.backend import attention_backend
from minimodels.kernels.launch import Launch
from minimodels.kernels.operator import OPERATORS
from tests.kernels.all_cases import LARGE, large, operator

END = 1 << 31  # elements that 32 bits number
WIDE_CASE = ("beyond 2^31", "64-bit offsets")


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def _launches(name: str, *args: Any) -> list[Launch]:
    with attention_backend("triton", "sm90"):
        return list(OPERATORS[f"minimodels::{name}"].plan(*args)[1])


def _wide(name: str, *args: Any) -> bool:
    """Whether offsets have 64 bits: in all launches that choose, or in none."""
    found = {x.constants["WIDE"] for x in _launches(name, *args) if "WIDE" in x.constants}
    assert len(found) == 1, found
    return found.pop()


@pytest.mark.parametrize(("name", "case"), LARGE)
def test_a_call_has_wide_offsets_where_its_name_says_so_and_a_flat_grid(name: str, case: str) -> None:
    args = large(name, case)
    assert _wide(name.removeprefix("minimodels::"), *args) is any(word in case for word in WIDE_CASE)
    with attention_backend("triton", "sm90"):
        assert all(launch.grid[1:] == (1, 1) for launch in operator(name).plan(*args)[1])


def _norm(length: int) -> tuple[Any, ...]:
    return _meta(length // 64, 64), None, None, None, None, 1e-5, False


def _sum(length: int) -> tuple[Any, ...]:
    x, *rest = _norm(length)
    return x, x, *rest


def _group_norm(last: bool, *shape: int) -> Callable[[int], tuple[Any, ...]]:
    def call(length: int) -> tuple[Any, ...]:
        x, channels = _meta(length // _meta(*shape).numel(), *shape), _meta(shape[0])
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        return x, 2, channels, channels, 1e-5, None, None, True

    return call


def _flash(length: int) -> tuple[Any, ...]:
    few = _meta(1, 1, 1, 77, 64)
    return _meta(1, 1, 1, length // 64, 64), few, few, None, False, 0.125


def _cross(length: int) -> tuple[Any, ...]:
    q, k, v, *_ = _flash(length)
    return q, k, v, 0.125


def _decode(length: int) -> tuple[Any, ...]:
    new, cache = _meta(1, 1, 1, 64), _meta(1, 1, length // 64, 64)
    return new, new, new, cache, cache, None, None, length // 64 - 1, 0.125


def _temporal(length: int) -> tuple[Any, ...]:
    q = _meta(1, length // 1024, 1, 16, 64)
    return q, q, q, None, None, None, False, 0.125


def _last(*shape: int) -> Tensor:
    kind = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    return _meta(*shape).contiguous(memory_format=kind)


def _bias_residual(length: int) -> tuple[Any, ...]:
    x = _last(length // (64 * 256), 64, 16, 16)
    return x, _meta(64), x, None, 1.0


def _temporal_conv(length: int) -> tuple[Any, ...]:
    return _last(length // (64 * 4096), 64, 16, 16, 16), _last(64, 64, 3, 1, 1), None, None, None


def _guided(length: int) -> tuple[Any, ...]:
    x = _meta(length // 64, 64, 1, 1)
    return x, _meta(2 * x.shape[0], 64, 1, 1), x, 3.0, 0.5, 0.5, 0.1


def _draw(length: int) -> tuple[Any, ...]:
    return _meta(length // 8192, 8192), None, torch.empty((), device="meta", dtype=torch.int64), 1.0


def _unmask(length: int) -> tuple[Any, ...]:
    logits, seed = _meta(length // (8192 * 256), 256, 8192), torch.empty((), device="meta", dtype=torch.int64)
    return torch.empty(logits.shape[:2], device="meta", dtype=torch.int64), logits, None, None, seed, 8192, 3, 1.0, 1.0


CALLS: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "layer_norm": _norm,
    "layer_norm, streamed": lambda length: (_meta(length // (1 << 14), 1 << 14), *_norm(64)[1:]),
    "add_layer_norm": _sum,
    "group_norm, one launch": _group_norm(False, 8, 2, 4),
    "group_norm, channels first": _group_norm(False, 4, 128, 128),
    "group_norm, channels last": _group_norm(True, 8, 16, 16),
    "flash_attention": _flash,
    "cross_attention": _cross,
    "decode_attention": _decode,
    "temporal_attention": _temporal,
    "bias_residual": _bias_residual,
    "upsample": lambda length: (_last(length // (64 * 256), 64, 16, 16),),
    "temporal_conv": _temporal_conv,
    "gated": lambda length: (_meta(length // 64, 64), _meta(length // 64, 64), "silu"),
    "rotate": lambda length: (*2 * (_meta(length // 4096, 4, 16, 64),), _meta(16, 64), _meta(16, 64)),
    "guided_step": _guided,
    "draw_token": _draw,
    "unmask_step": _unmask,
}


@pytest.mark.parametrize("call", CALLS)
def test_offsets_have_64_bits_from_2_to_the_31_elements_on(call: str) -> None:
    name = call.partition(",")[0]
    assert _wide(name, *CALLS[call](END)) is True
    assert _wide(name, *CALLS[call](END // 8)) is False


@pytest.mark.parametrize("far", ("q", "k", "v", "bias", None))
def test_positions_far_apart_in_any_one_tensor_have_wide_offsets(far: str | None) -> None:
    shapes = {"q": (1, 3, 2, 5, 16), "k": (1, 3, 2, 7, 16), "v": (1, 3, 2, 7, 16), "bias": (1, 3, 2, 5, 7)}
    given = {name: _meta(*shape) for name, shape in shapes.items()}
    if far is not None:
        _, *rest = given[far].stride()
        apart = (END, END // 2, *rest[1:])  # the third position begins at 2^31
        given[far] = torch.empty_strided(shapes[far], apart, device="meta", dtype=torch.bfloat16)
    assert _wide("temporal_attention", *given.values(), None, None, False, 0.25) is (far is not None)


@pytest.mark.parametrize("sequences", (65_535, 65_536, 1_000_000))
def test_any_number_of_sequences_is_one_flat_grid(sequences: int) -> None:
    q, k = _meta(1, sequences, 1, 130, 64), _meta(1, sequences, 1, 130, 64)
    few, frames, short = k[..., :77, :], _meta(1, sequences, 1, 76, 64), _meta(1, sequences, 1, 16, 64)
    new, cache, channels = _meta(sequences, 1, 1, 64), _meta(sequences, 1, 9, 64), _meta(8)
    each = {
        "flash_attention": (q, k, k, None, False, 0.125),
        "cross_attention": (q, few, few, 0.125),
        "decode_attention": (new, new, new, cache, cache, None, None, 7, 0.125),
        "temporal_attention": (frames, frames, frames, None, None, None, False, 0.125),
        "group_norm": (_meta(sequences, 8, 3, 5), 1, channels, channels, 1e-5, None, None, True),
        "layer_norm": (_meta(sequences, 1 << 14), *_norm(64)[1:]),
        "add_layer_norm": (_meta(sequences, 1 << 14), _meta(sequences, 1 << 14), *_norm(64)[1:]),
    }
    for name, args in each.items():
        launches = _launches(name, *args)
        assert launches[0].grid[0] >= sequences and all(launch.grid[1:] == (1, 1) for launch in launches), name
    (launch,) = _launches("temporal_attention", short, short, short, None, None, None, False, 0.125)
    together = launch.constants["G"]
    assert launch.grid == (-(-sequences // together), 1, 1) and together > 1, "several positions a program"
