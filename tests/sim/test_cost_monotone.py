"""More work never takes less time, and a better device never more, whatever the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimodels.kernels.work import Kernel, Work
from minimodels.sim import device as devices
from minimodels.sim.call import Call
from minimodels.sim.cost import predict
from minimodels.sim.cost.attention import KERNELS
from minimodels.sim.device import Device
from tests.sim.cost_cases import A100, NAMES, attention, call, convolution, device_seconds, pointwise, product

device_names = st.sampled_from(NAMES)
dtypes = st.sampled_from(["float16", "float32"])
backends = st.sampled_from(sorted(KERNELS))
sizes = st.integers(1, 5000)
lengths = st.one_of(st.integers(1, 3), st.integers(1, 300), sizes)  # one query, one frame, an image
head_dims = st.sampled_from([8, 40, 64, 72, 96, 128, 256, 512])
batches = st.sampled_from([1, 3, 4096])
NEARLY = 1 + 1e-12  # sums in another order differ in their last digits


@st.composite
def attentions(draw: st.DrawFn) -> Call:
    n, m, causal = draw(lengths), draw(lengths), draw(st.booleans())
    return attention(n, n if causal else m, draw(head_dims), draw(backends), causal, draw(batches))


products = st.builds(product, sizes, sizes, sizes, st.integers(1, 5))
windows = st.sampled_from([1, 3, 4, 9, 25])
convolutions = st.builds(convolution, sizes, sizes, st.integers(1, 999), windows, st.booleans())
families: st.SearchStrategy[Kernel] = st.sampled_from(["norm", "softmax", "copy", "gather", "elementwise"])
amounts = st.integers(1, 10**9)
passes = st.builds(Work, families, st.just(0), amounts, amounts, st.integers(1, 3))
group_norms = st.builds(lambda size, blocks: Work("norm", 0, size, size, blocks=blocks), amounts, st.integers(1, 999))
works = st.one_of(products, convolutions, passes, group_norms)
calls = st.one_of(st.builds(lambda work, dtype: call(work, dtype=dtype), works, dtypes), attentions())


@given(sizes, sizes, sizes, st.integers(0, 2), st.integers(1, 999), device_names)
def test_a_larger_product_never_takes_less_time(m: int, n: int, k: int, axis: int, more: int, name: str) -> None:
    device = devices.load(name)
    larger = [m, n, k]
    larger[axis] += more
    assert device_seconds(call(product(*larger)), device) >= device_seconds(call(product(m, n, k)), device)


@given(sizes, sizes, st.integers(1, 999), windows, st.integers(0, 2), st.integers(1, 99), dtypes, device_names)
def test_a_larger_convolution_never_takes_less_time(
    pixels: int, filters: int, channels: int, window: int, axis: int, more: int, dtype: str, name: str
) -> None:
    device = devices.load(name)
    larger = [pixels, filters, channels]
    larger[axis] += more
    smaller, other = (convolution(p, f, c, window) for p, f, c in ((pixels, filters, channels), larger))
    assert device_seconds(call(other, dtype=dtype), device) >= device_seconds(call(smaller, dtype=dtype), device)


@given(st.integers(1, 10**9), st.integers(1, 10**9), device_names)
def test_more_bytes_take_more_time(elements: int, more: int, name: str) -> None:
    device = devices.load(name)
    assert device_seconds(call(pointwise(elements + more)), device) > device_seconds(call(pointwise(elements)), device)


@given(lengths, lengths, st.integers(1, 200), head_dims, backends, batches, device_names)
def test_longer_or_more_attention_never_takes_less_time(
    n: int, m: int, more: int, head_dim: int, backend: str, batch: int, name: str
) -> None:
    device = devices.load(name)
    one = device_seconds(attention(n, m, head_dim, backend, batch=batch), device)
    larger = [
        attention(n + more, m, head_dim, backend, batch=batch),
        attention(n, m + more, head_dim, backend, batch=batch),
        attention(n, m, head_dim, backend, batch=batch + more),
        attention(n, m, head_dim, backend, batch=batch, heads=8),
    ]
    assert all(device_seconds(other, device) * NEARLY >= one for other in larger)


@given(lengths, st.integers(0, 300), st.integers(1, 200), head_dims, backends, batches, device_names)
def test_a_mask_never_slows_attention_and_longer_sequences_never_hasten_it(
    n: int, before: int, more: int, head_dim: int, backend: str, batch: int, name: str
) -> None:
    device, m = devices.load(name), n + before
    causal = device_seconds(attention(n, m, head_dim, backend, True, batch), device)
    assert causal <= device_seconds(attention(n, m, head_dim, backend, False, batch), device)
    longer = device_seconds(attention(n + more, m + more, head_dim, backend, True, batch), device)
    assert longer * NEARLY >= causal


@pytest.mark.parametrize("backend", sorted(KERNELS))
def test_one_frame_never_takes_longer_than_two(backend: str) -> None:
    h100 = devices.load("h100-sxm")  # 4096 sequences of 20 heads took ten times as long with one query as with two
    one, two = (device_seconds(attention(n, n, 64, backend, batch=4096, heads=20), h100) for n in (1, 2))
    assert one <= two


def _better(device: Device) -> list[Device]:
    """The device with twice the bandwidth, FLOP/s, compute units with their FLOP/s, L2 cache, and clock."""
    sheet = device.datasheet
    strong = {key: 2 * rate for key, rate in sheet.flops.items()}
    changes = [
        {"bandwidth": 2 * sheet.bandwidth},
        {"flops": strong},
        {"compute_units": 2 * sheet.compute_units, "flops": strong},
        {"l2_bytes": 2 * sheet.l2_bytes},
        {"clock": 2 * sheet.clock},
    ]
    return [device.model_copy(update={"datasheet": sheet.model_copy(update=change)}) for change in changes]


@given(calls, st.sampled_from(["cold", "warm"]), device_names)
def test_twice_as_much_of_anything_never_slows_a_kernel(one: Call, l2: str, name: str) -> None:
    device, state = devices.load(name), replace(one, l2=l2)  # type: ignore[arg-type]
    now = device_seconds(state, device) * NEARLY
    assert all(device_seconds(state, better) <= now for better in _better(device))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("h100-sxm", (16, 4096, 768)), ("h200", (77, 4096, 1280)), ("t4", (256, 768, 320))],
)
def test_a_product_of_few_tiles_is_not_slowed_by_more_compute_units(name: str, shape: tuple[int, int, int]) -> None:
    device = devices.load(name)
    wide = _better(device)[2]
    assert device_seconds(call(product(*shape)), wide) <= device_seconds(call(product(*shape)), device)


def test_a_product_whose_few_tiles_leave_the_memory_idle_is_not_called_memory_bound() -> None:
    small, large = predict([call(product(16, 64, 65536)), call(product(1, 11008, 4096))], A100, "graph")
    assert (small.bound, large.bound) == ("waves", "memory")


def test_only_square_windows_of_three_with_stride_one_are_taken_to_winograds_algorithm() -> None:
    v100 = devices.load("v100-32gb")
    works = [convolution(4096, 256, 256, direct=direct) for direct in (False, True)]
    rates = [work.flops / device_seconds(call(work, dtype="float32"), v100) for work in works if work.flops]
    assert rates[0] > v100.peak_flops("float32") > rates[1]
