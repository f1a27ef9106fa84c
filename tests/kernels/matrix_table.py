"""The committed facts of the compile matrix as a table.

python -m tests.kernels.matrix_table      of the newest Triton version in tests/kernels/compiled/*.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from minimodels.sim.tables import console, table_of

FOLDER = Path(__file__).parent / "compiled"
Facts = dict[str, dict[str, dict[str, int]]]  # by case and target


def table(folder: Path = FOLDER) -> RenderableType:
    """Registers a thread, KB of shared memory a block and tensor-core instructions, per case and GPU."""
    files = sorted(folder.glob("*.json"))
    if not files:
        return Text("nothing was compiled yet")
    parts: list[RenderableType] = [
        Text("registers a thread / KB of shared memory / tensor-core instructions; no spills")
    ]
    for file in files:
        versions: dict[str, Facts] = json.loads(file.read_text())
        newest = max(versions, key=lambda version: tuple(map(int, version.split("."))))
        parts += [Text(), Text(f"{file.stem}, compiled with Triton {newest}", style="bold"), _kernel(versions[newest])]
    return Group(*parts)


def _kernel(cases: Facts) -> RenderableType:
    targets = list(next(iter(cases.values())))
    made = table_of("Call", *targets)
    made.columns[0].no_wrap, made.columns[0].overflow = False, "fold"
    for case, by_target in cases.items():
        made.add_row(case, *(_cell(by_target[target]) if target in by_target else "-" for target in targets))
    return made


def _cell(facts: dict[str, Any]) -> str:
    spilt = f" ({facts['spills']} SPILLS)" if facts["spills"] else ""
    return f"{facts['registers']} / {facts['shared'] / 1024:.0f} / {facts['tensor_core']}{spilt}"


if __name__ == "__main__":
    console().print(table())
