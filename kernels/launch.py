"""Triton kernels launched cheaply, and compiled ahead of time for GPUs that are not there.

`Launch` is one planned launch: kernel, grid, arguments, compile-time constants. Planning reads shapes and strides
only, so a plan of `meta` tensors can be inspected (grid limits, 64-bit offsets) or compiled (`compile_for`).

A plain `kernel[grid](...)` spends about 10 us of host time on finding the compiled kernel. `run` finds it by a key
of its own, made of what Triton specialises on: dtypes, pointers aligned to 16 bytes, integers that are 1, divisible
by 16, or beyond 32 bits. `recipe` remembers whole plans, so that most calls need neither.

Under TRITON_INTERPRET=1 (set before the first import) kernels run on CPU tensors. Where Triton is not installed
planning still works, and running says what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = [
    "MAX_GRID_X", "MAX_GRID_YZ", "Launch", "cdiv", "compile_for", "device_of", "jit", "launch_compiled", "power_of_2",
    "run", "specialisation", "stream_of", "tl", "watched", "wide",
]  # fmt: skip

MAX_GRID_X, MAX_GRID_YZ = (1 << 31) - 1, 65535  # thread blocks that CUDA takes in each dimension of a grid
MAX_INT32 = (1 << 31) - 1
HIP = torch.version.hip is not None  # AMD kernels are told which storages are under 2 GiB
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


def jit(function: Any = None, *, varying: Sequence[str] = ()) -> Any:
    """`triton.jit`, or the function itself where Triton is not installed.

    varying: integer parameters that differ from call to call, as the length of a cache does: the compiled kernel does
    not depend on them being 1 or divisible by 16.

    A kernel may be longer than other functions. What repeats is a helper, which Triton puts in place at no cost; but a
    helper for each phase of a kernel would take and return every tile, address and stride, and where one part of a
    result is written before the next is computed (`cross_attention`), joining the two in one holds both in registers.
    """
    if function is None:
        return lambda function: jit(function, varying=varying)
    return function if triton is None else triton.jit(do_not_specialize=list(varying))(function)


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


def run(launch: Launch) -> Any:
    """Launch on the current stream of the tensors' device; the compiled kernel, None under the interpreter.

    Raises:
        RuntimeError: Triton is not installed.
        ValueError: the tensors are on several devices.
    """
    if triton is None:
        raise RuntimeError("Triton is not installed here: it exists for Linux, and comes with torch for CUDA")
    if INTERPRETED:
        _launch_plainly(launch)
        return None
    with torch.cuda.device(device_of(launch)):  # a stream belongs to one device
        return _run_on(torch.cuda.current_device(), launch)


def _run_on(device: int, launch: Launch) -> Any:
    key = (device, *specialisation(launch))
    found = _compiled.get(key)
    if found is None or watched():
        found = _compiled[key] = _launch_plainly(launch)
    else:
        launch_compiled(found, stream_of(device), launch.grid, (*launch.args, *launch.constants.values()))
    return found


def _launch_plainly(launch: Launch) -> Any:
    names = launch.kernel.arg_names[len(launch.args) :]
    assert set(names) == set(launch.constants), f"arguments come first, then the constants {names}"
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return launch.kernel[launch.grid](*launch.args, **launch.constants, **options)


def stream_of(device: int) -> int:
    """The current stream of a device, as CUDA's handle."""
    return torch._C._cuda_getCurrentRawStream(device)


def launch_compiled(compiled: Any, stream: int, grid: tuple[int, int, int], values: Sequence[Any]) -> None:
    """Launch what Triton compiled on a stream of the current device; pointers may be addresses.

    `values` has one for every parameter. Triton skips those of constants, so only their number matters.
    """
    compiled.run(*grid, stream, compiled.function, compiled.packed_metadata, None, None, None, *values)


def watched() -> bool:
    """Whether somebody (a profiler of Triton's) wants to be told of every launch."""
    hooks = triton.knobs.runtime
    return _calls(hooks.launch_enter_hook) or _calls(hooks.launch_exit_hook)


def _calls(chain: Any) -> bool:
    return chain is not None and bool(getattr(chain, "calls", True))


def device_of(launch: Launch) -> torch.device:
    """The one device that all tensors of a launch are on.

    Raises:
        ValueError: there are several.
    """
    found = {x.device for x in launch.args if isinstance(x, Tensor)}
    if len(found) != 1:
        raise ValueError(f"a kernel takes tensors of one device, not of {', '.join(sorted(map(str, found)))}")
    return found.pop()


def specialisation(launch: Launch) -> tuple[Any, ...]:
    """What decides which compiled kernel a launch takes on a given device."""
    constants = [(name, type(value), value) for name, value in launch.constants.items()]
    options = launch.num_warps, launch.num_stages
    varying = _varying(launch)
    places = [launch.kernel.arg_names.index(name) for name in varying]
    given = (_specialised(x, place in places) for place, x in enumerate(launch.args))
    return id(launch.kernel), *constants, *options, *given


def _varying(launch: Launch) -> Sequence[str]:
    return getattr(launch.kernel, "do_not_specialize", None) or ()


def _specialised(value: Tensor | float | None, varying: bool) -> Any:
    """What of an argument decides it."""
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % 16 == 0, HIP and value.untyped_storage().nbytes() <= MAX_INT32
    if isinstance(value, bool) or not isinstance(value, int):
        return type(value)
    return _integer(value) if varying else value == 1 or (_integer(value), value % 16 == 0)


def _integer(value: int) -> str:
    """The type of an integer as Triton writes it."""
    return "i32" if -MAX_INT32 - 1 <= value <= MAX_INT32 else "i64" if value < 1 << 63 else "u64"


def compile_for(launch: Launch, target: str) -> Any:
    """The kernel of a launch compiled for "sm80", "sm90", "sm100" or "gfx942", pointers taken as aligned.

    The result holds `asm` ("ptx" and "cubin", or "amdgcn") and `metadata` (shared memory, warps). Needs no GPU;
    not possible under the interpreter.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names, varying = launch.kernel.arg_names, _varying(launch)
    signature, constants, attributes = {}, dict(launch.constants), {}
    for index, (name, value) in enumerate(zip(names, launch.args, strict=False)):
        kind = _integer(value) if name in varying and isinstance(value, int) else _type(value)
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = value
        elif isinstance(value, Tensor) or name not in varying and isinstance(value, int) and value % 16 == 0:
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
        return _integer(value)
    return "fp32"
