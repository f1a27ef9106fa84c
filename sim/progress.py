"""A progress bar on stderr, for whatever takes longer than two seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds before a bar appears

Advance = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """The progress callback of callers that show nothing."""


@contextmanager
def bar(title: str) -> Iterator[Advance]:
    """Yield `advance(what, done, total)`; the bar shows after two seconds, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=None)
    timer = threading.Timer(PATIENCE, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda what, done, total: progress.update(
            task, description=f"{title}: {what}", completed=done, total=total or None
        )
    finally:
        timer.cancel()
        progress.stop()
