"""Triton kernels launched cheaply, and compiled ahead of time for GPUs that are not there.

`Launch` is one planned launch: kernel, grid, arguments, compile-time constants. Planning reads shapes and strides
only, so a plan of `meta` tensors can be inspected (grid limits, 64-bit offsets) or compiled (`compile_for`).

A plain `kernel[grid](...)` spends about 10 us of host time on finding the compiled kernel. `run` finds it by a key
of its own, made of what Triton specialises on: dtypes, pointers aligned to 16 bytes, integers that are 1, divisible
by 16, or beyond 32 bits.

Under TRITON_INTERPRET=1 (set before the first import) kernels run on CPU tensors. Where Triton is not installed
planning still works, and running says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.backend import INTERPRETED

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton: operators run as their reference, and walk
    triton = tl = None

__all__ = ["MAX_GRID_X", "MAX_GRID_YZ", "Launch", "cdiv", "compile_for", "jit", "power_of_2", "run", "tl", "wide"]

MAX_GRID_X, MAX_GRID_YZ = (1 << 31) - 1, 65535  # thread blocks that CUDA takes in each dimension of a grid
MAX_INT32 = (1 << 31) - 1
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64",
         torch.int64: "i64", torch.int32: "i32", torch.bool: "i1", torch.uint8: "u8"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Launch:
    """One planned launch; `args` are the kernel's run-time arguments in order, `constants` its compile-time ones."""

    kernel: Any
    grid: tuple[int, int, int]
    args: tuple[Tensor | int | float | None, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2

    def __post_init__(self) -> None:
        x, y, z = self.grid
        assert x <= MAX_GRID_X and y <= MAX_GRID_YZ and z <= MAX_GRID_YZ, f"grid {self.grid} exceeds CUDA's limits"


def jit(function: Any) -> Any:
    """`triton.jit`, or the function itself where Triton is not installed."""
    return function if triton is None else triton.jit(function)


def cdiv(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def power_of_2(n: int, least: int = 1) -> int:
    """The smallest power of 2 that is at least n and `least`."""
    return max(least, 1 << max(0, n - 1).bit_length())


def wide(*tensors: Tensor | None) -> bool:
    """Whether an offset into any of the tensors, padding to a block included, may exceed 32 bits."""
    return any(_extent(x) > MAX_INT32 for x in tensors if x is not None)


def _extent(x: Tensor) -> int:
    """The largest offset of an element of x, counting whole rows of every dimension; those of size 1 too."""
    return sum(size * abs(stride) for size, stride in zip(x.shape, x.stride(), strict=True))


_compiled: dict[Any, Any] = {}


def run(launch: Launch) -> None:
    """Launch on the current stream of the tensors' device.

    Raises:
        RuntimeError: Triton is not installed.
    """
    if triton is None:
        raise RuntimeError("Triton is not installed here: it exists for Linux, and comes with torch for CUDA")
    kernel, grid, args = launch.kernel, launch.grid, launch.args
    if INTERPRETED:
        kernel[grid](*args, **launch.constants, num_warps=launch.num_warps, num_stages=launch.num_stages)
        return
    device = torch.cuda.current_device()
    values = tuple(launch.constants.values())
    key = (kernel, device, values, launch.num_warps, launch.num_stages, *map(_specialised, args))
    found = _compiled.get(key)
    hooks = triton.knobs.runtime
    if found is None or hooks.launch_enter_hook is not None or hooks.launch_exit_hook is not None:
        _compiled[key] = kernel[grid](
            *args, **launch.constants, num_warps=launch.num_warps, num_stages=launch.num_stages
        )
        return
    stream = torch._C._cuda_getCurrentRawStream(device)
    found.run(*grid, stream, found.function, found.packed_metadata, None, None, None, *args, *values)


def _specialised(value: Tensor | float | None) -> Any:
    """What of an argument decides which compiled kernel takes it."""
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % 16 == 0
    if isinstance(value, int):
        return value == 1, value % 16 == 0, value > MAX_INT32
    return type(value)


def compile_for(launch: Launch, target: str) -> Any:
    """The kernel of a launch compiled for "sm80", "sm90", "sm100" or "gfx942", pointers taken as aligned.

    The result holds `asm` ("ptx" and "cubin", or "amdgcn") and `metadata` (shared memory, warps). Needs no GPU;
    not possible under the interpreter.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature, constants, attributes = {}, dict(launch.constants), {}
    for index, (name, value) in enumerate(zip(names, launch.args, strict=False)):
        kind = _type(value)
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = value
        elif isinstance(value, Tensor) or isinstance(value, int) and value % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(launch.constants, "constexpr")
    signature = {name: signature[name] for name in names}
    source = ASTSource(launch.kernel, signature, constants, attributes)
    gpu = GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target[2:]), 32)
    return triton.compile(source, target=gpu, options={"num_warps": launch.num_warps, "num_stages": launch.num_stages})


def _type(value: Tensor | float | None) -> str:
    """The type of an argument as Triton writes it; None and 1 are compile-time constants."""
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, bool) or value is None or value == 1 and isinstance(value, int):
        return "constexpr"
    if isinstance(value, int):
        return "i64" if value > MAX_INT32 else "i32"
    return "fp32"
