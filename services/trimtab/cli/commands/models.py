"""`trimtab models`: what the registry holds."""

import pathlib
from typing import Annotated

import typer

from trimtab.cli.commands import options

app = typer.Typer(no_args_is_help=True, help="What the registry holds.")


@app.command("list")
def models_list(state: options.State = options.STATE, json: options.Json = False) -> None:
    """Every published model and data set, oldest first."""
    from trimtab.cli.models import inspecting

    options.run(inspecting.models(state, json))


@app.command("show")
def models_show(
    model: options.Model,
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """A model's card: what it was made from and the figures it was judged by."""
    from trimtab.cli.models import inspecting

    options.run(inspecting.model(state, model, json))


@app.command("lineage")
def models_lineage(
    model: options.Model,
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """A tree: what it was made from, back to the base model; what was made from it; where it was released."""
    from trimtab.cli.models import lineage

    options.run(lineage.lineage(state, model, json))


@app.command("import")
def models_import(
    folder: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="FOLDER", help="Hugging Face chat model folder with safetensors.", exists=True, file_okay=False
        ),
    ],
    state: options.State = options.STATE,
    line: options.Line = "",
) -> None:
    """Put a model folder into the registry as a policy of a line and print its id, for `rollout adopt` or `start`."""
    from trimtab.cli.operators import serving

    serving.import_folder(state, line, folder)


@app.command("fetch")
def models_fetch(
    model: Annotated[str, typer.Argument(help="The whole id of a model: nothing is looked up.")],
    registry: Annotated[
        str,
        typer.Option(
            "--registry",
            envvar="TRIMTAB_REGISTRY_URL",
            help="Any fsspec URL, e.g. s3://bucket/models; no platform is asked.",
        ),
    ],
    cache: Annotated[
        pathlib.Path,
        typer.Option("--cache", envvar="TRIMTAB_CACHE", help="Folder for verified copies, shared by processes."),
    ],
) -> None:
    """Copy a model's files into the cache, verify every one's digest, and print their folder.

    For an engine that is started on a folder, before it starts. Twice copies nothing, and verifies again.
    """
    from trimtab.cli.models import fetching

    fetching.fetch(model, registry, cache)
