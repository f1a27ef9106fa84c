"""The docs say what the commands print, and the README's Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_every_command_in_the_docs_prints_what_stands_there() -> None:
    done = subprocess.run([sys.executable, "docs/refresh.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_python_in_the_readme_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) > 1e12


def test_every_key_of_a_profile_is_documented() -> None:
    from minimodels.sim.profile import Attention, Memory, Op, Profile, Stage

    text = (ROOT / "docs" / "profile.md").read_text()
    for record in (Profile, Op, Stage, Memory, Attention):
        for name in record.model_fields:
            assert f"`{name.removesuffix('_')}`" in text, name


def test_every_class_that_can_be_read_is_documented() -> None:
    from minimodels.weights import peers

    text = (ROOT / "docs" / "weights.md").read_text()
    for name in peers():
        assert f"`{name}`" in text, name
