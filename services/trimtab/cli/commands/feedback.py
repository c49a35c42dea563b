"""`trimtab feedback`: what people think of answers, in and traced."""

import pathlib
from typing import Annotated

import typer

from trimtab.cli.commands import options, send

app = typer.Typer(no_args_is_help=True, help="Bring feedback in; ask what became of it.")
app.add_typer(send.app, name="send")


@app.command("import")
def feedback_import(
    file: Annotated[pathlib.Path, typer.Argument(help="The file; .gz is read as it is.", exists=True, dir_okay=False)],
    format_: Annotated[str, typer.Option("--format", help="hh-rlhf: JSON lines of {chosen, rejected} dialogues.")],
    state: options.State = options.STATE,
    line: options.Line = "",
    json: options.Json = False,
) -> None:
    """Replay human preferences through the feedback service and train a reward model on them.

    Prints the reward model's held-out accuracy and NLL beside a bag-of-words line on the same split. Importing the
    same file again counts nothing twice.
    """
    from trimtab.cli.feedback import importing

    options.run(importing.import_file(state, line, file, format_, json))


@app.command("trace")
def feedback_trace(
    identity: Annotated[str, typer.Argument(metavar="ID", help="A completion, feedback or example id.")],
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Show the chain an id belongs to: completion, feedback, example, data set, run, model, release."""
    from trimtab.cli.models import inspecting

    options.run(inspecting.trace(state, identity, json))
