"""The walk of training against torch's own counts, collectives by hand, and what a predicted step is made of."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minimodels import loader
from minimodels.kernels.backend import attention_backend
from minimodels.objective import Trainable, blocks, example_batch, loss, trainable, trained
from minimodels.run import Run, build
from minimodels.sim import device as devices
from minimodels.sim.backward import REST, TrainingWalk, Walked, shard, walk_optimizer, walk_training
from minimodels.sim.collectives import Fabric, Segment, fabric_of, overlapped, segments
from minimodels.sim.profile import Profile
from minimodels.sim.training import Prediction, exposed, predict_steps

NAMES = ["stable-diffusion-tiny", "sdxl-tiny", "modelscope-tiny", "llama-tiny"]
A100 = Fabric(300e9, 25e9)


def config_of(name: str) -> Trainable:
    return trainable(loader.load(name))


@cache
def walked(name: str, attention: str = "baseline", dtype: str = "bfloat16") -> Walked:
    run = Run(batch=3, attention=attention, dtype=dtype)  # type: ignore[arg-type]
    return walk_training(config_of(name), run, devices.load("a100-80gb"))


@cache
def predicted(name: str, gpus: int, network: float = 200.0) -> Prediction:
    return predict_steps(config_of(name), Run(batch=2, attention="flash"), [gpus], network)[0]


@pytest.mark.parametrize("name", NAMES)
def test_flops_of_forward_and_backward_equal_those_torch_counts_on_a_cpu(name: str) -> None:
    config = config_of(name)
    network = build(config, only=trained(config))[trained(config)].requires_grad_(True)
    batch = example_batch(config, 3, torch.float32, "cpu", torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, attention_backend("baseline"):
        loss(config, network, batch).backward()
    calls = walked(name).calls
    assert sum(call.work.flops or 0 for call in calls) == counter.get_total_flops() > 0
    assert not [call.name for call in calls if call.work.flops is None], "every operator has a formula"


@pytest.mark.parametrize("attention", ["flash", "efficient"])
def test_flops_of_fused_attention_equal_those_torch_counts_on_meta(attention: str) -> None:
    config = config_of("stable-diffusion-tiny")
    parts = build(config, "meta", torch.bfloat16, only="unet")
    network = parts["unet"].requires_grad_(True)
    walk = TrainingWalk(parts)
    with attention_backend(attention, "sm80"), walk, FlopCounterMode(display=False) as counter:
        loss(config, network, example_batch(config, 3, torch.bfloat16, "meta", None)).backward()
    own = Counter[str]()
    for call in walk.calls:
        own[call.name] += call.work.flops or 0
    theirs = {str(name).removeprefix("aten."): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    for name in (f"_scaled_dot_product_{attention}_attention", f"_scaled_dot_product_{attention}_attention_backward"):
        assert own[name] == theirs[name] > 0
    assert sum(own.values()) == counter.get_total_flops()


@pytest.mark.parametrize("attention", ["flash", "baseline"])
def test_backward_operators_stand_where_their_forward_operators_did(attention: str) -> None:
    calls = walked("stable-diffusion-tiny", attention).calls
    flops: Counter[tuple[str, str]] = Counter()
    for call in calls:
        flops[call.phase, call.scope] += call.work.flops or 0
    scopes = {scope for phase, scope in flops if flops[phase, scope] and "res_block" in scope}
    assert scopes and all(flops["backward", scope] == 2 * flops["forward", scope] for scope in scopes)
    cores = [call for call in calls if call.attention is not None and call.work.flops]
    products = 2.5 if attention == "flash" else 2.0  # a fused kernel computes the scores again
    of_cores: Counter[str] = Counter()
    for call in cores:
        of_cores[call.phase] += call.work.flops or 0
    assert of_cores["backward"] == products * of_cores["forward"] and {call.category for call in cores} == {"Attention"}
    backends = {call.attention.backend for call in cores if call.attention and call.phase == "backward"}
    assert backends == ({"flash-backward"} if attention == "flash" else {"baseline"})


def test_activations_of_the_walk_are_what_autograd_saves_on_a_cpu() -> None:
    config = config_of("stable-diffusion-tiny")
    network = build(config, only="unet")["unet"].requires_grad_(True)
    batch = example_batch(config, 3, torch.float32, "cpu", torch.Generator().manual_seed(0))
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    saved: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = -(-storage.nbytes() // 512) * 512  # as the allocator of a GPU rounds
        return x

    with attention_backend("baseline"), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = loss(config, network, batch)
    assert value.grad_fn is not None, "what is saved is still alive"
    walk = walked("stable-diffusion-tiny", "baseline", "float32")
    last = [call for call in walk.calls if call.phase == "forward"][-1]
    least = sum(saved.values())
    inputs = sum(x.nbytes + 512 for x in batch.values())
    assert least <= last.live <= least + 3 * inputs, "the rest are the batch and the tensors of the loss"


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_one_unit(name: str) -> None:
    config, walk = config_of(name), walked(name)
    network = build(config, "meta", only=trained(config))[trained(config)]
    assert sum(walk.elements(unit) for unit in walk.parameters) == sum(x.numel() for x in network.parameters())
    assert set(walk.parameters) == {REST, *blocks(network)} == set(walk.units)


def test_adamw_moves_28_bytes_a_parameter_and_computes_no_products() -> None:
    shapes = [(7, 3), (5,), (11, 13, 3, 3)]
    elements = sum(torch.Size(shape).numel() for shape in shapes)
    (adamw,) = [call for call in walk_optimizer(shapes) if call.name == "_fused_adamw_"]
    assert adamw.work.bytes_read + adamw.work.bytes_written == 28 * elements and adamw.work.flops == 0
    assert shard(torch.Size((7, 3)), 2) == (4, 3) and shard(torch.Size((5,)), 8) == (1,)


def test_an_operator_of_ours_without_a_gradient_refuses_to_train() -> None:
    with pytest.raises(RuntimeError, match="has no gradient"):
        walk_training(config_of("stable-diffusion-tiny"), Run(kernels="triton"), devices.load("a100-80gb"))


def test_large_messages_move_at_the_bus_and_small_ones_wait_for_hops() -> None:
    whole = 4e9
    seconds, hops = A100.ring(whole, 8)
    assert 7 / 8 * whole / seconds == pytest.approx(235e9, rel=0.01) and not hops  # hops are 32 us of 15 ms
    assert A100.ring(whole, 16)[0] > seconds and A100.ring(1e3, 16)[1]
    assert A100.ring(whole, 1) == (0.0, False)
    slow = Fabric(300e9, 3e9)
    assert slow.ring(whole, 8)[0] == seconds and slow.ring(whole, 16)[0] > 7 * seconds
    times = [A100.ring(10**power, 16)[0] for power in range(2, 10)]
    assert times == sorted(times)


@pytest.mark.parametrize(("gpus", "said"), [(0, "from 1 to 8"), (12, "multiple of 8")])
def test_gpus_that_fill_nodes_unevenly_are_refused(gpus: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        A100.nodes(gpus)


def test_a_gpu_without_links_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="l4: its device file states no links"):
        fabric_of(devices.load("l4"))


def test_collectives_hide_behind_long_compute_and_bound_short_compute() -> None:
    units = ["", "a", "b", "c"]
    order = [Segment(unit, 10.0) for unit in (*units, "")]
    gather, scatter = dict.fromkeys(units, 1.0), dict.fromkeys(units, 2.0)
    events = overlapped(order, order[::-1], gather, scatter, "")
    # Seen are the first gather of forward and the last scatter; backward begins with what needs no gather
    assert exposed(events) == pytest.approx(3.0)
    brief = [Segment(unit, 1e-6) for unit in (*units, "")]
    bound = overlapped(brief, brief[::-1], gather, scatter, "")
    sent = sum(event.end - event.start for event in bound if event.kind != "compute")
    assert sent == 4 * 1.0 + 3 * 1.0 + 4 * 2.0 and max(event.end for event in bound) == pytest.approx(sent, rel=1e-4)
    free = overlapped(order, order[::-1], dict.fromkeys(units, 0.0), dict.fromkeys(units, 0.0), "")
    assert exposed(free) == 0 and {event.kind for event in free} == {"compute"}


def test_no_unit_runs_before_it_is_gathered_and_links_carry_one_collective_at_a_time() -> None:
    for events in (predicted("stable-diffusion-tiny", 16, 1.0).events, predicted("llama-tiny", 8).events):
        for computes in (True, False):
            lane = [event for event in events if (event.kind == "compute") is computes]
            lane.sort(key=lambda event: event.start)
            assert all(later.start >= earlier.end - 1e-12 for earlier, later in pairwise(lane))
        for stage in ("forward", "backward"):
            own = [event for event in events if event.stage == stage]
            ready = {event.unit: event.end for event in own if event.kind == "all_gather"}
            run = {event.unit: event.start for event in reversed(own) if event.kind == "compute"}
            done = {event.unit: event.end for event in own if event.kind == "compute"}
            scattered = {event.unit: event.start for event in own if event.kind == "reduce_scatter"}
            assert all(run[unit] >= ready[unit] for unit in ready) and len(ready) >= len(run) - 1
            assert all(scattered[unit] >= done[unit] - 1e-12 for unit in scattered)


def test_segments_join_neighbours_of_one_unit() -> None:
    assert segments(["a", "a", "b", "a"], [1.0, 2.0, 3.0, 4.0]) == [("a", 3.0), ("b", 3.0), ("a", 4.0)]


def test_a_predicted_step_is_a_profile_whose_totals_are_those_of_its_operators() -> None:
    made = predicted("stable-diffusion-tiny", 16)
    profile = made.profile
    assert Profile.from_json(profile.to_json()) == profile
    assert {op.phase for op in profile.ops} == {"forward", "backward", "optimizer", "communication"}
    for stage in profile.stages:
        own = [op for op in profile.ops if op.stage == stage.name]
        total = sum(op.weight * ((op.device_seconds or 0) + (op.gap_seconds or 0)) for op in own)
        assert stage.seconds == pytest.approx(total, rel=1e-12)
    sent = next(stage for stage in profile.stages if stage.name == "communication")
    assert sent.seconds == pytest.approx(made.communication) and sent.wall_seconds == made.exposed
    assert made.step == pytest.approx(made.compute + made.exposed)


def test_sharding_divides_what_is_kept_and_a_slower_network_shows() -> None:
    one, eight, sixteen = (predicted("stable-diffusion-tiny", gpus) for gpus in (1, 8, 16))
    walk = walked("stable-diffusion-tiny")
    elements = sum(walk.elements(unit) for unit in walk.parameters)
    assert one.profile.memory.weights == 16 * elements and one.communication == one.exposed == 0
    assert 16 * elements / 8 <= eight.profile.memory.weights < 16 * elements / 4  # no less than a row of a tensor
    assert one.profile.memory.peak > eight.profile.memory.peak > sixteen.profile.memory.peak
    slow = predicted("stable-diffusion-tiny", 16, 1.0)
    assert slow.compute == sixteen.compute and slow.exposed > sixteen.exposed
