"""The compile matrix: every kernel at the models' sizes, compiled for four GPUs, against the committed facts.

python -m tests.kernels.test_compile_matrix [KERNEL ...]      writes the facts of this Triton version anew
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from minimodels.kernels.launch import triton
from tests.kernels.all_cases import LARGE, MODULES, large, operator
from tests.kernels.matrix import measure, version
from tests.kernels.matrix_targets import TARGETS

FOLDER = Path(__file__).parent / "compiled"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
GROWTH = 1.15
WIDE = 0.5  # of the bytes at least; what is per row, channel or head may be narrow
SHARED = {"sm80": 163 << 10, "sm90": 227 << 10, "sm100": 227 << 10, "gfx942": 64 << 10}  # bytes a block can have
PRODUCTS = ("cross_attention", "decode_attention", "flash_attention", "temporal_attention", "temporal_conv")
needs_triton = pytest.mark.skipif(triton is None, reason="Triton is not installed")


def _file(name: str) -> Path:
    return FOLDER / f"{name.partition('::')[2]}.json"


def _by_version(name: str) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    return json.loads(_file(name).read_text()) if _file(name).exists() else {}


def _multiplies(name: str, key: str) -> bool:
    """Whether a launch has products for tensor cores: none of float32, which attention multiplies as such, but TF32."""
    kernel = name.partition("::")[2]
    exact = "float32" in key and kernel != "temporal_conv"
    adds_up = kernel == "decode_attention" and not key.endswith(", launch 0") and ", launch" in key
    return kernel in PRODUCTS and not exact and not adds_up


def _committed(name: str) -> dict[str, dict[str, dict[str, int]]]:
    return _by_version(name).get(version(), {})


def _matrix() -> Iterator[Any]:
    """Every case on every target; only the first of a kernel is quick enough for every run of the tests, on sm90."""
    for (name, case), target in product(LARGE, TARGETS):
        first = case == next(iter(MODULES[name].LARGE)) and target == "sm90"
        yield pytest.param(name, case, target, marks=() if first else pytest.mark.slow)


@needs_triton
@pytest.mark.parametrize(("name", "case", "target"), list(_matrix()))
def test_kernel_compiles_as_committed(name: str, case: str, target: str) -> None:
    module, launches = MODULES[name], []
    for key, found in measure(case, operator(name).plan, large(name, case), target):
        assert found["spills"] == 0 and found["stack"] == 0, found
        assert found["shared"] <= SHARED[target], found
        launches.append(found)
        assert found["tensor_core"] or not _multiplies(name, key), found
        committed = _committed(name)
        if not committed:  # of another Triton version: nothing to compare with
            continue
        before = committed[key][target]
        assert found["tensor_core"] >= before["tensor_core"] / GROWTH - 1, (found, before)
        assert found["registers"] <= GROWTH * before["registers"] + 2, (found, before)
        assert found["shared"] <= GROWTH * before["shared"], (found, before)
        for kind in ("loads", "stores"):
            assert _share([found], kind) >= _share([before], kind) / GROWTH, (found, before)
    if target in getattr(module, "NARROW", {}).get(case, ()):
        assert min(_share(launches, kind) for kind in ("loads", "stores")) < WIDE, "narrow no longer"
    else:
        assert _share(launches, "loads") >= WIDE, launches
        assert _share(launches, "stores") >= WIDE or getattr(module, "NARROW_STORES", False), launches


def _share(launches: list[dict[str, int]], kind: str) -> float:
    """Of the bytes that a lane loads or stores in launches, the share of wide accesses."""
    return sum(found[f"wide_{kind}"] for found in launches) / max(1, sum(found[kind] for found in launches))


@pytest.mark.parametrize("name", MODULES)
def test_committed_facts_are_of_these_cases_without_spills_and_of_the_oldest_triton_allowed(name: str) -> None:
    oldest = re.search(r'"triton>=([\d.]+)', PROJECT.read_text())
    assert oldest is not None and oldest[1] in _by_version(name)
    for committed in _by_version(name).values():
        assert {key.partition(", launch ")[0] for key in committed} == set(MODULES[name].LARGE)
        for key, by_target in committed.items():  # a GPU with fewer multiprocessors may do without a later launch
            assert set(by_target) == set(TARGETS) or key[-1] in "123456789", key
            assert not any(found["spills"] or found["stack"] for found in by_target.values()), key
            assert not _multiplies(name, key) or all(found["tensor_core"] for found in by_target.values()), key


def write(kernels: Sequence[str]) -> None:
    """Write the facts of every case of some kernels, or of all, keeping those of other Triton versions."""
    for name, module in MODULES.items():
        if kernels and name.partition("::")[2] not in kernels:
            continue
        facts: dict[str, dict[str, dict[str, int]]] = {}
        for case in module.LARGE:
            plan, args = operator(name).plan, large(name, case)
            for target in TARGETS:
                for key, found in measure(case, plan, args, target):
                    facts.setdefault(key, {})[target] = found
        FOLDER.mkdir(exist_ok=True)
        _file(name).write_text(json.dumps(_by_version(name) | {version(): facts}, indent=1) + "\n")


if __name__ == "__main__":
    write(sys.argv[1:])
