"""The docs say what the commands print, and the README's Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("minimodels", "kernels", "sim")


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


def test_the_readme_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, page.name


@pytest.mark.parametrize("page", ["README.md", "docs/code.md", "docs/kernels.md", "docs/time.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    named = re.findall(
        r"`([\w./*-]+\.(?:py|toml|csv)|(?:minimodels|kernels|sim|tests)/[\w/]+)`", (ROOT / page).read_text()
    )
    assert named
    for name in named:
        placed, anywhere = ROOT.glob(name.replace("NAME", "*")), [(ROOT / room).rglob(name) for room in ROOMS]
        assert any(placed) or ("/" not in name and any(map(any, anywhere))), name


def test_every_public_name_has_a_section_that_its_docstring_points_to() -> None:
    import minimodels

    assert len(minimodels.__all__) <= 10
    sections = (ROOT / "docs" / "python.md").read_text().split("\n## ")[1:]
    texts = {section.partition("\n")[0].strip("`"): section for section in sections}
    assert sorted(texts) == sorted(minimodels.__all__)
    for name, text in texts.items():
        example = re.search(
            r"^```python\n(# \S+)\n(.*?)^```\n\n```console\n\$ python (\S+)$", text, re.DOTALL | re.MULTILINE
        )
        assert example and example[1] == f"# {example[3]}" and f"minimodels.{name}" in example[2], name
        assert "docs/python.md" in getattr(minimodels, name).__doc__, name


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
