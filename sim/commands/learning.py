"""The commands that train: what an architecture learns.

As in `cli`, everything heavy is imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path

import click

from minimodels.sim.commands.printing import printed, show_alone


@click.command()
@click.argument("family", required=False)
@click.option(
    "--seed", type=click.IntRange(0, 1_000_000), default=0, show_default=True, help="Of data, weights, noise."
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where checkpoint, samples and result.json go; a run that is killed goes on there.  "
    "[default: demos/FAMILY-SEED]",
)
@click.option("--quick", is_flag=True, help="A quarter of the steps.")
@click.option("--show", "only_show", is_flag=True, help="Show what results/ holds; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def demo(family: str | None, seed: int, folder: Path | None, quick: bool, only_show: bool, as_json: bool) -> None:
    """Train FAMILY from scratch on drawn shapes, in minutes on a CPU, and see what its samples show.

    FAMILY: pixel-diffusion, latent-diffusion, autoregressive, parallel-decoding or video.
    """
    from minimodels.demos.families import Demo
    from minimodels.sim import demo as demos
    from minimodels.sim.progress import bar

    if only_show:
        show_alone()
        return printed(demos.shown())
    if family is None:
        raise ValueError(f"which family? allowed: {', '.join(demos.FAMILIES)}")
    made = Demo(family, seed, demos.QUICK if quick else 1.0)
    folder = folder or Path("demos") / f"{family}-{seed}{'-quick' * quick}"
    with bar(made.config.title) as progress:
        record = demos.run(made, folder, progress)
    if as_json:
        return printed(record)
    printed(demos.report([record]))
    click.echo(f"\nSamples and result are in {folder}.")


COMMANDS = (demo,)
