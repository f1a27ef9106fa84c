"""A token drawn from every row of logits, and the least sure masked again, in one read of the logits.

`draw_token`: logits (b, vocab) -> tokens (b). `unmask_step`: tokens (b, n), logits (b, n, vocab) -> tokens (b, n),
as `samplers.unmask`, the logits of any strides. Inside:

1. draw: by exponential race, the argmax of l / temperature - log e, which is that of p / e without p. Every lane keeps
   the best of its columns and a running maximum and sum of the softmax; lanes are joined once, at the end. The
   confidence is log p of what was drawn plus Gumbel noise. Rows whose token is known are not read;
2. rank: how many of a row's tokens are less sure, counted, not sorted: an equal one counts if it comes earlier, so
   of equals the earlier are masked, exactly as many as asked for.

The noise e is a tensor, or drawn inside from a seed (`philox`): its logits-sized write and read are then saved too.

Why: torch reads or writes logits-sized tensors 10 times a step, in 20 launches, and sorts twice.
Computed, not measured: on sm90 a logit takes 96 instructions from a seed and 48 from given noise (logarithms are
exact ones), with no barrier in the loop. Issue, not memory, then holds an H100 to 0.6 TB/s of half-precision logits.
Source: Chang et al. 2022 (MaskGIT), arXiv 2202.04200, section 3.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.launch import Launch, cdiv, jit, power_of_2, tl, wide
from minimodels.kernels.operands import both, require, rows
from minimodels.kernels.operator import define
from minimodels.kernels.philox import exponential_row, exponential_tile, exponentials
from minimodels.kernels.work import Work, size_bytes

TILE = 2048  # logits of a program at a time
FEW_ROWS = 128  # up to which a row gets as large a program as there is
SECTOR = 16  # rows of a program where it is rows that lie together: 32 bytes of half precision
RANKED, COMPARED = 2, 256  # tokens that a program ranks, and how many it compares them with at a time


@jit
def _draw(
    tokens, logits, noise, choice, seed, out, sure, batch_stride, row_stride, vocab_stride, n, vocab, row_blocks,
    inverse, strength, mask,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Draw ROWS tokens of a sample; `sure`: where their confidence goes, infinite for known tokens."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    batch = program // row_blocks
    row = (program % row_blocks) * ROWS + tl.arange(0, ROWS)
    here = row < n
    number = batch * n + row
    asked, end = here, vocab
    if tokens is not None:
        known = tl.load(tokens + number, mask=here, other=0)
        asked = here & (known == mask)
        end = tl.where(tl.max(asked.to(tl.int32), 0) > 0, vocab, 0)
    best = tl.full((ROWS, COLUMNS), float("-inf"), tl.float32)
    index = tl.zeros((ROWS, COLUMNS), tl.int32)
    top = tl.full((ROWS, COLUMNS), -3.0e38, tl.float32)  # finite, so that no difference of infinities arises
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    base = logits + batch * batch_stride + row * row_stride
    for start in range(0, end, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        inside = asked[:, None] & (column < vocab)
        at = column.to(tl.int64) if WIDE else column
        value = tl.load(base[:, None] + at * vocab_stride, mask=inside, other=float("-inf")).to(tl.float32) * inverse
        if noise is not None:
            drawn = tl.load(noise + number[:, None] * vocab + column, mask=inside, other=1.0).to(tl.float32)
        else:
            drawn = exponential_tile(tl.load(seed), number[:, None], start, ROWS, COLUMNS)
        score = value - tl.log(drawn)
        better = score > best
        best, index = tl.where(better, score, best), tl.where(better, column, index)
        above = value - top
        factor = tl.exp(-tl.abs(above))
        total = tl.where(above > 0, total * factor + 1.0, total + factor)
        top = tl.maximum(top, value)
    most = tl.max(best, 1)
    chosen = tl.min(tl.where(best == most[:, None], index, 2147483647), 1)
    if tokens is not None:
        token = tl.where(asked, chosen, known)
    else:
        token = chosen.to(tl.int64)
    tl.store(out + number, token, mask=here)
    if sure is not None:
        highest = tl.max(top, 1)
        mass = tl.sum(total * tl.exp(top - highest[:, None]), 1)
        mass = tl.where(asked, mass, 1.0)
        own = tl.load(base + chosen.to(batch.dtype) * vocab_stride, mask=asked, other=0.0).to(tl.float32) * inverse
        if choice is not None:
            luck = tl.load(choice + number, mask=here, other=1.0).to(tl.float32)
        else:
            luck = exponential_row(tl.load(seed), number)
        confidence = own - highest - tl.log(mass) - strength * tl.log(luck)
        tl.store(sure + number, tl.where(asked, confidence, float("inf")), mask=here)


@jit
def _rank(sure, out, n, masked, mask, row_blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mask those of ROWS tokens of a sample that are among its `masked` least sure."""
    program = tl.program_id(0)
    base = (program // row_blocks) * n
    row = (program % row_blocks) * ROWS + tl.arange(0, ROWS)
    own = tl.load(sure + base + row, mask=row < n, other=float("inf"))
    counts = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, n, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        other = tl.load(sure + base + column, mask=column < n, other=float("inf"))[None, :]
        before = (other < own[:, None]) | ((other == own[:, None]) & (column[None, :] < row[:, None]))
        counts += before.to(tl.int32)
    least = (tl.sum(counts, 1) < masked) & (own < float("inf"))
    tl.store(out + base + row, tl.zeros((ROWS,), tl.int64) + mask, mask=least & (row < n))


def _check_draw(logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float) -> None:
    require(logits.dim() > 1 and logits.shape[-1], f"logits have a row a token, not shape {tuple(logits.shape)}")
    require(temperature > 0, f"temperature divides the logits and is positive, not {temperature}")
    require((noise is None) != (seed is None), "noise, or a seed to draw it from: one of the two")
    rows("noise", noise, logits.shape)
    require(seed is None or seed.numel() == 1 and seed.dtype == torch.int64, "the seed is one int64")


def _check(
    tokens: Tensor, logits: Tensor, noise: Tensor | None, choice: Tensor | None, seed: Tensor | None, mask: int,
    masked: int, temperature: float, strength: float,
) -> None:  # fmt: skip
    require(logits.dim() == 3, f"logits are (b, n, vocab), not of shape {tuple(logits.shape)}")
    _check_draw(logits, noise, seed, temperature)
    require(tokens.dtype == torch.int64, f"tokens are int64, not {tokens.dtype}")
    rows("tokens", tokens, logits.shape[:2])
    both("noise", noise, "choice", choice)
    rows("choice", choice, logits.shape[:2])


def _drawing(
    tokens: Tensor | None, logits: Tensor, noise: Tensor | None, choice: Tensor | None, seed: Tensor | None,
    out: Tensor, sure: Tensor | None, temperature: float, strength: float, mask: int,
) -> Launch:  # fmt: skip
    """The launch that draws from logits (b, n, vocab)."""
    batch, n, vocab = logits.shape
    if logits.stride(2) == 1 or n == 1:
        rows, columns, each = 1, min(power_of_2(vocab, 128), TILE if batch * n > FEW_ROWS else 4 * TILE), 16
    else:
        rows, columns, each = SECTOR, TILE // SECTOR, 8
    blocks = cdiv(n, rows)
    args = (
        tokens, logits, noise, choice, seed, out, sure, *logits.stride(), n, vocab, blocks, 1 / temperature, strength,
        mask,
    )  # fmt: skip
    constants = {"ROWS": rows, "COLUMNS": columns, "WIDE": wide(logits, noise)}
    num_warps = max(1, rows * columns // (32 * each))  # `each` logits a thread, half of it where a warp has 64 lanes
    return Launch(_draw, (batch * blocks, 1, 1), args, constants, num_warps)


def plan(
    tokens: Tensor, logits: Tensor, noise: Tensor | None, choice: Tensor | None, seed: Tensor | None, mask: int,
    masked: int, temperature: float, strength: float,
) -> tuple[Tensor, list[Launch]]:  # fmt: skip
    """The result and its launches: draw, and rank unless no token is to be masked."""
    (batch, n), out = tokens.shape, torch.empty_like(tokens)
    sure = tokens.new_empty(batch, n, dtype=torch.float32) if masked else None
    launches = [_drawing(tokens, logits, noise, choice, seed, out, sure, temperature, strength, mask)]
    if sure is not None:
        blocks = cdiv(n, RANKED)
        constants = {"ROWS": RANKED, "COLUMNS": COMPARED}
        launches.append(Launch(_rank, (batch * blocks, 1, 1), (sure, out, n, masked, mask, blocks), constants, 1))
    return out, launches


def plan_draw(
    logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float
) -> tuple[Tensor, list[Launch]]:
    """The tokens and the launch that draws them."""
    out = torch.empty(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    noise = None if noise is None else noise[:, None]
    return out, [_drawing(None, logits[:, None], noise, None, seed, out, None, temperature, 0.0, -1)]


def _scores(
    logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Logits over the temperature, and the same less the logarithm of the noise, in float32 at least."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) * (1 / temperature)
    if noise is None:
        assert seed is not None, "noise, or a seed to draw it from"
        noise = exponentials(seed, scaled[..., 0].numel(), scaled.shape[-1], 0).view(scaled.shape)
    return scaled, scaled - noise.to(scaled.dtype).log()


def reference(
    tokens: Tensor, logits: Tensor, noise: Tensor | None, choice: Tensor | None, seed: Tensor | None, mask: int,
    masked: int, temperature: float, strength: float,
) -> Tensor:  # fmt: skip
    """The same in plain torch, in float32 at least."""
    scaled, scores = _scores(logits, noise, seed, temperature)
    hidden, chosen = tokens == mask, scores.argmax(-1)
    if choice is None:
        assert seed is not None, "noise, or a seed to draw it from"
        choice = exponentials(seed, tokens.numel(), 1, 1).view(tokens.shape)
    own = torch.gather(scaled.log_softmax(-1), -1, chosen[..., None])[..., 0]
    sure = torch.where(hidden, own - strength * choice.to(own.dtype).log(), math.inf)
    rank = sure.argsort(dim=-1, stable=True).argsort(dim=-1)
    return torch.where(hidden & (rank < masked), mask, torch.where(hidden, chosen, tokens))


def reference_draw(logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float) -> Tensor:
    """The same in plain torch, in float32 at least."""
    return _scores(logits, noise, seed, temperature)[1].argmax(-1)


def _race(logits: Tensor, noise: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Probabilities, and the winners of their race, as the models run it."""
    probability = torch.softmax(logits / temperature, dim=-1)
    noise = torch.empty_like(probability).exponential_() if noise is None else noise
    return probability, (probability / noise).argmax(dim=-1)


def eager(
    tokens: Tensor, logits: Tensor, noise: Tensor | None, choice: Tensor | None, seed: Tensor | None, mask: int,
    masked: int, temperature: float, strength: float,
) -> Tensor:  # fmt: skip
    """As the models run it: a softmax, a race, a gather, two sorts. Without noise its own is drawn, not the seed's."""
    probability, winners = _race(logits, noise, temperature)
    hidden = tokens == mask
    drawn = torch.where(hidden, winners, tokens)
    own = torch.gather(probability, -1, drawn.clamp(max=logits.shape[-1] - 1)[..., None])[..., 0]
    gumbel = -(torch.empty_like(own).exponential_() if choice is None else choice).log()
    sure = torch.where(hidden, own.log() + strength * gumbel, math.inf)
    rank = sure.argsort(dim=-1).argsort(dim=-1)
    return torch.where(torch.where(hidden, rank, masked) < masked, mask, drawn)


def eager_draw(logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float) -> Tensor:
    """As the models run it: a softmax and a race. Without noise its own is drawn, not the seed's."""
    return _race(logits, noise, temperature)[1]


def _fake(tokens: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(tokens)


def _fake_draw(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty(logits.shape[:-1], dtype=torch.int64, device=logits.device)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Logits and noise read once, though rows of known tokens are not; confidences written, then read."""
    read, written, masked = sum(size_bytes(x) for x in args[:5] if x is not None), size_bytes(out[0]), args[6]
    sure = 4 * args[0].numel() if masked else 0
    return Work("softmax", 0, read + sure, written + sure, 2 if masked else 1, workspace=sure)


def _work_draw(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Logits and noise read once."""
    return Work("softmax", 0, sum(size_bytes(x) for x in args[:3] if x is not None), size_bytes(out[0]))


unmask_step = define(
    "unmask_step(Tensor tokens, Tensor logits, Tensor? noise, Tensor? choice, Tensor? seed, int mask,"
    " SymInt masked, float temperature, float strength) -> Tensor",
    plan=plan, reference=reference, eager=eager, fake=_fake, work=_work, check=_check,
)  # fmt: skip
"""unmask_step(tokens, logits, noise, choice, seed, mask, masked, temperature, strength) -> Tensor: see the module.

noise: exponential, of the logits' shape, contiguous, and choice: exponential, (b, n); or seed: int64, (). Under
torch.compile a new `masked` compiles nothing anew, a new `strength` does, as every float of a custom operator.
"""

draw_token = define(
    "draw_token(Tensor logits, Tensor? noise, Tensor? seed, float temperature) -> Tensor",
    plan=plan_draw, reference=reference_draw, eager=eager_draw, fake=_fake_draw, work=_work_draw, check=_check_draw,
)  # fmt: skip
"""draw_token(logits, noise, seed, temperature) -> Tensor: see the module; noise or seed as of `unmask_step`."""
