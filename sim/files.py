"""Files the user names: read with a clear error, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


def read(path: Path) -> bytes:
    """The content of `path`.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file and a rename: never a torn file.

    Raises:
        ValueError: the file cannot be written.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            os.unlink(temporary)


def check_distinct(outputs: Sequence[Path], inputs: Sequence[Path] = ()) -> None:
    """Say before any work is done that one output would overwrite another, or an input.

    Raises:
        ValueError: two paths are the same file.
    """
    taken = {Path(path).resolve() for path in inputs}
    for path in outputs:
        if Path(path).resolve() in taken:
            raise ValueError(f"{path} is named twice; writing it would overwrite the other, so give another name")
        taken.add(Path(path).resolve())


def check_writable(path: Path) -> None:
    """Say before any work is done that `path` cannot be written; nothing is left behind.

    Raises:
        ValueError: it is a directory, or its folder does not exist or takes no new file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from None
