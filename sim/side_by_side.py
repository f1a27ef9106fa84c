"""A measured profile beside the prediction for the same GPU: `minibench profile NAME --device cuda --compare`.

Time is device plus gap seconds, by stage and by family: the category of an operator and the kind of its kernel. The
error is that of the prediction, above 0 where it is too slow; "kernels" is the error of the device seconds alone,
without the gaps that the host and launches make. A compiled run has no operators of its own to tell families by, so
its categories stand for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from minimodels.sim import device as devices
from minimodels.sim import units
from minimodels.sim.cells import table_of
from minimodels.sim.profile import Op, Profile

KINDS = {  # of kernels, by the first pattern found in an operator's name
    "conv": r"conv",
    "gemm": r"linear|mm$|matmul|^outer$|cdist",
    "fused attention": r"attention",
    "random": r"normal_|exponential_|uniform_|rand",
    "norm": r"norm",
    "softmax": r"softmax",
    "sort": r"sort|topk|quantile",
    "gather": r"embedding|index|gather|scatter|one_hot",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A stage or a family: seconds as measured and as predicted; those of kernels are without gaps."""

    what: Literal["all", "stage", "family"]
    name: str
    measured: float
    predicted: float
    measured_kernels: float
    predicted_kernels: float

    @property
    def error(self) -> float | None:
        """Of the prediction, as a share of what was measured; None where nothing was."""
        return self.predicted / self.measured - 1 if self.measured else None

    @property
    def kernels_error(self) -> float | None:
        """The same of device seconds alone."""
        return self.predicted_kernels / self.measured_kernels - 1 if self.measured_kernels else None


def check(device: str) -> None:
    """See that `device`, as a user named it, can be both measured and predicted.

    Raises:
        ValueError: it cannot; the message says what can.
    """
    hint = "take --device cuda, or set any two profiles side by side: minibench compare A.json B.json"
    if device == "cpu":
        raise ValueError(f"--compare: there is no prediction for a CPU to stand beside a measurement; {hint}")
    if device not in ("auto", "cuda"):
        devices.load(device)  # or it is no GPU at all
        raise ValueError(f"--compare measures on the GPU at hand, and {device} is only simulated; {hint}")
    import torch

    from minimodels.sim.environment import known

    if not torch.cuda.is_available():
        raise ValueError(f"--compare measures on the GPU at hand, and torch finds no CUDA device here; {hint}")
    here = torch.device("cuda", torch.cuda.current_device())
    if known(here) is None:
        name = torch.cuda.get_device_name(here)
        raise ValueError(f"--compare: {name} is not among the GPUs of `minibench devices`, so nothing predicts it")


def rows(measured: Profile, predicted: Profile) -> list[Row]:
    """All, the stages in order, then the families, those that take longest first."""
    compiled = "compiled" in (measured.run.mode, predicted.run.mode)
    families = sorted(
        _rows(measured, predicted, "family", lambda op: op.category if compiled else family(op)),
        key=lambda row: -max(row.measured, row.predicted),
    )
    return [
        *_rows(measured, predicted, "all", lambda op: "all"),
        *_rows(measured, predicted, "stage", lambda op: op.stage),
        *families,
    ]


def family(op: Op) -> str:
    """The category of an operator, and the kind of kernel where a category has several."""
    found = (kind for kind, pattern in KINDS.items() if re.search(pattern, op.name))
    kind = next(found, "copy" if op.category == "Memory" else "elementwise")
    return op.category if op.category in ("Convolution", "Linear", "Embedding") else f"{op.category}, {kind}"


def report(measured: Profile, predicted: Profile) -> Group:
    """What `--compare` prints."""
    run, found = measured.run, rows(measured, predicted)
    kinds = sorted({op.provenance or "unknown" for op in predicted.ops})
    lines = [
        f"{measured.config['name']}: measured on {measured.device.title}",
        f"beside its prediction: SIMULATED (times: {' and '.join(kinds)} constants)",
        f"attention {run.attention}, dtype {run.dtype}, batch {run.batch}, mode {run.mode}",
        "Error: of the prediction, above 0 where it is too slow; kernels: without gaps between them.",
    ]
    return Group(Text("\n".join(lines)), Text(), _table(found))


def as_json(measured: Profile, predicted: Profile) -> dict[str, Any]:
    """The rows as records, seconds and shares, with both profiles."""
    return {
        "rows": [{**asdict(row), "error": row.error, "kernels_error": row.kernels_error}
                 for row in rows(measured, predicted)],
        "measured": measured.model_dump(mode="json", by_alias=True),
        "predicted": predicted.model_dump(mode="json", by_alias=True),
    }  # fmt: skip


def _table(found: Iterable[Row]) -> Table:
    table = table_of("", "Measured", "Predicted", "Error", "Kernels")
    last: str | None = None
    for row in found:
        if last not in (None, row.what):
            table.add_section()
        last = row.what
        errors = ["-" if error is None else f"{error:+.0%}" for error in (row.error, row.kernels_error)]
        table.add_row(row.name, units.seconds(row.measured), units.seconds(row.predicted), *errors)
    return table


def _rows(
    measured: Profile, predicted: Profile, what: Literal["all", "stage", "family"], key: Callable[[Op], str]
) -> Iterator[Row]:
    """A row for each key that occurs in either profile, in order of appearance; all of them have times."""
    ours, theirs = (_sums(profile.ops, key) for profile in (measured, predicted))
    for name in ours | theirs:
        (device, gap), (device_too, gap_too) = ours.get(name, (0.0, 0.0)), theirs.get(name, (0.0, 0.0))
        if device + gap or device_too + gap_too:
            yield Row(what, name, device + gap, device_too + gap_too, device, device_too)


def _sums(ops: Iterable[Op], key: Callable[[Op], str]) -> dict[str, tuple[float, float]]:
    """Device and gap seconds of all executions, by key."""
    found: dict[str, tuple[float, float]] = {}
    for op in ops:
        assert op.device_seconds is not None and op.gap_seconds is not None, "measured or predicted"
        device, gap = found.get(key(op), (0.0, 0.0))
        found[key(op)] = device + op.weight * op.device_seconds, gap + op.weight * op.gap_seconds
    return found
