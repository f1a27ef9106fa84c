"""Variants of architectures from Python: `minimodels.compare` and `minimodels.sweep`.

minimodels.compare("parti-3b", "deep-parti.toml", device="h100-sxm").differences
minimodels.sweep("stable-diffusion-1.5", {"image_size": [256, 512], "attention": ["baseline", "flash"]})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from minimodels import loader
from minimodels.config import Architecture
from minimodels.kinds import Config
from minimodels.options import parse
from minimodels.run import Run
from minimodels.sim.api import HowOptions, RunOptions, simulate
from minimodels.sim.comparison import Comparison, compare_profiles
from minimodels.sim.profile import Profile
from minimodels.sim.sweep import ledger, runner
from minimodels.sim.sweep.grid import Axis, Base
from minimodels.sim.sweep.ledger import Point

Model = str | Path | Config


def compare(*variants: Model | Profile, **options: Unpack[RunOptions]) -> Comparison:
    """What differs between two or more variants, and what that does to time, FLOPs, bytes, memory and parameters.

    variants: profiles, which are taken as they are; configs, names of architectures and paths of .toml files, which are
    simulated, device and the other options being fields of `Run`. Example: docs/python.md.

    Raises:
        ValueError: fewer than two variants, no such architecture, or what `simulate` raises.
    """
    if options and all(isinstance(variant, Profile) for variant in variants):
        raise ValueError(f"{', '.join(options)}: profiles are compared as they were made")
    return compare_profiles(
        [one if isinstance(one, Profile) else simulate(_config(one), **options) for one in variants]
    )


def sweep(
    model: Model,
    over: Mapping[str, Iterable[Any]],
    *,
    device: str | Sequence[str] = "a100-80gb",
    out: str | Path | None = None,
    jobs: int = 1,
    **options: Unpack[HowOptions],
) -> list[Point]:
    """An architecture at every combination of the values of some axes, simulated: points in the order of the grid.

    over: by key, which is a dotted path of the config, a run length such as image_size, or attention, batch, dtype,
    kernels, layout, mode or resident. device: one or several, running fastest. out: a file that every point is appended
    to as it is finished, and is not made again if it is there. jobs: processes; with more than one, a script that calls
    this needs `if __name__ == "__main__":`. options: fields of `Run` that do not vary. A point that cannot be built has
    the status "failed" and says why; the others have metrics in SI units. Example: docs/python.md.

    Raises:
        ValueError: no such architecture, axis, device or option, or `out` cannot be written.
        RuntimeError: a process died.
    """
    for key, values in over.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(f"over[{key!r}] is a list of values, not {values!r}; for one value write [{values!r}]")
    if jobs < 1:
        raise ValueError(f"jobs {jobs}: at least 1 process")
    file = None if out is None else Path(out)
    if file is not None:
        ledger.check_name(file)
    axes = [Axis(key, tuple(values)) for key, values in over.items()]
    devices = [device] if isinstance(device, str) else list(device)
    return runner.run(Base.of_config(_config(model), _options(options, over)), axes, devices, file, jobs)


def _config(model: Model) -> Config:
    return model if isinstance(model, Architecture) else loader.load(model)  # type: ignore[return-value]


def _options(given: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Run` that all points share, those that are not given at their defaults."""
    known = {name: Run.model_fields[name].default for name in HowOptions.__annotations__}
    for name in given:
        if name not in known:
            raise ValueError(f"unknown option {name!r}; allowed: {', '.join(known)}")
        if name in over:
            raise ValueError(f"{name} varies: it cannot be one value as well")
    return parse(Run, known | dict(given)).model_dump(include=set(known))
