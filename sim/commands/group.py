"""What all commands do alike: what is wrong becomes one message and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, on the disk, for the user or in the file


class WrongInput(click.ClickException):
    """What the user gave cannot be done; the message says what can."""

    exit_code = 2


class Commands(click.Group):
    """Turns what the library says is wrong, and output for which there is no room, into one message and exit code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # of files we say so ourselves: this is the output
            if error.errno not in FULL:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail again at exit
            click.echo(f"Error: cannot write the output: {error.strerror}", err=True)
            sys.exit(2)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            raise WrongInput(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Interrupted: nothing was written.", err=True)
            ctx.exit(130)
