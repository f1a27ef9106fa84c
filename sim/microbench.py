"""Kernels timed on the GPU at hand, as rows of a truth table, and the host: what `calibrate` fits a device file to.

Every row is timed as the reader of its phase (`truth_kernels`) takes it to be: products with some sets of weights
in turn and attention again and again, so that the L2 cache is warm; convolutions, norms and passes over memory with
nothing of them in it. The clock is that of `kernels.protocol`, which hides the host behind a busy device; a time is the
median of some runs. All of it takes a few minutes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, product
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minimodels.kernels.ceilings import Ceilings, measure_ceilings
from minimodels.kernels.protocol import WARMUPS, Timer
from minimodels.sim.cost.gemm import sets
from minimodels.sim.device import Constants, Device
from minimodels.sim.progress import Advance, silent
from minimodels.sim.validate import COLUMNS

Call = Callable[[], Any]
RUNS = 11
CPU_CACHE = 4 << 20  # bytes, for trying it without a GPU
BURST = 10  # calls on a warm cache timed as one
LEAST_GAP = 1e-7  # seconds: a gap is never nothing
QUEUE = 200  # empty kernels behind each other
SUSTAINED = 1.0  # seconds of products before their rate is taken: a power limit tells by then
DTYPE, NAME = torch.float16, "fp16"  # which every GPU has
IMPLEMENTATIONS = {
    "FA2": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "xformers": SDPBackend.EFFICIENT_ATTENTION,
}
LAYERS = 24  # of the small network whose host time is taken


@dataclass(frozen=True, slots=True)
class Bench:
    """One kernel at one size: a row's phase and settings, and a function that makes its call on a device."""

    phase: str
    batch: int
    settings: str
    make: Callable[[torch.device], Call]
    warm: bool = False


def benches() -> Iterator[Bench]:
    """All kernels and sizes: those of text, image and video models, from too small to fill a GPU to very large."""
    for m, (n, k) in product((1, 16, 77, 256, 1024, 4096), WEIGHTS_OF):
        yield Bench("gemm", 1, f"M={m} N={n} K={k}", _product(m, n, k), warm=True)
    for batch, cin, cout, side, window in CONVOLUTIONS:
        settings = f"Cin={cin} Cout={cout} HxW={side}x{side} k={window} stride=1 pad={window // 2}"
        yield Bench("conv2d fwd", batch, settings, _convolution(batch, cin, cout, side, window))
    for implementation in IMPLEMENTATIONS:
        yield from _attentions(implementation)
    for rows, columns in product((64, 256, 1024, 4096, 16384), (77, 320, 1280, 4096)):
        size = f"rows={rows} cols={columns} clock=device"
        yield Bench("softmax", 1, size, _rows(rows, columns, lambda x: torch.softmax(x, -1)))
        yield Bench("layernorm", 1, size, _rows(rows, columns, lambda x: F.layer_norm(x, x.shape[-1:])))
    for power in range(9, 30):
        yield Bench("gelu", 1, f"elements={1 << power} clock=device", _rows(1, 1 << power, F.gelu))
        yield Bench("copy", 1, f"elements={1 << power}", _rows(1, 1 << power, Tensor.clone))
    for batch, channels, side in ((2, 320, 64), (2, 1280, 16), (1, 128, 512), (16, 512, 32)):
        settings = f"C={channels} HxW={side}x{side} groups=32"
        yield Bench("groupnorm", batch, settings, _group_norm(batch, channels, side))


WEIGHTS_OF = ((320, 320), (1280, 1280), (5120, 1280), (4096, 4096), (11008, 4096), (4096, 11008))
HEADS = ((8, 40), (8, 80), (16, 64), (10, 64), (32, 128), (16, 128), (40, 128))  # and features of each
CONVOLUTIONS = (
    (2, 320, 320, 64, 3), (2, 640, 640, 32, 3), (2, 1280, 1280, 16, 3), (2, 1280, 1280, 8, 3), (2, 2560, 1280, 16, 3),
    (2, 960, 640, 32, 3), (2, 320, 320, 64, 1), (2, 1280, 1280, 16, 1), (2, 4, 320, 64, 3), (1, 512, 512, 128, 3),
    (1, 128, 128, 512, 3), (1, 256, 256, 256, 3), (1, 128, 3, 512, 3), (16, 512, 512, 32, 3), (16, 256, 256, 64, 3),
    (2, 640, 1280, 32, 1), (2, 1920, 640, 32, 3), (16, 192, 192, 64, 3), (4, 384, 384, 32, 3), (4, 768, 768, 8, 3),
)  # fmt: skip


def _attentions(implementation: str) -> Iterator[Bench]:
    """Self-attention with and without a causal mask, and decoding, at head dims of models."""
    for (heads, head_dim), length in product(HEADS, (256, 1024, 4096)):
        if implementation == "cuDNN" and head_dim % 64:
            continue
        for causal in (False, True):
            phase = "attention prefill (causal)" if causal else "attention fwd (bidirectional)"
            settings = f"seqlen={length} heads={heads} headdim={head_dim} causal={causal} impl={implementation}"
            make = _attention(2, heads, length, length, head_dim, causal, IMPLEMENTATIONS[implementation])
            yield Bench(phase, 2, settings, make, warm=True)
    if implementation == "FA2":
        for heads, batch, length in product((8, 16, 32), (1, 16), (512, 2048, 8192)):
            settings = f"kv_len={length} heads={heads} kv_heads={heads} headdim=128 impl={implementation}"
            make = _attention(batch, heads, 1, length, 128, False, IMPLEMENTATIONS[implementation])
            yield Bench("attention decode", batch, settings, make, warm=True)


def _draw(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(shape, device=device).to(DTYPE)


def _product(m: int, n: int, k: int) -> Callable[[torch.device], Call]:
    def make(device: torch.device) -> Call:
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else CPU_CACHE
        count = sets(DTYPE.itemsize * n * k, l2_bytes)
        x, weights = _draw(device, m, k), cycle([_draw(device, n, k) for _ in range(count)])
        return lambda: F.linear(x, next(weights))

    return make


def _convolution(batch: int, cin: int, cout: int, side: int, window: int) -> Callable[[torch.device], Call]:
    def make(device: torch.device) -> Call:
        x, weight = (
            _draw(device, *shape).to(memory_format=torch.channels_last)
            for shape in ((batch, cin, side, side), (cout, cin, window, window))
        )
        return lambda: F.conv2d(x, weight, padding=window // 2)

    return make


def _attention(
    batch: int, heads: int, n: int, m: int, d: int, causal: bool, kernel: SDPBackend
) -> Callable[[torch.device], Call]:
    def make(device: torch.device) -> Call:
        q, k, v = (_draw(device, batch, length, heads, d).transpose(1, 2) for length in (n, m, m))

        def call() -> Tensor:
            with sdpa_kernel(kernel):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

        return call

    return make


def _rows(rows: int, columns: int, operator: Callable[[Tensor], Tensor]) -> Callable[[torch.device], Call]:
    def make(device: torch.device) -> Call:
        x = _draw(device, rows, columns)
        return lambda: operator(x)

    return make


def _group_norm(batch: int, channels: int, side: int) -> Callable[[torch.device], Call]:
    def make(device: torch.device) -> Call:
        x, weight, bias = _draw(device, batch, channels, side, side), *(_draw(device, channels) for _ in range(2))
        return lambda: F.group_norm(x, 32, weight, bias)

    return make


@torch.inference_mode()
def seconds(bench: Bench, timer: Timer) -> float:
    """The median time of one call.

    Raises:
        RuntimeError: the kernel cannot do the call.
    """
    call, burst = bench.make(timer.device), BURST if bench.warm else 1

    def calls() -> None:
        for _ in range(burst):
            call()

    for _ in range(WARMUPS):
        calls()
    timer.host(calls, WARMUPS)
    found = []
    for _ in range(RUNS):
        if not bench.warm:
            timer.flush()
        found.append(timer.once(calls, lambda _: None) / burst)
    return median(found)


def measure(gpu: str, timer: Timer, progress: Advance = silent) -> str:
    """A truth table of this GPU, as CSV; kernels that cannot run are left out. gpu: what the rows call it."""
    text, listed = io.StringIO(), list(benches())
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, bench in enumerate(listed):
        progress(bench.phase, number, len(listed))
        try:
            value = 1e3 * seconds(bench, timer)
        except RuntimeError:  # no such kernel on this GPU, or out of memory
            continue
        identity, source = f"m{number:03}", "measured on this GPU by minibench calibrate"
        row = (
            identity,
            "-",
            bench.phase,
            gpu,
            NAME,
            bench.batch,
            bench.settings,
            "latency",
            f"{value:.6g}",
            "ms",
            source,
        )
        writer.writerow(row)
    return text.getvalue()


class _Block(nn.Module):
    """A norm, a product, an activation and a sum, as models run them: with Python between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.linear(self.norm(x)))


@torch.inference_mode()
def host(timer: Timer, ceilings: Ceilings | None = None) -> dict[str, float]:
    """Seconds of the host: per launch, by the leanest launcher, and per operator of an eager model beside it."""
    network = nn.Sequential(*(_Block(16) for _ in range(LAYERS))).to(timer.device, DTYPE)
    x = _draw(timer.device, 1, 16)
    for _ in range(WARMUPS):
        network(x)
    each = min(timer.host(lambda: network(x), BURST) for _ in range(WARMUPS)) / (4 * LAYERS)
    launch = min((ceilings or measure_ceilings(timer)).launches.values())
    return {"host_per_launch": launch, "host_per_op": max(each - launch, 1e-7)}


@torch.inference_mode()
def queued(timer: Timer) -> float:
    """Seconds of an empty kernel in a queue of many, the gap before it taken in: `memory_floor` and `kernel_gap`."""
    one = torch.zeros(1, device=timer.device)

    def kernels() -> None:
        for _ in range(QUEUE):
            one.zero_()

    for _ in range(WARMUPS):
        kernels()
    timer.host(kernels, WARMUPS)
    return median(timer.once(kernels, lambda _: None) for _ in range(RUNS)) / QUEUE


@dataclass(frozen=True, slots=True)
class Timed:
    """What was timed on a GPU: rows to fit to, constants that need no fit and that `device` has already, and the
    seconds of a queued kernel."""

    device: Device
    table: str
    measured: dict[str, float]
    queued: float

    def constants(self, fitted: Device) -> dict[str, float]:
        """All constants that were timed, once the others are fitted."""
        return self.measured | {"kernel_gap": gap(self.queued, fitted.constants)}


def timed(device: Device, timer: Timer, progress: Advance = silent) -> Timed:
    """All that `calibrate` needs of the GPU that stands behind `timer`; device: its file as it is."""
    measured = host(timer)
    measured["gemm_sustained"] = min(1.0, sustained(timer) / device.peak_flops("float16"))
    table = measure(device.name, timer, progress)
    return Timed(device.with_constants(**measured), table, measured, queued(timer))


def gap(each: float, constants: Constants) -> float:
    """Seconds between two kernels that are both queued: what is left of `queued` beside the kernel itself."""
    return max(each - constants.memory_floor, LEAST_GAP)


@torch.inference_mode()
def sustained(timer: Timer, n: int = 8192, seconds: float = SUSTAINED) -> float:
    """FLOP/s of products of n x n matrices of normal numbers, once they have run for some seconds."""
    a, b = (_draw(timer.device, n, n) for _ in range(2))
    timer.host(lambda: a @ b, WARMUPS)
    times: list[float] = []
    while sum(times) < seconds or len(times) < WARMUPS:
        times.append(timer.once(lambda: a @ b, lambda _: None))
    return 2 * n**3 / median(times[-max(WARMUPS, len(times) // 4) :])
