"""The commands about the study: its tables and figures again, and what goes beyond them.

As in `cli`, everything heavy is imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path

import click

from minimodels.sim.commands.printing import printed


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--device",
    default="a100-80gb",
    show_default=True,
    metavar="cuda|NAME",
    help="A GPU's name: simulated; cuda: measured here.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="paper",
    show_default=True,
    help="Where pictures, tables and scoreboard.csv go; made if it is not there.",
)
@click.option("--force", is_flag=True, help="Run what is finished there again.")
@click.option("--json", "as_json", is_flag=True, help="Print the scoreboard as JSON.")
def paper(targets: tuple[str, ...], device: str, folder: Path, force: bool, as_json: bool) -> None:
    """The study's tables and figures TARGET (table2, fig7, ...; default: all) again, beside what it published."""
    from minimodels.sim import bench_report
    from minimodels.sim import device as devices
    from minimodels.sim.paper import listing
    from minimodels.sim.paper import targets as study_targets
    from minimodels.sim.paper.study import of_device
    from minimodels.sim.progress import bar

    study_targets.chosen(targets)
    if device != "cuda":
        devices.load(device)
    elif not bench_report.has_gpu():
        raise ValueError("torch finds no CUDA device here; --device NAME simulates a GPU")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make {folder}: {error.strerror}") from None
    with bar("The study") as progress:
        rows = study_targets.run(targets, of_device(device, progress), folder, force)
    printed(rows if as_json else listing.report(rows, folder))


COMMANDS = (paper,)
