"""The compile matrix: every kernel at the models' sizes, compiled for four GPUs, against the committed facts.

python -m tests.kernels.test_compile_matrix      writes the facts of this Triton version anew
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from minimodels.kernels.backend import attention_backend
from minimodels.kernels.launch import triton
from tests.kernels.all_cases import LARGE, MODULES, large, operator
from tests.kernels.matrix import TARGETS, facts, version

FOLDER = Path(__file__).parent / "compiled"
GROWTH = 1.15
SHARED = {"sm80": 163 << 10, "sm90": 227 << 10, "sm100": 227 << 10, "gfx942": 64 << 10}  # bytes a block can have
needs_triton = pytest.mark.skipif(triton is None, reason="Triton is not installed")


def _file(name: str) -> Path:
    return FOLDER / f"{name.partition('::')[2]}.json"


def _committed(name: str) -> dict[str, dict[str, dict[str, int]]]:
    return json.loads(_file(name).read_text()).get(version(), {}) if _file(name).exists() else {}


def _facts(name: str, case: str) -> dict[str, dict[str, dict[str, int]]]:
    """By launch and target, each planned for that target."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for target in TARGETS:
        with attention_backend("sdpa", target):
            _, launches = operator(name).plan(*large(name, case))
        for number, launch in enumerate(launches):
            key = f"{case}, launch {number}" if len(launches) > 1 else case
            found.setdefault(key, {})[target] = asdict(facts(launch, target))
    return found


@needs_triton
@pytest.mark.parametrize(("name", "case"), LARGE)
def test_kernel_compiles_as_committed(name: str, case: str) -> None:
    narrow = case in getattr(MODULES[name], "NARROW", ())
    widest: dict[str, int] = {}
    for key, by_target in _facts(name, case).items():
        committed = _committed(name).get(key)
        for target, found in by_target.items():
            assert found["spills"] == 0 and found["stack"] == 0, (target, found)
            assert found["shared"] <= SHARED[target], (target, found)
            widest[target] = max(widest.get(target, 0), found["widest"])
            if committed is None:
                continue
            before = committed[target]
            assert found["tensor_core"] >= min(1, before["tensor_core"]), (target, found, before)
            assert found["registers"] <= GROWTH * before["registers"] + 2, (target, found, before)
            assert found["shared"] <= GROWTH * before["shared"], (target, found, before)
            assert found["widest"] >= before["widest"], (target, found, before)
    assert narrow or set(widest.values()) == {128}, "what moves the data moves 16 bytes at once"


@needs_triton
def test_the_committed_facts_are_of_these_cases() -> None:
    for name in MODULES:
        committed = _committed(name)
        if committed:
            assert {key.partition(", launch ")[0] for key in committed} == set(MODULES[name].LARGE)
            assert all(set(by_target) == set(TARGETS) for by_target in committed.values())


def write() -> None:
    """Write the facts of every case, keeping those of other Triton versions."""
    for name, module in MODULES.items():
        written: dict[str, dict[str, dict[str, int]]] = {}
        for case in module.LARGE:
            written |= _facts(name, case)
        known = json.loads(_file(name).read_text()) if _file(name).exists() else {}
        FOLDER.mkdir(exist_ok=True)
        _file(name).write_text(json.dumps(known | {version(): written}, indent=1) + "\n")


if __name__ == "__main__":
    write()
