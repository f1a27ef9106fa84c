"""How a command shows what it found."""

from __future__ import annotations

import json
from typing import Any

import click
from click.core import ParameterSource


def printed(what: Any) -> None:
    """Print a record as JSON, anything else as the terminal shows it."""
    if isinstance(what, dict | list):
        click.echo(json.dumps(what, indent=2))
        return
    from minimodels.sim import tables

    tables.console().print(what)


def show_alone() -> None:
    """Refuse whatever is given beside --show, which shows all that results/ holds and runs nothing.

    Raises:
        ValueError: something is; the message names it.
    """
    context = click.get_current_context()
    told = [one for one in context.command.params if _told(context, one) and "--show" not in one.opts]
    if told:
        names = ", ".join(max(one.opts, key=len) if "-" in one.opts[0] else one.human_readable_name for one in told)
        raise ValueError(f"--show takes nothing else, not {names}: it shows all that the JSON in results/ says")


def _told(context: click.Context, one: click.Parameter) -> bool:
    return one.name is not None and context.get_parameter_source(one.name) is ParameterSource.COMMANDLINE
