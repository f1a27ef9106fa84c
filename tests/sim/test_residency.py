"""What a kernel reads shortly after another has written it comes from the L2 cache, as far as it fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimodels.kernels.work import Work
from minimodels.sim.call import Call
from minimodels.sim.cost import predict
from minimodels.sim.cost.residency import resident
from minimodels.sim.fusion import unfused
from tests.sim.cost_cases import A100, call, product, total

MB = 1 << 20
HELD = 0.8 * A100.datasheet.l2_bytes


def moving(size: int, reads: tuple[int, ...], writes: tuple[int, ...]) -> Call:
    """A pass that reads so many bytes of each of some storages and writes as many."""
    one = call(Work("gather", 0, size * len(reads), size * len(writes)))
    return replace(one, reads=reads, writes=writes, shapes=((size,),) * len(reads))


def found(*calls: Call) -> list[int]:
    """The bytes in the cache of what each call reads."""
    return resident(calls, unfused(calls), A100)


def test_what_was_just_written_is_found_and_what_a_cache_of_others_lies_between_is_not() -> None:
    before, after = moving(4 * MB, (1,), (2,)), moving(4 * MB, (2,), (3,))
    assert found(before, after) == [0, 4 * MB]
    assert found(before, moving(int(HELD), (4,), (5,)), after)[-1] == 0
    between = found(before, moving(int(0.6 * HELD), (4,), (5,)), after)[-1]
    assert 0 < between < 4 * MB


def test_of_a_cache_that_a_token_was_appended_to_only_the_token_was_touched() -> None:
    append, attend = moving(1024, (1,), (9,)), moving(8 * MB, (9,), (3,))
    assert found(append, attend) == [0, 1024]


def test_what_is_found_saves_time_by_how_much_faster_the_cache_is() -> None:
    before, after = moving(8 * MB, (1,), (2,)), moving(8 * MB, (2,), (3,))
    alone, fed = predict([after], A100, "graph")[0], predict([before, after], A100, "graph")[1]
    sheet, rates = A100.datasheet, A100.constants
    faster = rates.l2_rate * sheet.clock * sheet.compute_units / sheet.bandwidth
    saved = 8 * MB * (1 - 1 / faster) / (rates.memory_bandwidth * sheet.bandwidth)
    assert alone.device_seconds - fed.device_seconds == pytest.approx(saved)
    assert (alone.l2, fed.l2) == ("cold", "warm")


@given(st.integers(1, 200), st.integers(0, 200), st.integers(0, 200))
def test_more_between_never_leaves_more(size: int, between: int, more: int) -> None:
    before, after = moving(size * MB, (1,), (2,)), moving(size * MB, (2,), (3,))
    less = found(before, *([moving(between * MB, (4,), ())] if between else []), after)[-1]
    assert found(before, moving((between + more) * MB + 1, (4,), ()), after)[-1] <= less <= size * MB


def test_a_product_streams_only_the_weights_where_its_input_was_just_written() -> None:
    reads = replace(call(product(4096, 64, 4096)), reads=(2, 7), writes=(8,), shapes=((4096, 4096), (4096, 64)))
    feeding, fits = moving(32 * MB, (1,), (2,)), 32 * MB * (2 - 32 * MB / HELD)
    assert found(feeding, reads)[1] == pytest.approx(fits, rel=1e-6)
    fed = predict([feeding, reads], A100, "graph")[1]
    assert fed.device_seconds < 0.75 * predict([reads], A100, "graph")[0].device_seconds


def test_a_part_that_is_used_again_leaves_the_rest_where_it_was() -> None:
    write, part, whole = moving(8 * MB, (1,), (2,)), moving(2 * MB, (2,), (3,)), moving(8 * MB, (2,), (4,))
    assert found(write, part, whole) == [0, 2 * MB, 8 * MB]
    far = found(write, moving(int(HELD), (5,), ()), part, moving(int(0.7 * HELD), (6,), ()), whole)[-1]
    assert far <= 2 * MB, "what is left of the part alone"


def test_a_table_of_weights_gives_other_rows_the_next_time() -> None:
    assert found(moving(MB, (-1,), (2,)), moving(MB, (-1,), (3,))) == [0, 0]


def test_a_loop_finds_what_its_steps_after_the_first_find() -> None:
    body = [
        replace(call(product(1, 2048, 2048)), reads=(9, -2 - i), shapes=((1,), (2048,)), stage="run") for i in (0, 1)
    ]
    looped = predict([replace(one, weight=100.0) for one in body], A100, "graph")
    written_out = predict(body * 100, A100, "graph")
    assert 100 * total(body, looped) == pytest.approx(total(body * 100, written_out), rel=0.01)
    assert looped[0].device_seconds < predict(body[:1], A100, "graph")[0].device_seconds
