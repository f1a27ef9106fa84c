"""FlashAttention's tiles, as its code has them."""

from __future__ import annotations

import pytest

from minimodels.sim import device as devices
from minimodels.sim.cost import predict
from minimodels.sim.cost.attention import KERNELS
from tests.sim.cost_cases import A100, attention, device_seconds

FRAMES, MANY = 16, 4096


def test_sixteen_frames_take_as_long_as_the_tile_of_128_that_holds_them() -> None:
    few, whole = (device_seconds(attention(n, n, batch=MANY)) for n in (FRAMES, 128))
    assert 0.7 * whole < few <= whole
    assert device_seconds(attention(FRAMES, FRAMES, backend="triton", batch=MANY)) < 0.5 * few, "ours holds 16"


@pytest.mark.parametrize("name", ["a100-80gb", "h100-sxm"])
def test_a_long_cache_is_split_over_the_device(name: str) -> None:
    device = devices.load(name)
    (one,) = predict([attention(1, 1 << 17, 128, batch=1, heads=4)], device, "graph")
    assert one.tiles is not None and one.tiles > 0.8 * device.datasheet.compute_units


def test_a_cache_in_pages_is_read_by_the_splitting_kernel_whose_tiles_are_smaller() -> None:
    call = attention(256, 256, 128, batch=1).attention
    assert call is not None
    assert KERNELS["flash"].tile(call, 1, A100) == (128, 64)
    assert KERNELS["flash-paged"].tile(call, 1, A100) == KERNELS["flash"].tile(call, 2, A100) == (64, 128)


def test_sums_that_pass_through_memory_cost_the_first_flash_attention_more_at_wide_heads() -> None:
    """A step takes half as many keys at head dim 128, and each adds to sums twice as wide."""
    shapes = [(4096, 64, 32), (4096, 128, 16)]  # of equal FLOPs
    first, second = (
        [device_seconds(attention(n, n, d, backend, batch=4, heads=heads)) for n, d, heads in shapes]
        for backend in ("flash1", "flash")
    )
    assert first[1] > 1.1 * first[0] and second[1] < second[0]
