"""The model of caches: against a cache in plain Python, and what holds of any LRU cache."""

from __future__ import annotations

import csv
import io
from collections import OrderedDict
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest

import minimodels
from minimodels.kernels.scope import AttentionCall
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim.cache import chain, kernels
from minimodels.sim.cache.blocks import Layout, Step, stored, trace
from minimodels.sim.cache.gpu import LATENCIES, Counts, Slice
from minimodels.sim.cache.layouts import Chain, Launch, walked
from minimodels.sim.cache.lru import ALL, COUNT, LINE, SECTOR, Accesses, Caches, sectors
from minimodels.sim.cache.tensors import Tensors

A100 = devices.load("a100-80gb")


def accesses(seed: int, count: int = 1500, lines: int = 90, caches: int = 3) -> Accesses:
    """Accesses of random sectors of some lines, near ones more often, a third of them stores."""
    random = np.random.default_rng(seed)
    line = (random.integers(0, lines, count) * random.integers(1, 3, count)) // 2
    return Accesses(random.integers(0, caches, count), line, random.integers(1, ALL + 1, count),
                    random.random(count) < 0.33)  # fmt: skip


def slow(given: Accesses, sets: int, ways: int) -> tuple[list[int], int]:
    """The same as `Caches`, access by access: sectors that were absent, and sectors written back."""
    held: dict[tuple[int, int], OrderedDict[int, list[int]]] = {}
    missing, written = [], 0
    for cache, line, mask, store in zip(*(column.tolist() for column in given), strict=True):
        content = held.setdefault((cache, line % sets), OrderedDict())
        if line not in content and len(content) == ways:
            written += content.popitem(last=False)[1][1].bit_count()
        entry = content.setdefault(line, [0, 0])
        content.move_to_end(line)
        missing.append(mask & ~entry[0])
        entry[0] |= mask
        entry[1] |= mask if store else 0
    return missing, written


@pytest.mark.parametrize(("sets", "ways"), [(1, 7), (3, 5), (13, 1), (8, 16)])
@pytest.mark.parametrize("pieces", [1, 4])
def test_caches_equal_one_in_plain_python(sets: int, ways: int, pieces: int) -> None:
    given = accesses(sets + ways)
    caches = Caches(sets, ways, count=3, hashed=False)
    cuts = np.array_split(np.arange(len(given.line)), pieces)  # what was there before a call is there in it
    found = np.concatenate([caches.access(given.only(cut)) for cut in cuts])
    missing, written = slow(given, sets, ways)
    assert found.tolist() == missing and caches.written_back == written


def test_a_cache_that_holds_everything_misses_every_sector_once() -> None:
    given = accesses(5, caches=1)
    touched = sum(int(np.bitwise_or.reduce(given.mask[given.line == line])).bit_count() for line in set(given.line))
    caches = Caches(64, 100)
    assert sectors(caches.access(given)) == touched and sectors(caches.access(given)) == 0
    assert caches.written_back == 0 and caches.flush() > 0


def test_more_ways_of_one_set_never_miss_what_fewer_had() -> None:
    given = accesses(11, caches=1)
    found = [Caches(1, ways).access(given) for ways in (1, 2, 5, 9, 20, 90)]
    assert all((more & ~fewer == 0).all() for fewer, more in pairwise(found))


def test_misses_fall_with_size() -> None:
    given = accesses(17, count=4000, lines=300, caches=1)
    found = [sectors(Caches(sets, 4).access(given)) for sets in (1, 4, 16, 64, 256)]
    assert found == sorted(found, reverse=True) and found[0] > 1.5 * found[-1]


def test_requests_touch_the_sectors_that_their_bytes_lie_in() -> None:
    start, length = np.array([[40, 0], [250, 700]]), np.array([[4, 0], [20, 300]])
    found = trace([Step(start, length)], resident=1)
    touched = {(line, bit) for line, mask in zip(found.line, found.mask, strict=True) for bit in range(4)
               if mask >> bit & 1}  # fmt: skip
    wanted = {40, 43, *range(250, 270), *range(700, 1000)}
    assert touched == {(byte // LINE, byte % LINE // SECTOR) for byte in wanted}


def test_blocks_of_a_wave_take_each_step_together() -> None:
    first = LINE * np.arange(10)[:, None]
    steps = [Step(first, np.full((10, 1), 4)), Step(first + 10 * LINE, np.full((10, 1), 4), store=True)]
    found = trace(steps, resident=1)  # four units: blocks 0-3, then 4-7, then 8 and 9
    assert found.line.tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 4, 5, 6, 7, 14, 15, 16, 17, 8, 9, 18, 19]
    assert found.cache.tolist() == [line % 10 % 4 for line in found.line] and found.store.sum() == 10


def dense(*sizes: int, storage: int = 1) -> Layout:
    return Layout(sizes, tuple(int(np.prod(sizes[place + 1 :])) for place in range(len(sizes))), storage << 40)


def turned(x: Layout) -> Layout:
    return Layout((*x.sizes[:-2], x.sizes[-1], x.sizes[-2]), (*x.strides[:-2], x.strides[-1], x.strides[-2]), x.base)


def written_out(batch: int, n: int, m: int, d: int) -> Chain:
    """A chain on dense queries, keys and values."""
    q, k, v = dense(batch, n, d, storage=1), dense(batch, m, d, storage=2), dense(batch, m, d, storage=3)
    scores = [dense(batch, n, m, storage=storage) for storage in (4, 5, 6)]
    steps = (("bmm", (q, turned(k)), scores[0]), ("mul", scores[:1], scores[1]), ("softmax", scores[1:2], scores[2]),
             ("bmm", (scores[2], v), dense(batch, n, d, storage=7)))  # fmt: skip
    facts = AttentionCall("baseline", batch, n, m, 1, 1, d, False, False)
    return Chain("s", "spatial", facts, [Launch(name, (), tuple(reads), out) for name, reads, out in steps])


@pytest.mark.parametrize(("n", "m", "d"), [(16, 16, 64), (48, 80, 64), (260, 260, 40), (64, 1028, 64)])
def test_cold_kernels_read_and_write_every_sector_of_their_tensors_once(n: int, m: int, d: int) -> None:
    """Where each kernel's tensors fit the cache: rows that share a sector are rounded up once, at the end."""
    batch = 54  # two matrices on the slice of 4 of 108 units
    for found in chain.run(written_out(batch, n, m, d), A100, "cold"):
        read = sum(np.prod(x.sizes) for x in found.launch.reads) * 2 / SECTOR
        wrote = np.prod(found.launch.writes.sizes) * 2 / SECTOR
        assert found.counts.l2_misses == pytest.approx(read, rel=0.01), found.launch.name
        assert found.counts.memory_writes == pytest.approx(wrote, rel=0.01), found.launch.name
        assert found.counts.loads >= found.counts.l1_misses >= found.counts.l2_misses


def test_what_the_kernel_before_wrote_is_found_in_a_warm_cache_if_it_fits() -> None:
    small, large = ({f.launch.writes.base >> 40: f.counts for f in chain.run(written_out(108, n, n, 64), A100, "warm")}
                    for n in (16, 1024))  # fmt: skip
    assert all(counts.l2_misses == 0 for counts in small.values())
    assert large[5].l2_misses == pytest.approx(large[5].loads, rel=0.01), "216 MB stream through a cache of 40"


def test_a_larger_sample_finds_the_same() -> None:
    """The sample has as small a share of the batch as the slice has of the cache."""
    made = written_out(512, 512, 512, 64)
    pairs = zip(chain.run(made, A100, "warm"), chain.run(made, A100, "warm", footprint=8), strict=True)
    for some, more in pairs:
        assert more.counts.l2_mpki == pytest.approx(some.counts.l2_mpki, rel=0.05), some.launch.name


def test_strided_products_read_what_copies_read() -> None:
    q = Layout((3, 5, 16, 64), (5 * 16 * 64, 64, 5 * 64, 1), 1 << 40)  # frames of a position apart
    copied, other = dense(15, 16, 64, storage=2), dense(15, 16, 64, storage=3)
    scores = dense(15, 16, 16, storage=4)
    facts = AttentionCall("baseline", 15, 16, 16, 1, 1, 64, False, False)
    launches = [Launch("reshape", (), (q,), copied), Launch("bmm", (), (copied, turned(other)), scores)]
    made = chain.strided(Chain("s", "temporal", facts, launches))
    assert [launch.name for launch in made.launches] == ["bmm"] and made.launches[0].reads == (q, turned(other))
    first = q.matrices(15)
    assert first[6] == q.base + 2 * (1 * 5 * 16 * 64 + 1 * 64)


def test_access_time_lies_between_the_latencies_and_grows_with_misses() -> None:
    times = LATENCIES[0]
    at = [Counts(loads=8, l1_misses=l1, l2_misses=l2).access_time(times) for l1, l2 in ((0, 0), (4, 0), (8, 0), (8, 8))]
    assert at == [times.l1, (times.l1 + times.l2) / 2, times.l2, times.memory]


def test_a_wave_of_stores_is_written_back_when_it_leaves() -> None:
    part = Slice(A100)
    lines = 3 * part.l2_bytes // LINE
    counts = part.run(stored(LINE * np.arange(lines), LINE), 1.0)
    assert counts.l2_misses == 0 and counts.memory_writes + part.l2.flush() == counts.stores == 4 * lines


def test_whole_tensors_leave_in_the_order_they_were_used() -> None:
    cache = Tensors(100)
    touched = ((1, 40), (2, 50), (1, 40), (3, 30), (1, 40), (2, 50))
    assert [cache.touch(*each) for each in touched] == [40, 50, 0, 30, 0, 50]
    assert cache.touch(4, 400) == cache.touch(4, 400) == 400, "larger than the cache"


def test_counts_of_masks() -> None:
    assert [int(count) for count in COUNT] == [mask.bit_count() for mask in range(16)]


def test_the_code_of_a_tile_is_the_one_that_is_counted() -> None:
    tile_code = pytest.importorskip("tests.sim.tile_code")
    text = (resources.files("minimodels.sim.cache") / "tiles.csv").read_text("utf-8")
    rows = {(row["rows"], row["columns"]): row for row in csv.DictReader(io.StringIO(text))}
    if rows["64", "64"]["triton"] != tile_code.version():
        pytest.skip("another Triton makes other code")
    assert {key: str(value) for key, value in tile_code.count(64, 64).items()} == rows["64", "64"]


def test_every_tile_of_the_cost_model_has_its_code() -> None:
    assert set(kernels.code()) == set(kernels.TILES)


def test_what_a_call_touches_is_its_own_after_a_loop_has_put_its_steps_in_order() -> None:
    walk = walked(minimodels.load("parti-tiny"), Run(device="a100-80gb", attention="flash"))
    cores = [call for call in walk.calls if call.work.kernel == "attention"]
    assert len({call.attention.key_length for call in cores if call.attention}) > 3, "steps of a growing loop"
    assert all(sum(size for _, size in walk.touched(call).reads) == call.work.bytes_read for call in cores)


def test_a_walk_keeps_one_chain_of_every_call_with_its_strides() -> None:
    walk = walked(minimodels.load("make-a-video-tiny"), Run(device="a100-80gb", attention="baseline"))
    (temporal,) = {
        chain.facts: chain for key, chain in walk.chains.items() if key[:2] == ("decoder", "temporal")
    }.values()
    assert [launch.name for launch in temporal.launches][-4:] == ["bmm", "mul", "softmax", "bmm"]
    copied = next(launch for launch in temporal.launches if launch.name == "reshape")
    frames, features = copied.reads[0].strides[-2:]
    positions = copied.reads[0].sizes[1]
    assert features == 1 and frames == positions * copied.reads[0].strides[1], "all positions lie between two frames"
