"""What a kernel's plan becomes on four GPUs that need not be there: registers, spills, tensor cores, access widths.

Every kernel module has `plan`, which reads shapes alone, and the target where its tiles depend on it, so plans of
`meta` tensors are compiled as they would be launched. From the binaries: registers and stack (cuobjdump), shared memory
(Triton), the number of tensor-core instructions and how wide accesses to global memory are (the disassembly): bytes
that a lane moves if it meets every instruction once, and how many of them come or go 16 at a time. AMD's lanes hold
results of matrix instructions in fours, so that 8 bytes at once are wide for a store there.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.nvidia import driver as nvidia

from minimodels.kernels.backend import attention_backend
from minimodels.kernels.launch import Launch, compile_for, specialisation
from minimodels.kernels.recipe import Plan
from tests.kernels.matrix_targets import TARGETS

TOOLS = Path(nvidia.__file__).parent / "bin"
TENSOR_CORE = {"sm80": r"\bHMMA", "sm90": r"\bHG?MMA", "sm100": r"\b(?:UTC)?HMMA", "gfx942": r"\bv_mfma"}
ACCESS = r"\b(LDGSTS|LDG|STG|UTMALDG|UTMASTG)\b((?:\.\w+)*)"
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}  # in bytes; 4 where nothing is said
AMD_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "short": 2, "ubyte": 1, "byte": 1}
AMD_ACCESS = rf"\b(?:buffer|global|flat)_(load|store)_({'|'.join(AMD_WIDTHS)})"


@dataclass(frozen=True)
class Facts:
    """Of one kernel on one GPU: 32-bit registers a thread, bytes of stack and shared memory, instructions.

    loads, stores: bytes of global memory a lane, of every instruction once; wide_loads, wide_stores: of wide ones.
    """

    registers: int
    stack: int
    shared: int
    spills: int
    tensor_core: int
    loads: int
    wide_loads: int
    stores: int
    wide_stores: int


def facts(launch: Launch, target: str) -> Facts:
    """Compile a launch for a target and look at the result."""
    compiled = compile_for(launch, target)
    shared = compiled.metadata.shared
    if target.startswith("gfx"):
        return _amd(compiled.asm["amdgcn"], shared)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([TOOLS / "cuobjdump", flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    accesses = [_access(name, kinds.split(".")) for name, kinds in re.findall(ACCESS, code)]
    spills = len(re.findall(r"\b(?:STL|LDL)\b", code))
    tensor_core = len(re.findall(TENSOR_CORE[target], code))
    return Facts(int(found[1]), int(found[2]), shared, spills, tensor_core, *_bytes(accesses, 16))


def _access(name: str, kinds: list[str]) -> tuple[bool, int]:
    """Whether an instruction loads, and its bytes a lane; a tensor copied by tiles is as wide as there is."""
    width = 16 if name.startswith("UTMA") else next((WIDTHS[kind] for kind in kinds if kind in WIDTHS), 4)
    return "LD" in name, width


def _bytes(accesses: list[tuple[bool, int]], wide_store: int) -> tuple[int, int, int, int]:
    """Bytes of all loads and of wide ones, of all stores and of wide ones."""
    loads, stores = ([width for load, width in accesses if load is kind] for kind in (True, False))
    wide_loads, wide_stores = (width for width in loads if width >= 16), (w for w in stores if w >= wide_store)
    return sum(loads), sum(wide_loads), sum(stores), sum(wide_stores)


def _amd(code: str, shared: int) -> Facts:
    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s*(\d+)", code)
        return int(found[1]) if found else 0

    accesses = [(kind == "load", AMD_WIDTHS[width]) for kind, width in re.findall(AMD_ACCESS, code)]
    spills = number("vgpr_spill_count") + number("sgpr_spill_count")
    tensor_core = len(re.findall(TENSOR_CORE["gfx942"], code))
    own = number("vgpr_count"), number("private_segment_fixed_size")
    return Facts(*own, shared, spills, tensor_core, *_bytes(accesses, 8))


def version() -> str:
    """Triton's version, to the minor."""
    return ".".join(triton.__version__.split(".")[:2])


def measure(case: str, plan: Plan, args: tuple[Any, ...], target: str) -> Iterator[tuple[str, dict[str, int]]]:
    """The facts of every kernel that a plan made for a target launches, and what they stand under."""
    plans: dict[str, list[Launch]] = {}
    for other in TARGETS:
        with attention_backend("triton", other):
            made = plan(*args)[1]
        plans[other] = list({specialisation(launch): launch for launch in reversed(made)}.values())[::-1]
    alone = max(map(len, plans.values())) == 1
    for number, launch in enumerate(plans[target]):
        yield case if alone else f"{case}, launch {number}", asdict(facts(launch, target))
