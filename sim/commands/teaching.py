"""The commands that teach: how a model works, one inference at a time, and a page about it.

As in `cli`, everything heavy is imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minimodels.sim.commands.options import ALL_OVERRIDES, LENGTHS, check_unused, model_options, simulation_options
from minimodels.sim.commands.printing import printed


@click.command()
@model_options
@click.option("--device", default="a100-80gb", show_default=True, metavar="NAME", help="The GPU that is simulated.")
@simulation_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tour(name: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """One inference of NAME, stage by stage: shapes, costs, and where each number of its config ends up."""
    from minimodels import loader
    from minimodels.options import HERE, check

    if options["device"] in ("auto", *HERE):
        raise ValueError(f"--device {options['device']}: a tour is simulated; name a GPU of `minibench devices`")
    lengths = {key: options.pop(key) for key in LENGTHS}
    config = loader.load(name, overrides, lengths)
    check(**options)
    from minimodels.run import make_run
    from minimodels.sim import tour as tours
    from minimodels.sim import tour_table
    from minimodels.sim.progress import bar

    with bar(config.title) as progress:
        found = tours.tour(config, make_run(**options), progress)
    printed(tour_table.as_json(found) if as_json else tour_table.report(found))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME|PROFILE...")
@click.option("--device", default="a100-80gb", show_default=True, metavar="NAME", help="The GPU that names and configs "
              "are simulated on.")  # fmt: skip
@ALL_OVERRIDES
@simulation_options
@click.option("--out", type=click.Path(path_type=Path), default="report.html", show_default=True, help="The page.")
def report(names: tuple[str, ...], overrides: tuple[str, ...], device: str, out: Path, **options: Any) -> None:
    """One page, without network, about architectures (names, .toml files) or profiles (.json, from `profile --out`).

    What it is made of, where its time goes and why, memory, and of architectures what would change it.
    """
    from minimodels import loader
    from minimodels.options import HERE, check
    from minimodels.sim import device as devices
    from minimodels.sim import files
    from minimodels.sim.profile import Profile
    from minimodels.sim.progress import bar

    if device in ("auto", *HERE):
        raise ValueError(f"--device {device}: a report simulates; `profile --out` measures, and its file can be given")
    files.check_distinct([out], [Path(name) for name in names if Path(name).suffix in (".json", ".toml")])
    files.check_writable(out)
    if all(Path(name).suffix == ".json" for name in names):
        check_unused("names", "out")
    devices.load(device)
    lengths = {key: options.pop(key) for key in LENGTHS}
    check(**options)
    given = [
        Profile.load(Path(name)) if Path(name).suffix == ".json" else loader.load(name, overrides, lengths)
        for name in names
    ]
    from minimodels.run import make_run
    from minimodels.sim.report import profile as reports

    run = make_run(**options, device=device)
    with bar("Report") as progress:
        subjects = [
            reports.Subject(one) if isinstance(one, Profile) else reports.subject(one, run, progress) for one in given
        ]
        reports.write(subjects, out)
    click.echo(f"{out} is written: open it in a browser.")


COMMANDS = (tour, report)
