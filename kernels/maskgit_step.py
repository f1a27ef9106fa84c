"""A token drawn from every row of logits, and the least sure masked again, in one read of the logits.

`draw_token`: logits (b, vocab) -> tokens (b). `unmask_step`: tokens (b, n), logits (b, n, vocab) -> tokens (b, n),
as `samplers.unmask`, the logits of any strides. Inside:

1. draw. From given noise e by exponential race: the argmax of l / temperature - log e, which is that of p / e without
   p. Every lane keeps the best of its columns and a running maximum and sum of the softmax; lanes are joined once, at
   the end. From a seed (`philox`) by two uniform numbers a row: the first chooses one of `CLASSES` classes of columns,
   those with the same remainder, by the classes' sums; the second a column of the class, which is read again. So there
   is nothing to draw for a logit, and no logarithm: an exponential each, with the maximum of the first columns as the
   reference (if a later logit is so large that the sum overflows, the row is gone through again with its maximum).
   The confidence is log p of what was drawn plus Gumbel noise. Rows whose token is known are not read;
2. rank: how many of a row's tokens are less sure, counted, not sorted: an equal one counts if it comes earlier, so
   of equals the earlier are masked, exactly as many as asked for.

Why: torch reads or writes logits-sized tensors 10 times a step, in 20 launches, and sorts twice.
Computed, not measured: on sm90 the loop takes 7 instructions a logit from a seed, so that memory binds, and 48 from
given noise (logarithms are exact ones). Issue then holds an H100 to 0.6 TB/s of half-precision logits, beside which
1.3 TB/s of noise is read.
Source: Chang et al. 2022 (MaskGIT), arXiv 2202.04200, section 3.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels import maskgit_launches as launches
from minimodels.kernels.launch import Launch, cdiv, power_of_2, wide
from minimodels.kernels.operands import both, require, rows
from minimodels.kernels.operator import define
from minimodels.kernels.philox import exponentials, uniforms
from minimodels.kernels.work import Work, size_bytes

TILE = 2048  # logits of a program at a time
FEW_ROWS = 128  # up to which a row gets as large a program as there is
SECTOR = 16  # rows of a program where it is rows that lie together: 32 bytes of half precision
CLASSES = 128  # of columns, by their remainder; a tile holds whole rounds of them
RANKED, COMPARED = 2, 256  # tokens that a program ranks, and how many it compares them with at a time


def _check_logits(logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float) -> None:
    require(logits.dim() > 1 and logits.shape[-1], f"logits have a row a token, not shape {tuple(logits.shape)}")
    require(temperature > 0, f"temperature divides the logits and is positive, not {temperature}")
    require((noise is None) != (seed is None), "noise, or a seed to draw it from: one of the two")
    rows("noise", noise, logits.shape)
    require(seed is None or seed.numel() == 1 and seed.dtype == torch.int64, "the seed is one int64")


def _check_draw(logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float) -> None:
    require(logits.dim() == 2, f"logits are (rows, vocab), not of shape {tuple(logits.shape)}")
    _check_logits(logits, noise, seed, temperature)


def _check(
    tokens: Tensor, logits: Tensor, noise: Tensor | None, choice: Tensor | None, seed: Tensor | None, mask: int,
    masked: int, temperature: float, strength: float,
) -> None:  # fmt: skip
    require(logits.dim() == 3, f"logits are (b, n, vocab), not of shape {tuple(logits.shape)}")
    _check_logits(logits, noise, seed, temperature)
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
        rows, columns = 1, min(power_of_2(vocab, CLASSES), TILE if batch * n > FEW_ROWS else 4 * TILE)
        each = 32 if noise is None else 16
    else:
        rows, columns, each = SECTOR, TILE // SECTOR, 8
    blocks = cdiv(n, rows)
    sizes = (*logits.stride(), n, vocab, blocks, 1 / temperature, strength, mask)
    num_warps = max(1, rows * columns // (32 * each))  # `each` logits a thread, half of it where a warp has 64 lanes
    constants = {"ROWS": rows, "COLUMNS": columns, "WIDE": wide(logits, noise)}
    if noise is not None:
        args = (tokens, logits, noise, choice, out, sure, *sizes)
        return Launch(launches.race, (batch * blocks, 1, 1), args, constants, num_warps)
    constants |= {"CLASSES": CLASSES, "MEMBERS": power_of_2(cdiv(vocab, CLASSES))}
    args = (tokens, logits, seed, out, sure, *sizes)
    return Launch(launches.pick, (batch * blocks, 1, 1), args, constants, num_warps)


def plan(
    tokens: Tensor, logits: Tensor, noise: Tensor | None, choice: Tensor | None, seed: Tensor | None, mask: int,
    masked: int, temperature: float, strength: float,
) -> tuple[Tensor, list[Launch]]:  # fmt: skip
    """The result and its launches: draw, and rank unless no token is to be masked."""
    (batch, n), out = tokens.shape, torch.empty_like(tokens)
    sure = tokens.new_empty(batch, n, dtype=torch.float32) if masked else None
    made = [_drawing(tokens, logits, noise, choice, seed, out, sure, temperature, strength, mask)]
    if sure is not None:
        blocks = cdiv(n, RANKED)
        constants = {"ROWS": RANKED, "COLUMNS": COMPARED}
        made.append(Launch(launches.rank, (batch * blocks, 1, 1), (sure, out, n, masked, mask, blocks), constants, 1))
    return out, made


def plan_draw(
    logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float
) -> tuple[Tensor, list[Launch]]:
    """The tokens and the launch that draws them."""
    out = torch.empty(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    noise = None if noise is None else noise[:, None]
    return out, [_drawing(None, logits[:, None], noise, None, seed, out, None, temperature, 0.0, -1)]


def _drawn(logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Logits over the temperature, in float32 at least, and the tokens drawn."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) * (1 / temperature)
    if noise is not None:
        return scaled, (scaled - noise.to(scaled.dtype).log()).argmax(-1)
    assert seed is not None, "noise, or a seed to draw it from"
    one, other = (x.to(scaled.dtype).view(scaled.shape[:-1]) for x in uniforms(seed, scaled[..., 0].numel()).T[:2])
    padded = F.pad(scaled.softmax(-1), (0, -scaled.shape[-1] % CLASSES))
    by_class = padded.unflatten(-1, (-1, CLASSES))
    of_class = _place_of(by_class.sum(-2), one)
    index = of_class[..., None, None].expand(*by_class.shape[:-1], 1)
    return scaled, of_class + CLASSES * _place_of(by_class.gather(-1, index)[..., 0], other)


def _place_of(mass: Tensor, uniform: Tensor) -> Tensor:
    """Where `uniform` falls in the cumulative sums of mass (..., n)."""
    sums = mass.cumsum(-1)
    return (sums <= (uniform * sums[..., -1])[..., None]).sum(-1)


def reference(
    tokens: Tensor, logits: Tensor, noise: Tensor | None, choice: Tensor | None, seed: Tensor | None, mask: int,
    masked: int, temperature: float, strength: float,
) -> Tensor:  # fmt: skip
    """The same in plain torch, in float32 at least."""
    scaled, chosen = _drawn(logits, noise, seed, temperature)
    hidden = tokens == mask
    if choice is None:
        assert seed is not None, "noise, or a seed to draw it from"
        choice = exponentials(uniforms(seed, tokens.numel())[:, 2]).view(tokens.shape)
    own = torch.gather(scaled.log_softmax(-1), -1, chosen[..., None])[..., 0]
    sure = torch.where(hidden, own - strength * choice.to(own.dtype).log(), math.inf)
    rank = sure.argsort(dim=-1, stable=True).argsort(dim=-1)
    return torch.where(hidden & (rank < masked), mask, torch.where(hidden, chosen, tokens))


def reference_draw(logits: Tensor, noise: Tensor | None, seed: Tensor | None, temperature: float) -> Tensor:
    """The same in plain torch, in float32 at least."""
    return _drawn(logits, noise, seed, temperature)[1]


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
