"""Hardware counters of a run through Nsight Compute: the command to type, and the run that it counts.

The command runs this program again under `ncu`, with every scope of the model as an NVTX range and the counters on
around the second of two inferences. Loops run at the steps that stand for the others, since every kernel is run again
for each group of counters. `counters_csv` reads what the command writes.

Source of names: Nsight Compute, Kernel Profiling Guide, metrics of the L1TEX and LTS units; NVTX filtering.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch

from minimodels.kernels.backend import attention_backend
from minimodels.kernels.scope import STAGE, TRACER, AttentionCall, label
from minimodels.kinds import Config
from minimodels.options import parse
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim.job import of_config
from minimodels.sim.knots import visit
from minimodels.sim.simulate import walk_config

TIME = "gpu__time_duration.sum"
INSTRUCTIONS = "smsp__inst_executed.sum"  # of warps
LOADS = "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"
COPIES = "l1tex__t_sectors_pipe_lsu_mem_global_op_ldgsts.sum"  # to shared memory, asynchronous
FOUND = "lts__t_sectors_srcunit_tex_op_read_lookup_hit.sum"  # what L1 caches ask the L2 cache for
MISSED = "lts__t_sectors_srcunit_tex_op_read_lookup_miss.sum"
MEMORY = "dram__bytes.sum"
METRICS = (TIME, INSTRUCTIONS, LOADS, COPIES, FOUND, MISSED, MEMORY)

Enter = Callable[[str], AbstractContextManager[object]]


def command(config: Config, name: str, overrides: Sequence[str], attention: str, scope: str | None) -> str:
    """The command that counts one inference of an architecture, given as `name`, and writes FILE.csv.

    scope: count what runs inside it alone, such as "attention.temporal".

    Raises:
        ValueError: there is no such attention backend, or nothing of the architecture runs in such a scope.
    """
    _on_gpu(attention)
    if scope is not None and scope not in (found := scopes(config, attention)):
        raise ValueError(f"--scope {scope}: nothing of {config.name} runs in it; it has {', '.join(found)}")
    within = ["--nvtx-include", f"{scope}/"] if scope else []
    again = [f"--set={override}" for override in overrides]
    return shlex.join(
        [
            "ncu", "--target-processes", "all", "--profile-from-start", "off", "--nvtx", *within,
            "--metrics", ",".join(METRICS), "--csv", "--page", "raw", "--print-units", "base",
            "--log-file", f"{name.rpartition('/')[2].removesuffix('.toml')}.csv",
            "python", "-m", "minimodels.cli", "counters", name, *again, "--attention", attention, "--run",
        ]
    )  # fmt: skip


def _on_gpu(attention: str) -> Run:
    return parse(Run, {"device": "cuda", "attention": attention})


def scopes(config: Config, attention: str) -> list[str]:
    """The scopes that operators of one inference run in, in the order of the first: the ranges of a counted run."""
    run = Run(attention=attention)
    calls = walk_config(config, run, devices.load(run.device)).calls
    found = (name for call in calls for name in (label(STAGE, call.stage), *call.scope.split("/")))
    return [name for name in dict.fromkeys(found) if name]


class Ranges:
    """The tracer of a counted run: every scope is a range, which `enter` opens; loops run a few steps."""

    clocks = False

    def __init__(self, enter: Enter) -> None:
        self._enter = enter

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        return self._enter(label(kind, name))

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        return visit([], n, growth, None, False)


def perform(config: Config, attention: str) -> None:
    """Run an inference twice on the GPU here, the second time under the counters.

    Raises:
        ValueError: there is no such attention backend or no CUDA device, or a pinned backend cannot do a call.
    """
    run = _on_gpu(attention)
    if not torch.cuda.is_available():
        raise ValueError("--run: torch finds no CUDA device here; run the printed command where there is one")
    prepared = of_config(config, run).prepare("cuda")
    with attention_backend(attention):
        traced(prepared.run, Ranges(torch.cuda.nvtx.range))
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        traced(prepared.run, Ranges(torch.cuda.nvtx.range))
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def traced(job: Callable[[], object], ranges: Ranges) -> None:
    """Run a job under a tracer."""
    token = TRACER.set(ranges)
    try:
        with torch.inference_mode():
            job()
    finally:
        TRACER.reset(token)
