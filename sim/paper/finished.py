"""What of the study is finished in a folder: a target is used again only where nothing has changed that it depends on.

`finished.json` holds the device that a folder is for, and a key for each finished target. A key stands for the version,
every line of code, config, device file and table of this package, torch, the device, and the lengths that were changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path

import torch

import minimodels
from minimodels.sim import device as devices
from minimodels.sim.files import read, write_whole
from minimodels.sim.paper.study import Study
from minimodels.version import VERSION

NAME = "finished.json"
DEVICE = "device"  # the entry that names the device of the folder; all others are targets
CONTENTS = (".py", ".toml", ".csv", ".html", ".css", ".js")


def key(study: Study) -> str:
    """What the results of a study depend on, as a digest."""
    if study.device == "cuda":
        device = {"title": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    else:
        device = devices.load(study.device).model_dump(mode="json")
    facts = {
        "version": VERSION,
        "code": _code(),
        "torch": torch.__version__,
        "device": device,
        "lengths": dict(sorted(study.lengths.items())),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> str:
    """A digest of the files of this package."""
    top, digest = Path(minimodels.__file__).parent, hashlib.sha256()
    found = [Path(folder) / name for folder, _, names in os.walk(top, followlinks=True) for name in names]
    for path in sorted(path for path in found if path.suffix in CONTENTS):
        digest.update(str(path.relative_to(top)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def finished(folder: Path, wanted: str) -> set[str]:
    """The targets that were finished in a folder under a key."""
    return {name for name, found in _known(folder).items() if found == wanted}


def claim(folder: Path, device: str) -> None:
    """Note which device a folder is for, since its files do not name it one by one.

    Raises:
        ValueError: it is for another, or the note cannot be written.
    """
    known = _known(folder)
    if known.get(DEVICE, device) != device:
        raise ValueError(f"{folder} holds the study for {known[DEVICE]}; give --out another folder for {device}")
    if DEVICE not in known:
        write_whole(folder / NAME, json.dumps({DEVICE: device} | known, indent=1).encode())


def mark(folder: Path, target: str, found: str | None) -> None:
    """Note that a target is finished under a key; None: that it is not, before its files are written anew.

    Raises:
        ValueError: the note cannot be written.
    """
    known = _known(folder)
    if known.get(target) == found:
        return
    known.pop(target, None)
    if found is not None:
        known[target] = found
    write_whole(folder / NAME, json.dumps(known, indent=1).encode())


def _known(folder: Path) -> dict[str, str]:
    """The keys by target, and the device; none where the note is not there or is none of ours."""
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        known = json.loads(read(path))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return known if isinstance(known, dict) else {}
