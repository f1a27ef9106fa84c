"""The file of a sweep: a line of JSON per finished point, appended whole.

`{"axes": {...}, "device": ..., "status": "ok"|"failed", "metrics": {...}, "error": ..., "model": ..., "base": ...}`:
`error` only where a point failed, `base` tells points of one architecture and run from those of another.

A line is one write to a file opened for appending, made while holding a lock on it, so that any number of sweeps may
share a file. A process killed in the middle leaves a line without an end at worst: reading drops it, and the next
write, under the lock, cuts it off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from minimodels.sim.files import read
from minimodels.sim.sweep.grid import Axes

START = b'{"axes":'


class Point(BaseModel):
    """A finished point of a sweep: where it lies, on which device, and what came out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    axes: Axes
    device: str
    status: Literal["ok", "failed"]
    metrics: dict[str, bool | int | float | None] = {}
    error: str | None = None
    model: str
    base: str

    @property
    def key(self) -> str:
        """What no two points of a file share."""
        return key_of(self.base, self.axes, self.device)

    def line(self) -> bytes:
        """The point as it stands in a file."""
        record = self.model_dump(exclude={"error"} if self.error is None else set())
        return json.dumps(record, allow_nan=False).encode() + b"\n"


def key_of(base: str, axes: Axes, device: str) -> str:
    """What tells a point from all others."""
    return json.dumps([base, axes, device], sort_keys=True)


def check_name(path: Path) -> None:
    """See that a file of a sweep is called so.

    Raises:
        ValueError: it does not end in .jsonl.
    """
    if path.suffix != ".jsonl":
        raise ValueError(f"--out {path}: the file of a sweep is named FILE.jsonl")


def load(path: Path) -> list[Point]:
    """The points of a file, without a line that a killed sweep did not end.

    Raises:
        ValueError: the file cannot be read, or is not one of a sweep.
    """
    return list(_points(read(path), path, 1))


def _points(data: bytes, path: Path, first: int) -> Iterator[Point]:
    """The points of whole lines, the first of which has the number `first`."""
    *lines, torn = data.split(b"\n")
    if torn[: len(START)] != START[: len(torn)]:
        raise ValueError(f"{path} is not the file of a sweep: line {first + len(lines)} is no point")
    for number, line in enumerate(lines, first):
        try:
            yield Point.model_validate_json(line)
        except ValidationError:
            raise ValueError(f"{path} is not the file of a sweep: line {number} is no point") from None


class Ledger:
    """A file that points are appended to; `points` are those in it, by key, other sweeps' too."""

    def __init__(self, path: Path) -> None:
        """Open the file, which need not be there.

        Raises:
            ValueError: it can be neither read nor made, or is not one of a sweep.
        """
        self.path = Path(path)
        self.points: dict[str, Point] = {}
        self._end = 0  # bytes of whole lines that were read
        with self._locked() as file:
            self._catch_up(file)

    def append(self, point: Point) -> None:
        """Add a point, unless another sweep has done so; the file has all of it, or is as it was.

        Raises:
            ValueError: the file cannot be written, as on a full disk.
        """
        with self._locked() as file:
            self._catch_up(file)
            if point.key in self.points:
                return
            os.ftruncate(file, self._end)  # what a killed sweep did not end
            line = point.line()
            try:
                written = os.write(file, line)
                while written < len(line):  # a disk that is full says so at the next write
                    written += os.write(file, line[written:])
            except OSError:
                os.ftruncate(file, self._end)
                raise
            self._end += len(line)
            self.points[point.key] = point

    def _catch_up(self, file: int) -> None:
        """Read what was appended since, to the end of the last whole line."""
        if os.fstat(file).st_size < self._end:
            self.points, self._end = {}, 0  # emptied by someone
        if os.fstat(file).st_size == self._end:
            return
        os.lseek(file, self._end, os.SEEK_SET)
        with os.fdopen(os.dup(file), "rb") as stream:
            data = stream.read()
        for point in _points(data, self.path, len(self.points) + 1):
            self.points.setdefault(point.key, point)
        self._end += data.rfind(b"\n") + 1

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open for appending and locked."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            kept = f"; the {len(self.points):,} points in it are whole" if self.points else ""
            raise ValueError(f"cannot write {self.path}: {error.strerror or error}{kept}") from None


def record(point: Point) -> dict[str, Any]:
    """The point as JSON shows it."""
    return json.loads(point.line())
