"""What group norm plans at the models' sizes: slabs that stay in the cache, programs that fill the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minimodels.kernels import group_norm as module
from minimodels.kernels.backend import CACHE_BYTES, COMPUTE_UNITS, attention_backend
from minimodels.kernels.launch import Launch
from tests.kernels.cases.group_norm import LARGE, arguments

VIDEO = LARGE["video decoder"]
NAMES = ("counted", "counting", "applied", "end", "every")


def _planned(args: tuple[Any, ...], target: str) -> list[Launch]:
    with attention_backend("triton", target):
        return module.plan(*args)[1]


def _of(launch: Launch) -> dict[str, int]:
    return dict(zip(NAMES, launch.args[-len(NAMES) :], strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ("sm80", "sm90", "sm100"))
def test_a_launch_applies_the_slab_that_the_one_before_counted(target: str) -> None:
    launches = _planned(VIDEO, target)
    slabs = [(0, 0), *((_of(x)["applied"], _of(x)["end"]) for x in launches[1:])]
    group = VIDEO[0].nbytes // 32
    for before, launch, (applied, end) in zip([None, *launches], launches, slabs, strict=False):
        found, chunks = _of(launch), launch.constants["CHUNKS"]
        assert min(found["counted"], 32) == end, "what is counted next begins where what is applied ends"
        assert (end - applied) * group <= CACHE_BYTES[target] // 2
        if before is not None:
            assert (applied, (end - applied) * chunks) == (_of(before)["counted"], _of(before)["counting"])
            turns = {p // found["every"] for p in range(0, launch.grid[0], found["every"])}
            assert turns >= set(range(found["counting"])), "every chunk is counted"
    assert slabs[-1][1] == 32 and _of(launches[-1])["counting"] == 0


@pytest.mark.parametrize("target", COMPUTE_UNITS)
def test_chunks_are_as_many_as_fill_the_gpu(target: str) -> None:
    filled = 8 * COMPUTE_UNITS[target]
    for last in (False, True):
        statistics = _planned(arguments(4, 512, 128, 128, groups=32, last=last, device="meta"), target)[0]
        assert filled / 2 < statistics.grid[0] <= 1.1 * filled, "chunks are whole numbers of blocks"


def test_bytes_are_those_that_reach_memory() -> None:
    def moved(args: tuple[Any, ...], target: str) -> tuple[float, int]:
        with attention_backend("triton", target):
            out = torch.empty_like(args[0])
            work = module._work(args, {}, (out,))
            assert work.launches == len(module.plan(*args)[1])
        return (work.bytes_read + work.bytes_written) / args[0].nbytes, work.launches

    once, twice = pytest.approx(2.0, rel=1e-2), pytest.approx(3.0, rel=1e-2)
    assert moved(VIDEO, "sm90") == (once, 17), "read, and read again from the cache"
    assert moved(VIDEO, "gfx942") == (twice, 2), "no cache that all units share"
    assert moved(LARGE["video decoder, channels last"], "sm90") == (twice, 3)
    one = arguments(1, 128, 20, 256, 256, groups=1, device="meta")
    assert moved(one, "sm90") == (twice, 2), "a group that no cache holds"
    assert moved(LARGE["SD 1.5, 64 x 64"], "sm90") == (once, 2)
