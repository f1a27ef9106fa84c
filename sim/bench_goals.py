"""The sizes that the kernels' goals are set at, which no walk of the suite may put among its heaviest calls.

`minibench bench` runs them beside those: flash attention at the head dims of Stable Diffusion and of today's models,
cross-attention to 77 tokens, temporal attention over several numbers of frames (its time should be linear in them),
decoding with 64 MB of keys and values and more, norms, rotary embedding and what surrounds a convolution at sizes
that memory bounds, the convolution over frames at 512 channels and more. `bench_verdicts` judges what came of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minimodels.kernels.case import Case

GOAL = "goal"
LAST, LAST_3D = torch.channels_last, torch.channels_last_3d


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def _heads(batch: int, tokens: int, heads: int, d: int) -> Tensor:
    """(1, batch, heads, tokens, d) as a view of a projection."""
    return _meta(batch, tokens, heads * d).unflatten(-1, (heads, d)).transpose(1, 2)[None]


def goals(kernels: Sequence[str] = ()) -> list[Case]:
    """One case for each size a goal is set at, in bfloat16; kernels: names of operators, all if empty."""
    cases = {case.key: case for size in SIZES.values() for case in size()}
    return [case for case in cases.values() if not kernels or case.operator.partition("::")[2] in kernels]


def marked(cases: Sequence[Case], more: Sequence[Case]) -> list[Case]:
    """Both, equal calls once; those of `more` say that a goal is set at them, beside the models they are of."""
    asked = {case.key for case in more}
    known = {case.key for case in cases}
    told = [case.also(GOAL) if case.key in asked else case for case in cases]
    return told + [case for case in more if case.key not in known]


def _frames() -> Iterator[Case]:
    for frames in (8, 16, 32, 64):
        q, k, v = (_meta(2, frames, 4096, 512).unflatten(-1, (8, 64)).permute(0, 2, 3, 1, 4) for _ in range(3))
        yield _case("temporal_attention", q, k, v, None, None, None, False, 0.125)


def _temporal() -> Iterator[Case]:
    yield from (case for case in _frames() if case.views()[0].shape[3] == 16)


def _flash(*sizes: tuple[int, int, int]) -> Iterator[Case]:
    for tokens, heads, d in sizes:
        q, k, v = (_heads(2, tokens, heads, d) for _ in range(3))
        yield _case("flash_attention", q, k, v, None, False, d**-0.5)


def _cross() -> Iterator[Case]:
    for tokens, d in ((4096, 40), (1024, 80)):
        yield _case("cross_attention", _heads(2, tokens, 8, d), _heads(2, 77, 8, d), _heads(2, 77, 8, d), d**-0.5)


def _decode() -> Iterator[Case]:
    for batch, length in ((1, 4000), (16, 2000)):
        q, k, v = (_meta(batch, 1, 32 * 128).unflatten(-1, (32, 128)).transpose(1, 2) for _ in range(3))
        cache = [_meta(batch, 32, length + 96, 128) for _ in range(2)]
        yield _case("decode_attention", q, k, v, *cache, None, None, length, 128**-0.5)


def _group_norm(*shapes: tuple[int, ...]) -> Iterator[Case]:
    for shape in shapes:
        yield _case("group_norm", _meta(*shape), 32, _meta(shape[1]), _meta(shape[1]), 1e-5, None, None, True)


def _temporal_conv() -> Iterator[Case]:
    for channels, side in ((512, 32), (1024, 16)):
        x = _meta(2, channels, 16, side, side).to(memory_format=LAST_3D)
        weight = _meta(channels, channels, 3, 1, 1).to(memory_format=LAST_3D)
        yield _case("temporal_conv", x, weight, _meta(channels), None, None)


def _upsample_conv() -> Iterator[Case]:
    """Two levels of Stable Diffusion's UNet with guidance, one of its decoder at 1024 x 1024 pixels."""
    for batch, channels, side in ((2, 1280, 16), (2, 640, 32), (1, 512, 128)):
        x = _meta(batch, channels, side, side).to(memory_format=LAST)
        weight = _meta(channels, channels, 3, 3).to(memory_format=LAST)
        yield _case("upsample_conv", x, weight, _meta(channels))


def _upsample() -> Iterator[Case]:
    for channels, side in ((512, 128), (256, 512)):
        yield _case("upsample", _meta(1, channels, side, side).to(memory_format=LAST))


def _bias_residual() -> Iterator[Case]:
    for shape in ((2, 320, 128, 128), (1, 128, 1024, 1024)):
        x, residual = (_meta(*shape).to(memory_format=LAST) for _ in range(2))
        yield _case("bias_residual", x, _meta(shape[1]), residual, None, None)


def _norms() -> Iterator[Case]:
    """RMSNorm of LLaMA-2 7B's prompts, LayerNorm of SDXL, a batch of each."""
    wide, narrow = (4, 4096, 4096), (16, 4096, 640)
    for x, weight, bias, rms in ((wide, 4096, None, True), (narrow, 640, _meta(640), False)):
        settings = (_meta(weight), bias, None, None, 1e-5, rms)
        yield _case("layer_norm", _meta(*x), *settings)
        yield _case("add_layer_norm", _meta(*x), _meta(*x), *settings)


def _modulation() -> Iterator[Case]:
    """adaLN of DiT-XL/2 at 512 x 512 pixels."""
    x, scale, shift = _meta(64, 1024, 1152), _meta(64, 1152), _meta(64, 1152)
    yield _case("layer_norm", x, None, None, scale, shift, 1e-6, False)
    yield _case("add_layer_norm", x, _meta(64, 1024, 1152), None, None, scale, shift, 1e-6, False)


def _rotary() -> Iterator[Case]:
    q, k = (_meta(4, 4096, 32, 128).transpose(1, 2) for _ in range(2))
    yield _case("rotate", q, k, _meta(4096, 128), _meta(4096, 128))


def _maskgit() -> Iterator[Case]:
    """The first step of Muse's two stages: 16 x 16 tokens of a batch of 16, 64 x 64 of one."""
    for batch, tokens in ((16, 256), (1, 4096)):
        integers = torch.empty(batch, tokens, device="meta", dtype=torch.int64)
        seed = torch.empty((), device="meta", dtype=torch.int64)
        left = tokens * 9 // 10
        yield _case("unmask_step", integers, _meta(batch, tokens, 8192), None, None, seed, 8192, left, 1.0, 4.5)


def _case(name: str, *args: object) -> Case:
    return Case.of(f"minimodels::{name}", args).also(GOAL)


SIZES = {
    "temporal": _temporal,
    "frames": _frames,
    "video norm": lambda: _group_norm((1, 128, 20, 256, 256)),
    "image norms": lambda: _group_norm((2, 320, 64, 64), (2, 640, 32, 32), (2, 1280, 16, 16)),
    "flash, odd heads": lambda: _flash((4096, 8, 40), (1024, 8, 80), (256, 8, 160)),
    "flash": lambda: _flash((4096, 10, 64), (4096, 24, 128)),
    "cross": _cross,
    "temporal conv": _temporal_conv,
    "upsample + conv": _upsample_conv,
    "upsample": _upsample,
    "bias + residual": _bias_residual,
    "norms": _norms,
    "modulation": _modulation,
    "rotary": _rotary,
    "decode": _decode,
    "maskgit": _maskgit,
}
"""By what a goal calls them."""
