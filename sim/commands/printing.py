"""How a command shows what it found."""

from __future__ import annotations

import json
from typing import Any

import click


def printed(what: Any) -> None:
    """Print a record as JSON, anything else as the terminal shows it."""
    if isinstance(what, dict | list):
        click.echo(json.dumps(what, indent=2))
        return
    from minimodels.sim import tables

    tables.console().print(what)
