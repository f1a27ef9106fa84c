"""What is said of a Profile in sentences, against numbers worked out by hand from `profiles.py`."""

from __future__ import annotations

import pytest

from minimodels.loader import load
from minimodels.run import Run
from minimodels.sim import sentences, views
from minimodels.sim.explain import what_ifs
from minimodels.sim.profile import Profile
from minimodels.sim.simulate import simulate
from tests.sim.profiles import image, language, on, op, with_ops


@pytest.mark.parametrize(
    ("category", "name", "shapes", "dtype", "size"),
    [
        ("Linear", "aten::linear", ((2, 3), (5, 3)), "float32", 60),
        ("Linear", "aten::addmm", ((5,), (2, 3), (3, 5)), "torch.float16", 30),
        ("Convolution", "aten::convolution", ((1, 3, 9, 9), (7, 3, 3, 3)), "bfloat16", 378),
        ("Linear", "aten::bmm", ((2, 3, 5), (2, 5, 3)), "bfloat16", None),
        ("Norm", "aten::native_layer_norm", ((2, 3), (3,)), "bfloat16", None),
        ("Linear", "aten::linear", ((2, 3),), "bfloat16", None),
        ("Linear", "aten::linear", ((2, 3), (5, 3)), "float8_unknown", None),
    ],
)
def test_weight_bytes(category: str, name: str, shapes: object, dtype: str, size: int | None) -> None:
    assert sentences.weight_bytes(op("s", category, name, shapes=shapes, dtype=dtype)) == size


def test_sentences_say_what_is_read_how_often() -> None:
    first, second = sentences.sentences(image())
    assert first == "71 % of the time is Linear in the decode stage, memory-bound: 276 B of weights are read 7 times."
    assert second == "Next, 18 % is Attention in the decode stage, memory-bound: 196 B are moved at 14.0 kB/s."


def test_sentences_name_the_waiting() -> None:
    assert sentences.sentences(language())[1] == "For 12 % of the time the device waits for its next kernel."


def slow_host(host_seconds: float) -> Profile:
    """`image()`, whose decode stage takes 70 ms for 35 executions, launched in as many times `host_seconds`."""
    slow = {"host_seconds": host_seconds}
    ops = tuple(one.model_copy(update=slow) if one.stage == "decode" else one for one in image().ops)
    return image().model_copy(update={"ops": ops})


def test_sentences_say_that_the_host_sets_the_pace_only_where_launching_takes_the_time() -> None:
    first, gains, work = sentences.sentences(slow_host(2e-3))
    assert first == ("The host sets the pace of the decode stage: it launches for 70.0 ms, the device works 63.0 ms.")
    assert gains == "Faster memory or arithmetic gains nothing there; CUDA graphs (--mode graph) take the host out."
    assert work == "Of the device's work, 78 % is Linear, memory-bound: 276 B of weights are read 7 times."
    for other in (slow_host(1.9e-3), with_ops(image(), host_seconds=None)):
        assert sentences.sentences(other)[0].startswith("71 % of the time is Linear")


def test_where_the_host_is_said_to_set_the_pace_faster_memory_gains_nothing_and_graphs_do() -> None:
    config = load("llama-tiny", ["run.gen_len=3"])
    found = {mode: simulate(config, Run(mode=mode)) for mode in ("eager", "graph")}
    said = {mode: sentences.sentences(profile)[0] for mode, profile in found.items()}
    assert "The host sets the pace" in said["eager"] and "host" not in said["graph"]
    eager, graph = (views.elapsed(profile) or 0.0 for profile in found.values())
    memory = next(one.seconds for one in what_ifs(config, Run()) if one.change == "memory twice as fast") or 0.0
    assert memory > sentences.PACE * eager > graph > 0


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        ("tensor", "compute-bound: 3.86 kFLOP at 69.0 kFLOP/s, 3.4 % of the peak."),
        ("launch", "launch-bound: 21 kernels of 2.67 ms."),
        ("host", "host-bound: 21 kernels of 2.67 ms, most of it spent waiting for the host."),
        ("l2", "bound by the L2 cache: 276 B of weights are read 7 times."),
        ("waves", "in too few blocks to fill the device: 3.86 kFLOP at 69.0 kFLOP/s, 3.4 % of the peak."),
    ],
)
def test_sentences_give_the_reason_of_each_bound(bound: str, reason: str) -> None:
    assert sentences.sentences(with_ops(image(), bound=bound))[0].endswith(reason)


def test_sentences_of_what_computes_nothing_give_what_it_moves() -> None:
    idle = with_ops(image(), bound="waves", flops=0)
    few = "Linear in the decode stage, in too few blocks to fill the device: 3.08 kB are moved at 55.0 kB/s"
    assert sentences.sentences(idle)[0].endswith(f"{few}, 5.5 % of the bandwidth.")
    assert sentences.sentences(on(idle, bandwidth=None))[0].endswith(f"{few}.")
    assert " 0 FLOP" not in " ".join(sentences.sentences(simulate(load("imagen"), Run())))


def test_sentences_without_a_bound_judge_by_the_intensity() -> None:
    profile = with_ops(image(), bound=None)
    low = f", at {3864 / 3080:.2f} FLOP/B: 276 B of weights are read 7 times."
    assert sentences.sentences(profile)[0].endswith(f"Linear in the decode stage{low}")
    balanced = on(profile, bandwidth=2e6)
    assert sentences.sentences(balanced)[0].endswith("stage: 3.86 kFLOP at 69.0 kFLOP/s, 3.4 % of the peak.")
    idle = with_ops(profile, flops=0, launches=3)
    assert sentences.sentences(idle)[0].endswith("decode stage: 63 kernels of 889 µs.")


def test_sentences_give_no_share_of_an_unknown_whole() -> None:
    (only,) = sentences.sentences(with_ops(image(), device_seconds=None))
    assert only == "The time of 9 of 9 operators is unknown: no shares can be given."
