"""The sizes that the kernels' goals are set at, which no walk of the suite may put among its heaviest calls.

`minibench bench` runs them beside those: flash attention at the head dims of Stable Diffusion and of today's models,
cross-attention to 77 tokens, temporal attention over several numbers of frames (its time should be linear in them),
decoding with 64 MB of keys and values and more, group norms of Stable Diffusion and of a video autoencoder, the
convolution over frames at 512 channels and more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minimodels.kernels.case import Case

GOAL = "goal"


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def _heads(batch: int, tokens: int, heads: int, d: int) -> Tensor:
    """(1, batch, heads, tokens, d) as a view of a projection."""
    return _meta(batch, tokens, heads * d).unflatten(-1, (heads, d)).transpose(1, 2)[None]


def goals(kernels: Sequence[str] = ()) -> list[Case]:
    """One case for each size a goal is set at, in bfloat16; kernels: names of operators, all if empty."""
    return [case for case in _every() if not kernels or case.operator.partition("::")[2] in kernels]


def _every() -> Iterator[Case]:
    for tokens, heads, d in ((4096, 8, 40), (1024, 8, 80), (256, 8, 160), (4096, 10, 64), (4096, 24, 128)):
        q, k, v = (_heads(2, tokens, heads, d) for _ in range(3))
        yield _case("flash_attention", q, k, v, None, False, d**-0.5)
    for tokens, d in ((4096, 40), (1024, 80)):
        yield _case("cross_attention", _heads(2, tokens, 8, d), _heads(2, 77, 8, d), _heads(2, 77, 8, d), d**-0.5)
    for frames in (8, 16, 32):
        q, k, v = (_meta(2, frames, 4096, 512).unflatten(-1, (8, 64)).permute(0, 2, 3, 1, 4) for _ in range(3))
        yield _case("temporal_attention", q, k, v, None, None, None, False, 0.125)
    for batch, length in ((1, 4000), (16, 2000)):
        q, k, v = (_meta(batch, 1, 32 * 128).unflatten(-1, (32, 128)).transpose(1, 2) for _ in range(3))
        cache = [_meta(batch, 32, length + 96, 128) for _ in range(2)]
        yield _case("decode_attention", q, k, v, *cache, None, None, length, 128**-0.5)
    for shape in ((2, 320, 64, 64), (2, 640, 32, 32), (2, 1280, 16, 16), (1, 128, 20, 256, 256)):
        yield _case("group_norm", _meta(*shape), 32, _meta(shape[1]), _meta(shape[1]), 1e-5, None, None, True)
    for channels, side in ((512, 32), (1024, 16)):
        x = _meta(2, channels, 16, side, side).to(memory_format=torch.channels_last_3d)
        weight = _meta(channels, channels, 3, 1, 1).to(memory_format=torch.channels_last_3d)
        yield _case("temporal_conv", x, weight, _meta(channels), None, None)


def _case(name: str, *args: object) -> Case:
    made = Case.of(f"minimodels::{name}", args)
    return Case(made.operator, made.args, made.storages, where=GOAL, weight=1.0)
