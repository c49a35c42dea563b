"""`trimtab models`: what the registry holds."""

from typing import Annotated

import typer

from trimtab.cli import options

app = typer.Typer(no_args_is_help=True, help="What the registry holds.")


@app.command("list")
def models_list(state: options.State = options.STATE, json: options.Json = False) -> None:
    """Every published model and data set, oldest first."""
    from trimtab.cli import inspecting

    options.run(inspecting.models(state, json))


@app.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="A model id, or the beginning of one.")],
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """A model's card: what it was made from and the figures it was judged by."""
    from trimtab.cli import inspecting

    options.run(inspecting.model(state, model, json))
