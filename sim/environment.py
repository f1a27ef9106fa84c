"""What a measurement was made on and with: the device, its clocks, the libraries and their switches."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from minimodels.kernels.backend import architecture
from minimodels.sim import device as devices
from minimodels.sim.profile import DeviceRecord

LIKE = 0.05  # of the listed memory: drivers report up to 1 % more or less, some files hold the datasheet's number
SMI_FIELDS = {
    "driver": "driver_version",
    "clock_sm": "clocks.sm",
    "clock_memory": "clocks.mem",
    "clock_sm_max": "clocks.max.sm",
    "power_limit": "power.limit",
}


def target_of(device: torch.device) -> str:
    """The architecture whose limits decide which attention kernel runs: "sm80", "gfx942", "cpu"."""
    return architecture(device)


def known(device: torch.device) -> devices.Device | None:
    """The device file of a GPU: same architecture, model name, compute units and about the same memory."""
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    words = re.split(r"[\s-]+", found.name.lower())
    for candidate in map(devices.load, devices.names()):
        sheet = candidate.datasheet
        model = next(word for word in candidate.name.split("-") if re.search(r"\d", word))
        if (
            candidate.arch == target_of(device)
            and model in words
            and sheet.compute_units == found.multi_processor_count
            and abs(found.total_memory / sheet.memory_bytes - 1) < LIKE
        ):
            return candidate
    return None


def describe(device: torch.device, dtype: str) -> DeviceRecord:
    """The `device` of a measured profile: bytes, bytes/s, FLOP/s; None where no datasheet is at hand."""
    if device.type != "cuda":
        return DeviceRecord(
            name="cpu",
            title=_processor(),
            memory_bytes=memory_bytes(device),
            bandwidth=None,
            peak_flops=None,
            provenance="measured",
        )
    found, file = torch.cuda.get_device_properties(device), known(device)
    return DeviceRecord(
        name=file.name if file else found.name.lower().replace(" ", "-"),
        title=found.name,
        memory_bytes=memory_bytes(device),
        bandwidth=file.datasheet.bandwidth if file else None,
        peak_flops=file.datasheet.flops.get(dtype) if file else None,  # type: ignore[call-overload]
        provenance="measured",
    )


def memory_bytes(device: torch.device) -> int:
    """All memory of a GPU that torch can see, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(device: torch.device) -> int:
    """Memory that a run may take: what is free on a GPU, all there is on a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes(device)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, clocks in MHz, power limit in watts, and the switches that change kernels."""
    facts = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
    return facts | _smi(device)


def _smi(device: torch.device) -> dict[str, Any]:
    """What nvidia-smi says of a GPU, None for what it does not say or where there is none."""
    facts: dict[str, Any] = dict.fromkeys(SMI_FIELDS)
    if device.type != "cuda" or torch.version.hip:
        return facts
    query = f"--query-gpu={','.join(SMI_FIELDS.values())}"
    which = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        answer = subprocess.run(
            ["nvidia-smi", which, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return facts
    values = [value.strip() for value in answer.stdout.split(",")]
    if answer.returncode or len(values) != len(SMI_FIELDS):
        return facts
    return {key: value if key == "driver" else _number(value) for key, value in zip(SMI_FIELDS, values, strict=True)}


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _processor() -> str:
    """The processor's own name, the kind of machine where it has none."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", info.read_text("utf-8", "replace"), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()
