"""How long a walk takes: processor seconds and memory of the published sizes, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import minimodels

ROOT = Path(minimodels.__file__).resolve().parents[1]
BEYOND = (
    "amused",
    "animatediff",
    "dit",
    "flux",
    "modelscope",
    "wan",
)  # not in the study's suite, which is to take ten seconds
WALKS = """
import json, re, time
from pathlib import Path
import torch
from minimodels.loader import load, names
from minimodels.run import Run
from minimodels.sim.device import load as device
from minimodels.sim.simulate import walk_config

seconds = {}
for name in names():
    if not name.endswith("-tiny"):
        begin = time.process_time()
        walk_config(load(name), Run(), device("a100-80gb"))
        seconds[name] = time.process_time() - begin
status = Path("/proc/self/status").read_text()  # getrusage counts the process that started this one too
print(json.dumps([seconds, 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])]))
"""


@pytest.mark.slow
def test_the_published_sizes_are_built_and_walked_in_ten_seconds_and_two_gigabytes() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", WALKS], capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    seconds, memory = json.loads(result.stdout)
    print(*(f"{name} {own:.2f} s" for name, own in seconds.items()), sep="\n")
    print(f"all {sum(seconds.values()):.2f} s, {memory / 1e9:.2f} GB")
    assert max(seconds.values()) < 2
    assert sum(own for name, own in seconds.items() if not name.startswith(BEYOND)) < 10
    assert memory < 2e9
