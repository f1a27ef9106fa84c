"""The commands that teach: how a model works, one inference at a time.

As in `cli`, everything heavy is imported inside the commands.
"""

from __future__ import annotations

import click

from minimodels.sim.commands.printing import printed


@click.command()
@click.argument("name")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a number of the architecture.")
@click.option("--device", default="a100-80gb", show_default=True, metavar="NAME", help="The GPU that is simulated.")
@click.option("--attention", metavar="BACKEND", default="sdpa", show_default=True, help="As in `profile`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tour(name: str, overrides: tuple[str, ...], device: str, attention: str, as_json: bool) -> None:
    """One inference of NAME, stage by stage: shapes, costs, and where each number of its config ends up."""
    from minimodels import loader
    from minimodels.options import HERE, check

    if device in ("auto", *HERE):
        raise ValueError(f"--device {device}: a tour is simulated; name a GPU of `minibench devices`")
    config = loader.load(name, overrides)
    options = {"device": device, "attention": attention, "dtype": None}
    check(**options)
    from minimodels.run import make_run
    from minimodels.sim import tour as tours
    from minimodels.sim import tour_table
    from minimodels.sim.progress import bar

    with bar(config.title) as progress:
        found = tours.tour(config, make_run(**options), progress)
    printed(tour_table.as_json(found) if as_json else tour_table.report(found))


COMMANDS = (tour,)
