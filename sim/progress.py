"""Progress on stderr, for whatever takes long: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds before a bar appears
INTERVAL = 5.0  # seconds between lines, and before the first

Advance = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """The progress callback of callers that show nothing."""


def lines(title: str) -> Advance:
    """A progress callback that prints a plain line to stderr every few seconds."""
    due = time.monotonic() + INTERVAL

    def advance(what: str, done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + INTERVAL
            print(f"{title}: {what} {done:,}{f' of {total:,}' if total else ''}", file=sys.stderr, flush=True)

    return advance


@contextmanager
def bar(title: str) -> Iterator[Advance]:
    """Yield `advance(what, done, total)`: a bar that shows after two seconds, or lines if stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lines(title)
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
