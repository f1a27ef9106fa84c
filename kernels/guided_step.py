"""Guidance and a sampler's step in one launch: x (b, c, *pixels), predicted (2b or b, c, *pixels) -> the next x.

    of_x x + of_predicted (u + scale (c - u)) + of_noise noise

with c the first half of the prediction and u the second; without a scale the prediction is taken as it is. Every
sampler without a threshold is such a sum (`samplers.Sampler.affine` has its factors). The prediction may be a view
of some of its channels, and lie channels last where x does not.

Why: torch takes 5 to 10 launches of a few microseconds each on a latent that one would do, and rounds to x's dtype
after each. Between two runs of the network it is launches that cost, at pixel sizes memory: 16 elements of each
tensor a thread, 16 bytes at a time.
Computed, not measured: a step of DDIM on a half-precision image reads three tensors and writes one, where torch's
operators read and write 22.
Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.launch import Launch, cdiv, jit, tl, wide
from minimodels.kernels.operands import require
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, stored_bytes

BLOCK = 1024  # elements of a program


@jit
def _step(
    x, predicted, noise, out, size, pixels, x_b, x_c, x_p, predicted_b, predicted_c, predicted_p, unconditional,
    scale, of_x, of_predicted, of_noise, blocks,
    FLAT: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """BLOCK elements of a sample. FLAT: all tensors have them in one order, in one piece."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    batch = program // blocks
    index = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    if FLAT:
        at, other = index, index
    else:
        channel, pixel = index // pixels, index % pixels
        at, other = channel * x_c + pixel * x_p, channel * predicted_c + pixel * predicted_p
    at += batch * x_b
    other += batch * predicted_b
    value = tl.load(predicted + other, mask=inside, other=0.0).to(tl.float32)
    if scale is not None:
        without = tl.load(predicted + unconditional + other, mask=inside, other=0.0).to(tl.float32)
        value = without + scale * (value - without)
    result = of_x * tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + of_predicted * value
    if noise is not None:
        result += of_noise * tl.load(noise + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


def pixel_strides(x: Tensor) -> tuple[int, int] | None:
    """Strides of x (b, c, *pixels) over channels and pixels; None where one does not do for all pixels."""
    step, length = None, 1
    for size, stride in zip(reversed(x.shape[2:]), reversed(x.stride()[2:]), strict=True):
        if size == 1:
            continue
        step = stride if step is None else step  # 0 where one value is repeated
        if stride != length * step:
            return None
        length *= size
    return x.stride(1), step or 0


def _dense(x: Tensor) -> bool:
    """Whether the elements of x fill one piece of memory."""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def fits(x: Tensor, predicted: Tensor) -> bool:
    """Whether x is dense, its pixels and those of the prediction of one stride."""
    return _dense(x) and pixel_strides(x) is not None and pixel_strides(predicted) is not None


def _check(
    x: Tensor, predicted: Tensor, noise: Tensor | None, scale: float | None, of_x: float, of_predicted: float,
    of_noise: float,
) -> None:  # fmt: skip
    given, times = f"{tuple(x.shape)} and {tuple(predicted.shape)}", "" if scale is None else "twice "
    fit = x.dim() >= 2 and predicted.shape[1:] == x.shape[1:] and len(predicted) == len(x) * (1 if scale is None else 2)
    require(fit, f"the prediction is of {times}as many samples like those of x, not {given}")
    strides = f"{x.stride()} and {predicted.stride()}"
    require(not x.numel() or fits(x, predicted), f"x has no gaps, pixels have one stride in both, not {strides}")
    lies = noise is None or noise.shape == x.shape and (not x.numel() or noise.stride() == x.stride())
    require(lies, f"noise is of x's shape, {tuple(x.shape)}, and lies as it does")


def plan(
    x: Tensor, predicted: Tensor, noise: Tensor | None, scale: float | None, of_x: float, of_predicted: float,
    of_noise: float,
) -> tuple[Tensor, list[Launch]]:  # fmt: skip
    """The result, laid out as x, and the launch that fills it."""
    of_sample, of_other = pixel_strides(x), pixel_strides(predicted)
    assert of_sample is not None and of_other is not None, "pixels of one stride"
    out = torch.empty_like(x)
    size, pixels = prod(x.shape[1:]), prod(x.shape[2:])
    unconditional = 0 if scale is None else len(x) * predicted.stride(0)
    blocks = cdiv(size, BLOCK)
    # Sizes of 1 have strides that say nothing
    flat = all(n == 1 or a == b for n, a, b in zip(x.shape[1:], x.stride()[1:], predicted.stride()[1:], strict=True))
    flat = flat and (len(x) == 1 or x.stride(0) == size)
    args = (
        x, predicted, noise, out, size, pixels, x.stride(0), *of_sample, predicted.stride(0), *of_other,
        unconditional, scale, of_x, of_predicted, of_noise, blocks,
    )  # fmt: skip
    constants = {"FLAT": flat, "BLOCK": BLOCK, "WIDE": wide(x, predicted)}
    # 2 warps, so that 16 bytes of half precision fall to each of a GPU's 64 lanes too
    return out, [Launch(_step, (len(x) * blocks, 1, 1), args, constants, 2)]


def reference(
    x: Tensor, predicted: Tensor, noise: Tensor | None, scale: float | None, of_x: float, of_predicted: float,
    of_noise: float,
) -> Tensor:  # fmt: skip
    """The same in plain torch, in float32 at least."""
    kind = torch.promote_types(x.dtype, torch.float32)
    value = predicted.to(kind)
    if scale is not None:
        conditional, unconditional = value.chunk(2)
        value = unconditional + scale * (conditional - unconditional)
    result = of_x * x.to(kind) + of_predicted * value
    if noise is not None:
        result = result + of_noise * noise.to(kind)
    return torch.empty_like(x).copy_(result)


def eager(
    x: Tensor, predicted: Tensor, noise: Tensor | None, scale: float | None, of_x: float, of_predicted: float,
    of_noise: float,
) -> Tensor:  # fmt: skip
    """The sum in torch's operators; a sampler's own formulas have as many or more."""
    if scale is not None:
        conditional, unconditional = predicted.chunk(2)
        predicted = torch.lerp(unconditional, conditional, scale)
    result = of_x * x + of_predicted * predicted
    return result if noise is None else result + of_noise * noise


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """x, the prediction and the noise read once, the result written once."""
    read = sum(stored_bytes(x) for x in args[:3] if x is not None)
    return Work("elementwise", 0, read, stored_bytes(out[0]))


guided_step = define(
    "guided_step(Tensor x, Tensor predicted, Tensor? noise, float? scale, float of_x, float of_predicted,"
    " float of_noise) -> Tensor",
    plan=plan,
    reference=reference,
    eager=eager,
    fake=_fake,
    work=_work,
    check=_check,
)
"""guided_step(x, predicted, noise, scale, of_x, of_predicted, of_noise) -> Tensor: see the module.

scale: of guidance, the prediction then being of batch 2b, conditional half first; None: there is none.
"""
