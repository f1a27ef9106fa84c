"""Real training steps: a network sharded by torch's FSDP2, AdamW, one process per device, started through torchrun.

Every block is a unit of its own: its weights are gathered before it runs and freed after, its gradients are reduced
and scattered. Weights, gradients and the optimizer's states are sharded and in float32; in half precision they are
gathered in it. A rank that dies ends the run with `TrainingFailed`: the agent sees it within `NOTICED`, and no
collective waits longer than `TIMEOUT`.

Every process builds the whole network before it is sharded, so that one and several processes start alike: a network
must fit a device once.

Source: torchtitan, torchtitan/models/llama3/infra/parallelize.py, for what is sharded and in which dtypes.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, record
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from minimodels.config import Length, Strict
from minimodels.objective import Trainable, blocks, example_batch, loss, trained
from minimodels.run import DTYPES, build

TIMEOUT = timedelta(seconds=60)  # of a collective that a rank does not join
NOTICED = 0.1  # seconds between two looks at whether all ranks are alive
LEARNING_RATE = 1e-4  # Stable Diffusion v1 model card: after warm-up
WEIGHT_DECAY = 1e-2  # torch.optim.AdamW, and the official code of latent diffusion, which leaves it there


class Training(Strict):
    """Options of a training run; batch: samples per process."""

    nproc: int = Field(default=1, ge=1, le=1024)
    batch: Length = 1
    steps: int = Field(default=3, ge=1, le=1_000_000)
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = Field(default=0, ge=0, lt=1 << 63)


class Step(Strict):
    """One training step: mean loss of all samples before it, seconds of the slowest rank, peak memory in bytes."""

    step: int
    loss: float
    seconds: float
    memory_bytes: int = Field(description="of the device's allocator; on a CPU, of the whole process")


class TrainingFailed(RuntimeError):
    """A rank ended before its time; the message says which and how."""


Tell = Callable[[Step], None]


def train(config: Trainable, options: Training, tell: Tell) -> list[Step]:
    """Train for some steps in processes of their own; rank 0 calls `tell`, a function of a module, after each.

    Raises:
        ValueError: there are fewer CUDA devices than processes.
        TrainingFailed: a rank died or raised.
    """
    if options.device == "cuda" and torch.cuda.device_count() < options.nproc:
        raise ValueError(f"--nproc {options.nproc}: torch finds {torch.cuda.device_count()} CUDA devices here")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it prints what is raised here
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=options.nproc, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=NOTICED, start_method="spawn",
    )  # fmt: skip
    try:
        return elastic_launch(launch, worker)(config, options, tell)[0]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise TrainingFailed(f"rank {rank} of {options.nproc} {_ending(failure)}; all ranks were ended") from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise TrainingFailed(f"ended by {error.sigval.name}") from None


def _ending(failure: ProcessFailure) -> str:
    """How a rank ended, in words."""
    if failure.exitcode < 0:
        return f"was killed by {failure.signal_name()}"
    raised: Any = failure.message  # a record of the exception where there was one, whatever its type says
    if isinstance(raised, dict):
        return f"failed: {raised['message']}"
    return f"ended with exit code {failure.exitcode}"


@record
def worker(config: Trainable, options: Training, tell: Tell) -> list[Step]:
    """What a rank does: every step, after which rank 0 tells of it.

    A rank whose collective fails waits a moment with its own error: the agent is to see the rank that died first.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if options.device == "cuda" else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        done = []
        for step in _steps(config, options, rank, world, device):
            done.append(step)
            if rank == 0:
                tell(step)
        return done
    except RuntimeError:
        time.sleep(10 * NOTICED)
        raise
    finally:
        dist.destroy_process_group()


def _steps(config: Trainable, options: Training, rank: int, world: int, device: torch.device) -> Iterator[Step]:
    kept = "float64" if options.dtype == "float64" else "float32"
    network = build(config, device, kept, options.seed, only=trained(config))[trained(config)]
    network.requires_grad_(True).train()
    shard(network, device, DTYPES[options.dtype])
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    generator = torch.Generator().manual_seed(options.seed)
    own = slice(rank * options.batch, (rank + 1) * options.batch)
    for step in range(options.steps):
        whole = example_batch(config, options.batch * world, DTYPES[options.dtype], "cpu", generator)
        batch = {name: tensor[own].to(device) for name, tensor in whole.items()}
        dist.barrier()
        start = time.perf_counter()
        value = loss(config, network, batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
        mean = value.detach() / world
        dist.all_reduce(mean)
        most = torch.tensor([spent, float(_peak(device))], dtype=torch.float64, device=device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        seconds, memory = most.tolist()
        yield Step(step=step + 1, loss=mean.item(), seconds=seconds, memory_bytes=int(memory))


def shard(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Shard a network over all ranks, every block and the rest as units; they run in `dtype`."""
    half = dtype == torch.bfloat16
    policy = MixedPrecisionPolicy(dtype, torch.float32) if half else MixedPrecisionPolicy()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*reversed(blocks(network).values()), network):  # those within others first
        fully_shard(module, mesh=mesh, mp_policy=policy)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts it in KiB
