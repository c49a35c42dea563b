"""`trimtab train`: training runs."""

import sys
from typing import Annotated

import typer

from trimtab.cli import options

app = typer.Typer(no_args_is_help=True, help="Training runs.")


@app.command("runs")
def train_runs(state: options.State = options.STATE, json: options.Json = False) -> None:
    """Every training run, oldest first."""
    from trimtab.cli import inspecting

    options.run(inspecting.runs(state, json))


@app.command("reproduce")
def train_reproduce(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")],
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Run a published run again, from the registry alone, and compare every file it makes.

    Exit code 0 when all are equal, byte by byte. Needs no running platform.
    """
    from trimtab.cli import reproducing

    sys.exit(reproducing.reproduce(state, run, json))
