"""Which device file stands for a GPU as truth tables name it.

A name is compared without vendor and punctuation, in lower case, and without what stands in brackets: "NVIDIA
A100-80GB-SXM", "A100 SXM4 80GB" and "A100-80GB-SXM4" are one. A GPU that no table row, paper or vendor page of this
package calls otherwise has its device name alone.
"""

from __future__ import annotations

import re

from minimodels.sim import device as devices

VENDORS = re.compile(r"\b(nvidia|amd|google|intel|tesla|geforce|instinct|cloud)\b")
ALIASES = {
    "a100-80gb": (
        "A100", "A100-80GB", "A100-SXM", "A100-80GB-SXM", "A100-80GB-SXM4", "A100-SXM4-80GB", "A100 SXM4 80GB",
        "A100-SXM-80GB", "A100-80GB-SXM 400W",
    ),
    "a100-80gb-pcie": ("A100-PCIe", "A100-80GB-PCIe", "A100 80GB PCIe", "A100-PCIE-80GB"),
    "a100-40gb": ("A100-40GB", "A100-40GB-SXM", "A100-40GB-SXM4", "A100-SXM4-40GB", "A100-SXM-40GB"),
    "a100-40gb-pcie": ("A100-40GB-PCIe", "A100-PCIE-40GB"),
    "h100-sxm": (
        "H100", "H100-SXM", "H100-80GB-SXM", "H100-SXM5-80GB", "H100-80GB-SXM5", "H100 80GB HBM3", "H100 SXM5",
        "H100-SXM-80GB",
    ),
    "h100-pcie": ("H100-PCIe", "H100-PCIe-80GB", "H100 80GB PCIe", "H100-80GB-PCIe"),
    "h100-nvl": ("H100-NVL", "H100-NVL-94GB", "H100 NVL 94GB"),
    "h200": (
        "H200", "H200-SXM", "H200-SXM-141GB", "H200-141GB-SXM", "H200 SXM5", "H200-SXM5-141GB", "H200 141GB HBM3e",
    ),
    "h200-nvl": ("H200-NVL", "H200-NVL-141GB"),
    "gh200": ("GH200", "GH200-96GB"),
    "b200": ("B200", "B200-SXM", "B200-SXM-180GB"),
    "gb200": ("GB200",),
    "b300": ("B300", "B300-SXM"),
    "v100-32gb": (
        "V100", "V100-32GB", "V100-SXM2", "V100-SXM2-32GB", "V100-SXM2-16GB", "V100-PCIE-32GB", "V100-PCIE-16GB",
    ),
    "t4": ("T4",),
    "l4": ("L4",),
    "l40s": ("L40S",),
    "a10g": ("A10G",),
    "a40": ("A40",),
    "h20": ("H20", "H20-96GB"),
    "rtx-3090": ("RTX 3090", "3090"),
    "rtx-4080": ("RTX 4080", "4080"),
    "rtx-4090": ("RTX 4090", "4090"),
    "rtx-5090": ("RTX 5090", "5090"),
    "rtx-a5000": ("RTX A5000", "A5000"),
    "rtx-pro-6000": ("RTX PRO 6000 Server", "RTX PRO 6000", "RTX PRO 6000 Blackwell Server Edition"),
    "mi100": ("MI100",),
    "mi210": ("MI210",),
    "mi250x": ("MI250X",),
    "mi300x": ("MI300X", "MI300X OAM"),
    "mi325x": ("MI325X", "MI325X OAM"),
    "mi355x": ("MI355X", "MI355X OAM"),
    "tpu-v4": ("TPU v4", "TPUv4"),
    "tpu-v5e": ("TPU v5e",),
    "tpu-v5p": ("TPU v5p",),
    "tpu-v6e": ("TPU v6e",),
    "gaudi-2": ("Gaudi 2",),
    "gaudi-3": ("Gaudi 3",),
}  # fmt: skip


def normal(name: str) -> str:
    """A GPU's name without vendor, brackets and punctuation."""
    bare = VENDORS.sub("", re.sub(r"\(.*?\)", "", name.lower()))
    return re.sub(r"[^a-z0-9]", "", bare)


KNOWN = {normal(alias): device for device, aliases in ALIASES.items() for alias in (device, *aliases)}


def device_of(gpu: str) -> str | None:
    """The device that stands for a GPU, by any of its names; None where there is none."""
    name = KNOWN.get(normal(gpu))
    return name if name in devices.names() else None
