"""A device file with fitted constants written into it; every other line stays as it is, comments included."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from minimodels.sim.device import AttentionKernel, Device
from minimodels.sim.sustained import KERNEL

if TYPE_CHECKING:
    from minimodels.sim.calibrate import Fitted


def original(name: str) -> str:
    """The device file that comes with the package."""
    return (resources.files("minimodels.sim") / "devices" / f"{name}.toml").read_text("utf-8")


def rewritten(
    text: str, device: Device, done: Iterable[Fitted], measured: Iterable[str] = (), source: str | None = None
) -> str:
    """The device file `text` with the constants of `device` that were fitted, and those `measured` as such."""
    constants = device.constants
    families = ", ".join(f'"{family}"' for family in constants.calibrated)
    errors = ", ".join(f"{family} = {error:g}" for family, error in constants.errors.items())
    head, found, body = text.partition("[constants]\n")
    if not found:
        head = text.rstrip() + "\n\n"
    plain, _, kernels = body.partition("[constants.attention]\n")
    lines, kernel_lines = plain.rstrip().splitlines(), kernels.rstrip().splitlines()
    if constants.calibrated:
        _put(lines, "provenance", f'"{constants.provenance}"', "")
        _put(lines, "calibrated", f"[{families}]", "")
        _put(lines, "errors", f"{{ {errors} }}", "  # medians over the rows kept out of the fits")
    if source is not None:
        _put(lines, "source", f'"{source}"', "")
    for name in measured:
        _put(lines, name, f"{getattr(constants, name):.3g}", "  # measured")
    for part in done:
        comment = f"  # fit: {part.rows} rows"
        if part.family == "pipelines":
            comment += " of pipelines"
            _put(kernel_lines, KERNEL, f"{{ {_kernel(constants.attention[KERNEL])} }}", comment)
        if not part.family.startswith("attention, "):
            for name in part.names:
                _put(lines, name, f"{getattr(constants, name):g}", comment)
            continue
        name = part.family.removeprefix("attention, ")
        kernel = constants.attention[name]
        _put(kernel_lines, name, f"{{ {_kernel(kernel)}, error = {kernel.error:g} }}", comment)
    attention = ["", "[constants.attention]", *kernel_lines] if kernel_lines else []
    return head + "\n".join(["[constants]", *lines, *attention]) + "\n"


def _kernel(kernel: AttentionKernel) -> str:
    return f"floor = {kernel.floor:g}, efficiency = {kernel.efficiency:g}, prologue = {kernel.prologue:g}"


def _put(lines: list[str], name: str, value: str, comment: str) -> None:
    """Set `name` where it stands, over as many lines as it takes there, or after the last line."""
    line = f"{name} = {value}{comment}"
    for index, old in enumerate(lines):
        if re.match(rf"{re.escape(name)}\s*=", old):
            end = index + 1
            if old.count('"""') == 1:
                end += next(i for i, later in enumerate(lines[end:], start=1) if '"""' in later)
            lines[index:end] = [line]
            return
    lines.append(line)


def table(done: Sequence[Fitted]) -> list[tuple[str, ...]]:
    """Rows of (family, constants, rows fitted, rows kept out, error before, error after) for the terminal."""
    return [(f.family, ", ".join(f.names), str(f.rows), str(f.kept), f"{f.before:.1%}", f"{f.after:.1%}") for f in done]
