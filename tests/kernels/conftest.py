"""Tests in `interpreted` run under TRITON_INTERPRET=1 and those beside it without: it is read at import."""

from __future__ import annotations

from minimodels.kernels.backend import INTERPRETED

collect_ignore_glob = ["test_*.py", "gpu/*"] if INTERPRETED else ["interpreted/*"]
