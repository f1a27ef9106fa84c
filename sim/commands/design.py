"""The commands that change an architecture and show what that does.

As in `cli`, everything heavy is imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path

import click

from minimodels.sim.commands.printing import printed


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def compare(files: tuple[Path, ...]) -> None:
    """Profiles FILES (from `profile --out`) side by side."""
    from minimodels.sim import tables
    from minimodels.sim.profile import Profile

    if len(files) < 2:
        raise ValueError("compare needs at least two profiles; write one with `minibench profile NAME --out A.json`")
    printed(tables.compare([Profile.load(path) for path in files]))


COMMANDS = (compare,)
