"""What a kernel's plan becomes on four GPUs that need not be there: registers, spills, tensor cores, access widths.

Every kernel module has `plan`, which reads shapes alone, and the target where its tiles depend on it, so plans of
`meta` tensors are compiled as they would be launched. From the binaries: registers and stack (cuobjdump), shared memory
(Triton), the number of tensor-core instructions and the widest access to global memory (the disassembly).
"""

from __future__ import annotations

import json
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
from minimodels.kernels.launch import Launch, compile_for
from minimodels.kernels.recipe import Plan

TARGETS = ("sm80", "sm90", "sm100", "gfx942")
TOOLS = Path(nvidia.__file__).parent / "bin"
TENSOR_CORE = {"sm80": r"\bHMMA", "sm90": r"\bHG?MMA", "sm100": r"\b(?:UTC)?HMMA", "gfx942": r"\bv_mfma"}
WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}


@dataclass(frozen=True)
class Facts:
    """Of one kernel on one GPU: 32-bit registers a thread, bytes, instructions; widest global access in bits."""

    registers: int
    stack: int
    shared: int
    spills: int
    tensor_core: int
    widest: int


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
    widths = [
        WIDTHS.get(kind or "", 32)
        for kind in re.findall(
            r"\b(?:LDG|STG|LDGSTS)\.E(?:\.BYPASS|\.LTC128B|\.CONSTANT)*(?:\.(U8|S8|U16|S16|64|128))?", code
        )
    ]
    if re.search(r"\bUTMALDG|\bUTMASTG", code):
        widths.append(128)
    spills = len(re.findall(r"\b(?:STL|LDL)\b", code))
    tensor_core = len(re.findall(TENSOR_CORE[target], code))
    return Facts(int(found[1]), int(found[2]), shared, spills, tensor_core, max(widths, default=0))


def _amd(code: str, shared: int) -> Facts:
    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s*(\d+)", code)
        return int(found[1]) if found else 0

    kinds = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "ushort": 16, "short": 16}
    accesses = re.findall(r"\b(?:buffer|global|flat)_(?:load|store)_(dwordx4|dwordx3|dwordx2|dword|ushort|short)", code)
    spills = number("vgpr_spill_count") + number("sgpr_spill_count")
    tensor_core = len(re.findall(TENSOR_CORE["gfx942"], code))
    widest = max((kinds[kind] for kind in accesses), default=0)
    return Facts(number("vgpr_count"), number("private_segment_fixed_size"), shared, spills, tensor_core, widest)


def table(path: Path) -> dict[str, dict[str, dict[str, int]]]:
    """The committed facts of this Triton version, by case and target; empty where there are none."""
    file = path / f"triton-{version()}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def version() -> str:
    """Triton's version, to the minor."""
    return ".".join(triton.__version__.split(".")[:2])


def measure(case: str, plan: Plan, args: tuple[Any, ...], target: str) -> Iterator[tuple[str, dict[str, int]]]:
    """The facts of every launch of a plan made for a target, and what they stand under."""
    plans = {}
    for other in TARGETS:
        with attention_backend("triton", other):
            plans[other] = plan(*args)[1]
    alone = max(map(len, plans.values())) == 1
    for number, launch in enumerate(plans[target]):
        yield case if alone else f"{case}, launch {number}", asdict(facts(launch, target))
