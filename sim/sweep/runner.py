"""A sweep: every point of a grid on every device, over processes, each kept as soon as it is finished.

Only the workers import torch, each once. The process that starts them writes the file; when it goes, killed or not,
they go too, and what they had not finished is done again by the next sweep into the file.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path

from minimodels.sim import device as device_files
from minimodels.sim.progress import Advance, silent
from minimodels.sim.sweep.grid import Axes, Axis, Base, points
from minimodels.sim.sweep.ledger import Ledger, Point, key_of

Unit = tuple[Axes, tuple[str, ...]]
"""A variant and the devices that may share a walk of it."""


def run(
    base: Base,
    axes: Sequence[Axis],
    devices: Sequence[str],
    out: Path | None = None,
    jobs: int = 1,
    progress: Advance = silent,
) -> list[Point]:
    """The points of a grid, in its order, devices running fastest.

    out: the file that finished points are appended to, and found in, so that they are not made again. jobs: processes;
    1 is this one.

    Raises:
        ValueError: an axis or a device that there is not, two axes of one key, or the file cannot be written.
        RuntimeError: a process died, for want of memory as a rule.
    """
    base.check(axes)
    grid = list(points(axes))
    families = _families(devices)
    digest, ledger = base.digest(), None if out is None else Ledger(out)
    found = {} if ledger is None else dict(ledger.points)
    wanted = [key_of(digest, place, device) for place in grid for device in devices]
    open_units = [
        (place, missing)
        for place in grid
        for family in families
        if (missing := tuple(name for name in family if key_of(digest, place, name) not in found))
    ]
    done = sum(key in found for key in wanted)
    for finished in _work(base, open_units, jobs):
        for point in finished:
            if ledger is not None:
                ledger.append(point)
            found[point.key] = point
        done += len(finished)
        progress("points", done, len(wanted))
    return [found[key] for key in wanted]


def processes(work: int) -> int:
    """How many processes are worth starting for so many points."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(here, (work + 1) // 2))


def _families(devices: Sequence[str]) -> list[list[str]]:
    """The devices, those of one architecture together.

    Raises:
        ValueError: there is no such device, or it is named twice.
    """
    families: dict[str, list[str]] = {}
    for name in devices:
        if devices.count(name) > 1:
            raise ValueError(f"--device {name} is named twice")
        families.setdefault(device_files.load(name).arch, []).append(name)
    return list(families.values())


def _work(base: Base, units: Sequence[Unit], jobs: int) -> Iterator[list[Point]]:
    """What units come to, as they are finished."""
    if jobs == 1 or len(units) < 2:
        yield from (_evaluate(base, *unit) for unit in units)
        return
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(units)), context, initializer=_begin)
    ended = False
    try:
        futures = [pool.submit(_evaluate, base, *unit) for unit in units]
        yield from (future.result() for future in as_completed(futures))
        ended = True
    except BrokenProcessPool:
        raise RuntimeError("a process of the sweep was killed, for want of memory as a rule; try --jobs 1") from None
    finally:
        pool.shutdown(wait=ended, cancel_futures=True)
        if not ended:
            _stop(set(multiprocessing.active_children()) - before)


def _stop(workers: set[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()


def _begin() -> None:
    """In a new process: one thread, no traceback when the user interrupts, no life after its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only workers call this"
    parent.join()
    os._exit(1)


def _evaluate(base: Base, axes: Axes, devices: tuple[str, ...]) -> list[Point]:
    from minimodels.sim.sweep.point import evaluate

    return evaluate(base, axes, devices)
