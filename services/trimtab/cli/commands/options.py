"""What commands share: options that mean the same everywhere, and how asynchronous work is run."""

import asyncio
import pathlib
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from trimtab.cli.commands import completing

_Result = TypeVar("_Result")
STATE = completing.STATE
State = Annotated[pathlib.Path, typer.Option("--state", help="Folder that holds everything the platform keeps.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Log = Annotated[
    str,
    typer.Option(
        "--log", help="Event log, e.g. kafka://host:9092,host:9092/prefix-of-topics; default: the state folder's."
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit record.")]
Line = Annotated[str, typer.Option("--line", help="The policy line; by default the one `trimtab up` was given.")]
EveryLine = Annotated[str, typer.Option("--line", help="One policy line; by default all of them.")]
Model = Annotated[
    str,
    typer.Argument(help="The id of a model or data set, or the beginning of one.", autocompletion=completing.models),
]
Policy = Annotated[
    str, typer.Argument(help="The policy's id, or the beginning of one.", autocompletion=completing.policies)
]
Run = Annotated[str, typer.Argument(help="The run's id, or the beginning of it.", autocompletion=completing.runs)]


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """What a command's work returns at its end; Ctrl-C cancels it."""
    return asyncio.run(work)
