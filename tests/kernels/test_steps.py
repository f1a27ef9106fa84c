"""Kernels of a step: guidance with a sampler's step, tokens drawn and masked again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from minimodels.diffusion_config import Denoising, Schedule
from minimodels.kernels import fused
from minimodels.kernels.backend import kernel_backend
from minimodels.kernels.operator import OPERATORS
from minimodels.kernels.philox import exponentials, uniforms
from minimodels.samplers import Sampler, guide, sample_token, unmask
from tests.kernels.cases import draw_token, guided_step, unmask_step
from tests.sim.test_trace import Listing

STEPS = 7


def make_sampler(kind: str, prediction: str, threshold: float | None = None) -> Sampler:
    schedule = Schedule.model_validate({"kind": "cosine", "timesteps": 1000, "prediction": prediction})
    run = {"steps": STEPS, "guidance_scale": 3.0, "sampler": kind, "dynamic_threshold": threshold}
    return Sampler.of(schedule, Denoising.model_validate(run))


@pytest.mark.parametrize("scale", [None, 0.4, 3.0])
@pytest.mark.parametrize("prediction", ["noise", "velocity", "clean"])
@pytest.mark.parametrize("kind", ["ddim", "ddpm", "euler"])
def test_a_step_is_the_sum_that_its_factors_say(kind: str, prediction: str, scale: float | None) -> None:
    """In float64 by the formulas, in float32 through the operator; both with the noise of one seed."""
    sampler = make_sampler(kind, prediction)
    x, predicted = torch.randn(2, 3, 5, 5), torch.randn(2 if scale is None else 4, 3, 5, 5)
    for index in range(STEPS):
        torch.manual_seed(index)
        guided = predicted if scale is None else guide(predicted, scale)
        expected = sampler.step(index, x, guided)
        torch.manual_seed(index)
        with kernel_backend("triton"), torch.no_grad():
            found = sampler.advance(index, x, predicted, scale)
        size = expected.abs().max().item()
        # cancellation in `step` where noise is almost all there is, of a state that is at most this large
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, size))
        exact, half = sampler.affine(index), x.double()
        torch.manual_seed(index)
        wide = sampler.step(index, half, guided.double())
        torch.manual_seed(index)
        noise = torch.empty_like(half).normal_()
        summed = exact[0] * half + exact[1] * guided.double() + exact[2] * noise
        torch.testing.assert_close(summed, wide, rtol=1e-9, atol=1e-9 * max(1.0, size))
        assert (exact[2] == 0) == (kind != "ddpm" or sampler.signal_next[index] == 1)


def _operators(call: Any) -> list[str]:
    listing = Listing()
    with torch.no_grad(), listing:
        call()
    return [name for name, _ in listing.operators]


def test_a_threshold_and_float64_run_torchs_operators() -> None:
    x, predicted = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 5, 5)
    plain, bounded = make_sampler("ddim", "noise"), make_sampler("ddim", "noise", 0.9)
    with kernel_backend("triton"):
        assert _operators(lambda: plain.advance(1, x, predicted, 3.0)) == [guided_step.OPERATOR]
        assert guided_step.OPERATOR not in _operators(lambda: plain.advance(1, x.double(), predicted.double(), 3.0))
        assert not fused.takes_step(x[..., ::2], predicted[..., ::2]), "x has gaps"
        with pytest.raises(AssertionError, match="not linear"):
            bounded.affine(1)
    default = _operators(lambda: plain.advance(1, x, predicted, 3.0))
    assert default == _operators(lambda: plain.step(1, x, guide(predicted, 3.0))) and len(default) > 5


def test_bytes_of_steps_are_those_counted_by_hand() -> None:
    def work(name: str, args: tuple[Any, ...]) -> tuple[int, int, int, int]:
        found = OPERATORS[name].work(args, {}, (OPERATORS[name].call(*args),))
        return found.bytes_read, found.bytes_written, found.launches, found.workspace

    image = 2 * 3 * 4 * 5 * 2
    assert work(guided_step.OPERATOR, guided_step.arguments(2, 3, 4, 5, device="meta")) == (3 * image, image, 1, 0)
    told = guided_step.arguments(2, 3, 4, 5, noise=True, scale=None, device="meta")
    assert work(guided_step.OPERATOR, told) == (3 * image, image, 1, 0)
    tokens, logits, sure = 2 * 7 * 8, 2 * 7 * 13 * 2, 2 * 7 * 4
    step = unmask_step.arguments(2, 7, 13, 3, given=False, device="meta")
    assert work(unmask_step.OPERATOR, step) == (tokens + logits + 8 + sure, tokens + sure, 2, sure)
    last = unmask_step.arguments(2, 7, 13, 0, device="meta")
    assert work(unmask_step.OPERATOR, last) == (tokens + logits + 2 * logits + 2 * 7 * 4, tokens, 1, 0)
    drawn = draw_token.arguments(3, 37, given=False, device="meta")
    assert work(draw_token.OPERATOR, drawn) == (3 * 37 * 2 + 8, 3 * 8, 1, 0)


def test_offsets_of_steps_are_64_bits_wide_from_2_to_the_31_on() -> None:
    for rows, expected in (((1 << 16) - 4, False), (1 << 16, True)):
        _, (launch,) = OPERATORS[draw_token.OPERATOR].plan(*draw_token.arguments(rows, 32768, device="meta"))
        assert launch.constants["WIDE"] is expected and launch.grid == (rows, 1, 1)
    for count, expected in ((2, False), (4, True)):
        args = guided_step.arguments(count, 1, 1 << 14, 1 << 14, device="meta")
        _, (launch,) = OPERATORS[guided_step.OPERATOR].plan(*args)
        assert launch.constants["WIDE"] is expected


def test_of_equally_sure_tokens_the_earlier_are_masked() -> None:
    args = unmask_step.arguments(1, 37, 4, 11, known=0.3, equal=True, dtype=torch.float32)
    found = OPERATORS[unmask_step.OPERATOR].call(*args)
    hidden = (args[0] == 4).nonzero()[:, 1]
    assert (found == 4).nonzero()[:, 1].tolist() == hidden[:11].tolist()
    assert (found[0, hidden[11:]] == 0).all(), "of equal logits with equal noise the first wins"


def test_masks_are_exactly_as_many_as_asked_and_kept_tokens_stay() -> None:
    torch.manual_seed(5)
    tokens = torch.full((3, 41), 7)
    with kernel_backend("triton"):
        for masked in (30, 17, 4, 0):
            before, tokens = tokens, unmask(tokens, torch.randn(3, 41, 7).bfloat16(), 7, masked, 1.0, noise=2.0)
            assert (tokens == 7).sum(1).tolist() == [masked] * 3
            assert torch.equal(tokens[before != 7], before[before != 7])


def test_tokens_are_drawn_by_their_probabilities() -> None:
    torch.manual_seed(7)
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(40_000, 3)
    with kernel_backend("triton"):
        ours = sample_token(logits, 0.5), unmask(torch.full((2, 20_000), 3), logits.view(2, -1, 3), 3, 0, 0.5, 0.0)
        assert not torch.equal(ours[0], sample_token(logits, 0.5)), "every call has noise of its own"
    expected = torch.softmax(torch.tensor([0.0, 2.0, -2.0]), dim=0)
    for drawn in ours:
        shares = torch.bincount(drawn.flatten(), minlength=3) / 40_000
        assert (shares - expected).abs().max() < 4 * 0.5 * 40_000**-0.5, "4 deviations of a share"


def test_one_seed_gives_one_result_and_follows_torchs_generator() -> None:
    logits = torch.randn(64, 50)

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with kernel_backend("triton"):
            return sample_token(logits, 1.0)

    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))


def test_philox_is_that_of_its_authors() -> None:
    """Known answers of Random123 (kat_vectors: philox4x32, 10 rounds) for counter and key of zeros and of ones."""
    from minimodels.kernels.philox import MASK, _philox

    zero, ones = torch.zeros((), dtype=torch.int64), torch.full((), MASK, dtype=torch.int64)
    expected = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(x) for x in _philox(zero, [zero] * 4)] == expected
    expected = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert [int(x) for x in _philox(zero - 1, [ones] * 4)] == expected


def test_exponential_numbers_are_exponential() -> None:
    drawn = uniforms(torch.tensor(-5), 100_001)
    assert not torch.equal(drawn, uniforms(torch.tensor(1), 100_001))
    numbers = exponentials(drawn).flatten()
    assert numbers.min() > 0 and numbers.isfinite().all() and numbers.unique().numel() > 0.95 * numbers.numel()
    for bound in (1e-3, 0.1, 1.0, 3.0):  # 4 deviations of a share
        share, expected = (numbers < bound).double().mean().item(), -torch.tensor(-bound).expm1().item()
        assert abs(share - expected) < 4 * (expected / numbers.numel()) ** 0.5


def test_tokens_drawn_from_a_seed_are_as_frequent_as_probable() -> None:
    """Of columns that share a class and those that do not; 5 deviations of a share."""
    logits = 2 * torch.randn(307, generator=torch.Generator().manual_seed(1))
    rows = 40_001
    step = OPERATORS[draw_token.OPERATOR].call(logits.expand(rows, -1), None, torch.tensor(7), 0.8)
    found = torch.bincount(step, minlength=307) / rows
    expected = (logits / 0.8).softmax(-1)
    assert ((found - expected).abs() <= 5 * (expected / rows).sqrt() + 1 / rows).all()


def test_how_many_tokens_stay_masked_compiles_nothing_anew() -> None:
    """torch.compile takes an integer for fixed until it has seen a second value of it."""
    torch._dynamo.reset()
    counter, known = CompileCounterWithBackend("aot_eager"), OPERATORS[unmask_step.OPERATOR]
    *args, _, temperature, strength = unmask_step.small(next(iter(unmask_step.SMALL)), torch.float32)
    step = torch.compile(
        lambda masked: known.call(*args, masked, temperature, strength), fullgraph=True, backend=counter
    )
    with torch.no_grad():
        for masked in (6, 5, 3, 2, 0):
            assert torch.equal(step(masked), known.call(*args, masked, temperature, strength))
    assert counter.frame_count == 2
