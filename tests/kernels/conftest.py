"""Tests in `interpreted` run under TRITON_INTERPRET=1 and those beside it without: it is read at import."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from minimodels.kernels.backend import INTERPRETED
from tests.kernels import fake_packages

collect_ignore_glob = ["test_*.py", "gpu/*"] if INTERPRETED else ["interpreted/*"]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_packages.Install]:
    """What writes packages of `fake_packages` to a folder that modules are found in."""
    yield from fake_packages.installer(tmp_path, monkeypatch)
