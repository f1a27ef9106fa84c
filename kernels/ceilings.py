"""What the card can do at most, measured beside the kernels in the same run: copies, matrix products, a launch.

A percentage of a datasheet says little: clocks, power and memory differ from card to card. These are the ceilings
that percentages of `bench` refer to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from minimodels.kernels.launch import Launch, jit
from minimodels.kernels.protocol import HOST_CALLS, WARMUPS, Timer
from minimodels.kernels.recipe import Remembered

COPY_BYTES = 1 << 30
MATMUL = 8192
RUNS = 20
BURST = 100  # copies inside the L2 cache timed as one


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes/s (read and written), FLOP/s by dtype and of "tf32", seconds.

    launches: host seconds of a launch, by who launches.
    """

    copy: float
    l2_copy: float
    matmul: dict[str, float]
    launch: float
    launches: dict[str, float]
    l2_bytes: int


@jit
def _nothing(x):
    """A kernel that ends at once."""


def measure_ceilings(timer: Timer, copy_bytes: int = COPY_BYTES, matmul: int = MATMUL, runs: int = RUNS) -> Ceilings:
    """The ceilings of the timer's device."""
    return Ceilings(
        copy=_copy(timer, copy_bytes, runs, 1),
        l2_copy=_copy(timer, timer.l2_bytes // 8, runs, BURST),  # source and target stay in the cache, with room
        matmul={
            "bfloat16": _matmul(timer, torch.bfloat16, matmul, runs),
            "float16": _matmul(timer, torch.float16, matmul, runs),
            "float32": _matmul(timer, torch.float32, matmul // 2, runs),
            "tf32": _tf32(timer, matmul, runs),
        },
        launch=_seconds(timer, _launches(timer)["ours" if timer.device.type == "cuda" else "torch"], runs),
        launches={who: _host(timer, call) for who, call in _launches(timer).items()},
        l2_bytes=timer.l2_bytes,
    )


def _copy(timer: Timer, size: int, runs: int, burst: int) -> float:
    """Bytes/s, read and written, of copies of `size` bytes, `burst` of them timed as one."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=timer.device) for _ in range(2))

    def copies() -> None:
        for _ in range(burst):
            target.copy_(source)

    return 2 * size * burst / _seconds(timer, copies, runs)


def _matmul(timer: Timer, dtype: torch.dtype, n: int, runs: int) -> float:
    """FLOP/s of a product of n x n matrices of normal numbers: zeros would draw less power."""
    a, b = (torch.randn(n, n, device=timer.device).to(dtype) for _ in range(2))
    return 2 * n**3 / _seconds(timer, lambda: a @ b, runs)


def _tf32(timer: Timer, n: int, runs: int) -> float:
    """FLOP/s of a product of float32 matrices taken as TF32; on a CPU, which has none, as float32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return _matmul(timer, torch.float32, n, runs)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _launches(timer: Timer) -> dict[str, Callable[[], Any]]:
    """Ways to launch a kernel that does as good as nothing."""
    one = torch.zeros(1, device=timer.device)
    calls: dict[str, Callable[[], Any]] = {"torch": lambda: one.zero_()}
    if timer.device.type == "cuda":
        ours = Remembered(lambda x: (None, [Launch(_nothing, (1, 1, 1), (x,), num_warps=1)]))
        calls |= {"ours": lambda: ours(one), "triton": lambda: _nothing[(1, 1, 1)](one, num_warps=1)}
    return calls


def _host(timer: Timer, call: Callable[[], Any]) -> float:
    for _ in range(WARMUPS):
        call()
    return min(timer.host(call, HOST_CALLS) for _ in range(WARMUPS))


def _seconds(timer: Timer, call: Callable[[], Any], runs: int) -> float:
    """The median of some runs, the host's part not measured; what is in the L2 cache stays there."""
    for _ in range(WARMUPS):
        call()
    timer.host(call, WARMUPS)
    return median(timer.once(call, lambda result: None) for _ in range(runs))
