"""Operators given what their kernels would read wrongly refuse it; asked for nothing, they launch nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from minimodels.kernels.operator import OPERATORS
from tests.kernels.all_cases import MODULES
from tests.kernels.cases import decode_attention, temporal_attention

X = torch.randn(2, 6, 3, 5)
LAST = X.contiguous(memory_format=torch.channels_last)
CLIP = torch.randn(1, 6, 4, 3, 3).contiguous(memory_format=torch.channels_last_3d)
TAPS = torch.randn(6, 6, 3, 1, 1).contiguous(memory_format=torch.channels_last_3d)
ONE, APART, SHORT = torch.ones(6), torch.ones(12)[::2], torch.ones(5)
Q, K, V, _, _, _, _, SCALE = temporal_attention.arguments(1, 2, 2, 5, 16, dtype=torch.float32)
TABLE = torch.ones(5, 16)
NEW_Q, NEW_K, NEW_V, KEYS, VALUES, *_ = decode_attention.arguments(1, 2, 16, 3, 9, dtype=torch.float32)
TOKENS, LOGITS = torch.zeros(2, 7, dtype=torch.int64), torch.randn(2, 7, 11)
NOISE, CHOICE, SEED = torch.ones(2, 7, 11), torch.ones(2, 7), torch.zeros((), dtype=torch.int64)

RIGHT: dict[str, tuple[Any, ...]] = {
    "group_norm": (X, 3, ONE, ONE, 1e-5, None, None, True),
    "layer_norm": (X.mT.contiguous().view(2, 15, 6), ONE, ONE, torch.ones(2, 6), torch.ones(2, 6), 1e-5, False),
    "add_layer_norm": (torch.ones(4, 6), torch.ones(4, 6), ONE, None, None, None, 1e-5, True),
    "bias_residual": (LAST, ONE, LAST, ONE, 2.0),
    "upsample": (LAST,),
    "temporal_conv": (CLIP, TAPS, ONE, CLIP, ONE),
    "gated": (torch.ones(4, 6), torch.ones(4, 6), "silu"),
    "rotate": (Q[0], K[0], TABLE, TABLE),
    "guided_step": (X, torch.cat([X, X]), X, 3.0, 0.5, 0.5, 0.1),
    "draw_token": (LOGITS[0], NOISE[0], None, 1.0),
    "unmask_step": (TOKENS, LOGITS, NOISE, CHOICE, None, 12, 3, 1.0, 1.0),
    "temporal_attention": (Q, K, V, None, TABLE, TABLE, False, SCALE),
    "cross_attention": (Q, K, V, SCALE),
    "flash_attention": (Q, K, V, torch.zeros(5, 5), True, SCALE),
    "decode_attention": (NEW_Q, NEW_K, NEW_V, KEYS, VALUES, None, None, 3, SCALE),
}
WRONG: list[tuple[str, int, Any, str]] = [
    ("draw_token", 0, LOGITS, "logits are (rows, vocab), not of shape (2, 7, 11)"),
    ("group_norm", 0, X.mT, "x lies channels first or last"), ("group_norm", 1, 4, "divide the 6 channels, which 4 do"),
    ("group_norm", 2, APART, "weight is contiguous, not of strides (2,)"), ("group_norm", 2, SHORT, "weight is (6,)"),
    ("group_norm", 3, APART, "bias is contiguous"), ("group_norm", 3, torch.ones(6, 1), "bias is (6,), not (6, 1)"),
    ("group_norm", 5, torch.ones(2, 6, 1, 1), "shift is missing"),
    ("layer_norm", 0, X[..., ::2], "x is contiguous"), ("layer_norm", 1, APART, "weight is contiguous"),
    ("layer_norm", 2, APART, "bias is contiguous"), ("layer_norm", 2, SHORT, "bias is (6,), not (5,)"),
    ("layer_norm", 3, torch.ones(7, 6), "shift is (7, 6), not (2, 6)"), ("layer_norm", 4, None, "shift is missing"),
    ("add_layer_norm", 1, torch.ones(4, 5), "delta is (4, 6)"), ("add_layer_norm", 2, APART, "weight is contiguous"),
    ("add_layer_norm", 1, torch.ones(4, 6).half(), "one dtype, not x torch.float32, delta torch.float16"),
    ("bias_residual", 0, X, "x lies channels last"), ("bias_residual", 1, APART, "bias is contiguous"),
    ("bias_residual", 1, SHORT, "bias is (6,), not (5,)"), ("bias_residual", 3, APART, "residual_bias is contiguous"),
    ("bias_residual", 2, X, "residual lies channels last"), ("bias_residual", 2, LAST[:1], "the residual is (2, 6"),
    ("upsample", 0, X, "x lies channels last"), ("upsample", 0, CLIP, "x is (b, c, h, w)"),
    ("temporal_conv", 0, CLIP.contiguous(), "lie channels last"), ("temporal_conv", 1, TAPS[:, :, :2], "k odd"),
    ("temporal_conv", 1, TAPS.half(), "one dtype, not x torch.float32, weight torch.float16"),
    ("temporal_conv", 2, APART, "bias is contiguous"), ("temporal_conv", 4, SHORT, "residual_bias is (6,)"),
    ("temporal_conv", 3, None, "residual_bias is that of a residual, which is missing"),
    ("gated", 1, torch.ones(4, 5), "(4, 6) and (4, 5)"), ("gated", 2, "sine", "not 'sine'"),
    ("gated", 1, torch.ones(6, 4).T, "rows of one stride"), ("gated", 1, torch.ones(4, 6).half(), "one dtype"),
    ("rotate", 2, TABLE[:4], "cos is (5, 16), not (4, 16)"), ("rotate", 3, TABLE.T.contiguous().T, "sin is contiguous"),
    ("rotate", 1, K[0, :1], "of the same b, n and d"), ("rotate", 0, Q[0, ..., :15], "of the same b, n and d"),
    ("guided_step", 1, X, "twice as many samples"), ("guided_step", 2, LAST, "noise is of x's shape"),
    ("guided_step", 0, X.expand(2, 6, 3, 5)[..., :4], "samples like those of x"),
    ("guided_step", 1, torch.ones(4, 6, 3, 1).expand(4, 6, 3, 5), "pixels have one stride in both"),
    ("draw_token", 3, 0.0, "temperature divides the logits and is positive, not 0.0"),
    ("draw_token", 3, -1.0, "not -1.0"), ("draw_token", 0, torch.ones(2, 0), "a row a token, not shape (2, 0)"),
    ("draw_token", 1, None, "noise, or a seed"), ("unmask_step", 7, 0.0, "temperature divides the logits"),
    ("unmask_step", 4, SEED, "one of the two"), ("unmask_step", 3, None, "choice is missing"),
    ("unmask_step", 2, NOISE[:1], "noise is (2, 7, 11)"), ("unmask_step", 0, TOKENS.int(), "tokens are int64"),
    ("unmask_step", 0, TOKENS.T.contiguous().T, "tokens is contiguous"),
    ("temporal_attention", 4, TABLE[:4], "cos is (at least 5, 16)"), ("temporal_attention", 5, None, "sin is missing"),
    ("temporal_attention", 4, TABLE.T.contiguous().T, "cos is contiguous"),
    ("temporal_attention", 0, Q.half(), "one dtype, not torch.float16"), ("temporal_attention", 7, 0.0, "positive"),
    ("temporal_attention", 0, Q.long(), "floats, not torch.int64"),
    ("cross_attention", 0, Q[0], "same batch and head_dim"), ("cross_attention", 3, -1.0, "positive, not -1.0"),
    ("flash_attention", 3, torch.zeros(5, 4), "which (5, 4) cannot be"), ("flash_attention", 5, 0.0, "not 0.0"),
    ("flash_attention", 0, Q.mT.contiguous().mT, "features lie beside each other"),
    ("decode_attention", 7, 9, "a cache of 9 has no room for 1 more at 9"),
    ("decode_attention", 3, KEYS[..., :8], "is (b, kv_heads, capacity, head_dim)"),
    ("decode_attention", 5, torch.zeros(1, 7), "which (1, 7) cannot be"),
    ("decode_attention", 6, torch.zeros(2, dtype=torch.int64), "position is one int64"),
]  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_call_is_taken(name: str) -> None:
    known = OPERATORS[f"minimodels::{name}"]
    assert known.plan(*RIGHT[name])[1]
    known.call(*RIGHT[name])


@pytest.mark.parametrize(("name", "place", "wrong", "message"), WRONG)
def test_a_wrong_operand_is_refused_by_name(name: str, place: int, wrong: Any, message: str) -> None:
    known, args = OPERATORS[f"minimodels::{name}"], list(RIGHT[name])
    args[place] = wrong
    calls: list[Callable[..., Any]] = [known.plan, known.call]
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call(*args)
        assert message in str(caught.value)


def _without_samples(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The call for no samples: tensors whose first dimension counts them have none."""
    samples = args[0].shape[0]
    return tuple(
        x[:0] if isinstance(x, Tensor) and x.dim() > 1 and x.shape[0] in (samples, 2 * samples) else x for x in args
    )


NONE: dict[str, tuple[Any, ...]] = {
    "group_norm": (X[:0], 3, ONE, ONE, 1e-5, torch.ones(0, 6, 1, 1), torch.ones(0, 6, 1, 1), True),
    "group_norm, no pixels": (X[:, :, :0], 3, ONE, ONE, 1e-5, None, None, True),
    "layer_norm": (torch.ones(0, 15, 6), ONE, ONE, torch.ones(0, 6), torch.ones(0, 6), 1e-5, False),
    "add_layer_norm": (torch.ones(0, 6), torch.ones(0, 6), ONE, None, None, None, 1e-5, True),
    "temporal_conv": (CLIP[:0], TAPS, ONE, CLIP[:0], ONE),
    "rotate, no tokens": (Q[0, :, :, :0], K[0, :, :, :0], TABLE[:0], TABLE[:0]),
    "draw_token": (LOGITS[0, :0], NOISE[0, :0], None, 1.0),
    "unmask_step, no tokens": (TOKENS[:, :0], LOGITS[:, :0], None, None, SEED, 12, 0, 1.0, 1.0),
    "temporal_attention, no positions": (Q[:, :0], K[:, :0], V[:, :0], None, TABLE, TABLE, False, SCALE),
    "flash_attention, no queries": (Q[..., :0, :], K, V, torch.zeros(1, 5), False, SCALE),
} | {
    name: _without_samples(RIGHT[name])
    for name in ("bias_residual", "upsample", "gated", "rotate", "guided_step", "unmask_step", "cross_attention",
                 "decode_attention")
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_nothing_is_computed_without_a_launch(name: str) -> None:
    known, args = OPERATORS[f"minimodels::{name.partition(',')[0]}"], NONE[name]
    planned, launches = known.plan(*args)
    assert not launches
    results = known.call(*args)
    for result, meta in zip(_all(results), _all(planned), strict=True):
        assert result.numel() == 0 and (result.shape, result.dtype) == (meta.shape, meta.dtype)
    work = known.work(args, {}, _all(results))
    assert (work.flops, work.bytes_read, work.bytes_written, work.launches) == (0, 0, 0, 0)
    if known.trains:
        asked = [x.requires_grad_() if isinstance(x, Tensor) else x for x in map(_detached, args)]
        sum(x.sum() for x in _all(known.call(*asked[:4], *args[4:]))).backward()  # type: ignore[union-attr]
        assert all(x.grad is None or (x.grad == 0).all() for x in asked if isinstance(x, Tensor))


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def _all(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def test_every_operator_has_a_wrong_and_an_empty_call() -> None:
    names = {name.removeprefix("minimodels::") for name in MODULES}
    assert names == set(RIGHT) == {name for name, *_ in WRONG} == {name.partition(",")[0] for name in NONE}


FIRST_FLOAT = {"unmask_step": 1}  # tokens come first


@pytest.mark.parametrize("name", RIGHT)
def test_a_derivative_in_forward_mode_is_refused_not_dropped(name: str) -> None:
    place, args = FIRST_FLOAT.get(name, 0), list(RIGHT[name])
    operator = OPERATORS[f"minimodels::{name}"].call
    with forward_ad.dual_level():
        operator(*args)
        args[place] = forward_ad.make_dual(args[place], torch.ones_like(args[place]))
        with pytest.raises(RuntimeError, match=f"minimodels::{name} has no derivative in forward mode"):
            operator(*args)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.complex64, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", RIGHT)
def test_a_kernel_refuses_dtypes_that_it_does_not_compute_in(name: str, dtype: torch.dtype) -> None:
    def given(x: Any) -> Any:
        floating = isinstance(x, Tensor) and x.is_floating_point()
        return x.to(dtype) if floating else x

    with pytest.raises(ValueError, match=r"minimodels::|dtype|float|of one"):
        OPERATORS[f"minimodels::{name}"].plan(*(given(x) for x in RIGHT[name]))
