"""The commands about the study: its tables and figures again, and what goes beyond them.

As in `cli`, everything heavy is imported inside the commands.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from minimodels.sim.commands.options import GPU, LENGTHS, OVERRIDES, model_options, simulation_options
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
@click.option("--frames", type=int, help="Not the study's: frames of every video that can have so many.")
@click.option("--image-size", type=int, help="Not the study's: image side in pixels, of all that can have it. With "
              "either, fig7, fig8 and fig12 are made into a folder of their own, without a scoreboard.")  # fmt: skip
@click.option("--force", is_flag=True, help="Run what is finished there again.")
@click.option("--json", "as_json", is_flag=True, help="Print the scoreboard as JSON; with other lengths, what changed.")
def paper(targets: tuple[str, ...], device: str, folder: Path, force: bool, as_json: bool, **lengths: Any) -> None:
    """The study's tables and figures TARGET (table2, fig7, ...; default: all) again, beside what it published."""
    from minimodels.sim import bench_report
    from minimodels.sim import device as devices
    from minimodels.sim.paper import listing, report
    from minimodels.sim.paper import targets as study_targets
    from minimodels.sim.paper.study import of_device, settings
    from minimodels.sim.progress import bar

    lengths = {name: value for name, value in lengths.items() if value is not None}
    study_targets.chosen(targets, lengths)
    changed = settings(lengths)
    if device != "cuda":
        devices.load(device)
    elif not bench_report.has_gpu():
        raise ValueError("torch finds no CUDA device here; --device NAME simulates a GPU")
    folder = study_targets.folder_of(folder, lengths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make {folder}: {error.strerror}") from None
    try:
        with bar("The study") as progress:
            study = of_device(device, progress, lengths)
            rows = study_targets.run(targets, study, folder, force)
            report.write(study, rows, folder)
    except KeyboardInterrupt:
        click.echo(f"Interrupted: what is finished is kept in {folder}; the same command goes on from there.", err=True)
        raise click.exceptions.Exit(130) from None
    if lengths:
        printed([asdict(one) for one in changed] if as_json else listing.changes(changed, folder))
    else:
        printed(rows if as_json else listing.report(rows, folder))


@click.command()
@model_options
@click.option("--requests", type=click.IntRange(2, 16), default=2, show_default=True, help="Requests in flight.")
@GPU
@simulation_options
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw the bandwidth: FILE.png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pods(
    name: str, overrides: tuple[str, ...], requests: int, device: str, picture: Path | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """What it gains to stagger the steps of several requests of NAME on one GPU (simulated)."""
    from minimodels import loader
    from minimodels.options import HERE, check
    from minimodels.sim import device as devices
    from minimodels.sim import figures, files

    if picture:
        files.check_writable(picture)
        figures.check_extension(picture)
    if device in HERE:
        raise ValueError(f"--device {device}: pods simulates; name a GPU of `minibench devices`")
    devices.load(device)
    config = loader.load(name, overrides, {key: options.pop(key) for key in LENGTHS})
    check(device=device, **options)  # before torch is imported
    from minimodels.run import make_run
    from minimodels.sim import pods as staggered
    from minimodels.sim import pods_plot, pods_table
    from minimodels.sim.progress import bar
    from minimodels.sim.simulate import simulate

    runs = [make_run(device=device, **options | {"batch": times * options["batch"]}) for times in (1, requests)]
    with bar(config.title) as progress:
        one, together = (simulate(config, run, progress) for run in runs)
        found = staggered.compare(one, together, requests, progress)
    if picture:
        figures.save(pods_plot.bandwidth(found), picture)
    printed(pods_table.as_json(found) if as_json else pods_table.report(found))


@click.command()
@click.argument("name", required=False)
@OVERRIDES
@click.option("--attention", metavar="BACKEND", default="baseline", show_default=True,
              help="As in `profile`; baseline: written out.")  # fmt: skip
@click.option(
    "--scope", metavar="LABEL", help="Count what runs inside it alone: attention.temporal, stage.decoder, ..."
)
@click.option("--import", "file", type=click.Path(path_type=Path), metavar="FILE.csv", help="Show what was counted.")
@click.option("--run", "run_here", is_flag=True, help="What the command runs: an inference on the GPU here, in ranges.")
@click.option("--json", "as_json", is_flag=True, help="Print what was counted as JSON.")
def counters(
    name: str | None, overrides: tuple[str, ...], attention: str, scope: str | None, file: Path | None, run_here: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Hardware counters of one inference of NAME: the command of Nsight Compute, or with --import what it counted."""
    if (name is None) == (file is None):
        raise ValueError("counters takes either NAME, to print the command, or --import FILE.csv, to show its result")
    if file is not None:
        from minimodels.sim import counters_csv
        from minimodels.sim.files import read

        kernels = list(counters_csv.read(read(file).decode("utf-8", "replace"), str(file)))
        listed = counters_csv.sums(kernels)
        return printed(counters_csv.as_json(listed) if as_json else counters_csv.report(listed, str(file)))
    assert name is not None
    from minimodels import loader

    config = loader.load(name, overrides)
    from minimodels.sim import counters as counted

    if run_here:
        return counted.perform(config, attention)
    click.echo(counted.command(config, name, overrides, attention, scope))


COMMANDS = (paper, pods, counters)
