"""The commands people type: up, demo, feedback, models, rollout, train. Processes are started by `cli.app`."""

import asyncio
import contextlib
import pathlib
import signal
import sys
from collections.abc import Coroutine, Iterator
from typing import Annotated, Any

import typer

from trimtab.core import errors

_STATE = pathlib.Path(".trimtab")
State = Annotated[pathlib.Path, typer.Option("--state", help="Folder that holds everything the platform keeps.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit record.")]

_EPILOG = (
    "Processes, each with its own --help: trimtab gateway, policy, reward, feedback, ledger, trainer, rollout. "
    "They are started by `trimtab up`, or one by one with flags or TRIMTAB_* variables."
)
app = typer.Typer(
    name="trimtab",
    no_args_is_help=True,
    add_completion=False,
    epilog=_EPILOG,
    help="Serve a language model, train it on what its users think of it, release what they prove better.",
    pretty_exceptions_enable=False,
)
feedback_app = typer.Typer(no_args_is_help=True, help="Bring feedback in; ask what became of it.")
models_app = typer.Typer(no_args_is_help=True, help="What the registry holds.")
rollout_app = typer.Typer(no_args_is_help=True, help="What is live, and why.")
train_app = typer.Typer(no_args_is_help=True, help="Training runs.")
for name, group in (
    ("feedback", feedback_app),
    ("models", models_app),
    ("rollout", rollout_app),
    ("train", train_app),
):
    app.add_typer(group, name=name)


def run(arguments: list[str]) -> None:
    """Runs one command. A broken rule is a sentence on standard error and exit code 1, never a traceback."""
    try:
        with _quiet_interrupt():
            app(arguments)
    except errors.TrimtabError as problem:
        typer.echo(f"trimtab: {problem}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def _quiet_interrupt() -> Iterator[None]:
    """SIGTERM ends a command the way Ctrl-C does: everything it started is stopped in order."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _await(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@app.command()
def up(
    policy: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--policy", help="Hugging Face chat model folder (safetensors) to serve as the line's first policy."
        ),
    ] = None,
    line: Annotated[str, typer.Option("--line", help="Name of the policy line: the `model` of requests.")] = "main",
    port: Annotated[int, typer.Option("--port", help="Port of the public HTTP API.")] = 8080,
    state: State = _STATE,
) -> None:
    """Run the whole platform on this machine until Ctrl-C. What it keeps survives in the state folder."""
    from trimtab.cli import serving

    serving.up(state, line, port, policy)


@app.command()
def demo(
    seed: Annotated[int, typer.Option("--seed", help="Picks demonstrations, users and training seeds.")] = 0,
    state: Annotated[
        pathlib.Path | None,
        typer.Option("--state", help="Keep everything in this (new) folder; default: a temporary one."),
    ] = None,
    json: Json = False,
) -> None:
    """The whole loop with simulated users in about five minutes: one promotion, one rollback, a table.

    Exit code 0 only if the promoted policy is significantly better on held-out questions and the planted one was
    refused, forced and rolled back.
    """
    from trimtab.cli.demo import app as demo_app

    sys.exit(demo_app.play(seed, state, json))


@feedback_app.command("import")
def feedback_import(
    file: Annotated[pathlib.Path, typer.Argument(help="The file; .gz is read as it is.", exists=True, dir_okay=False)],
    format_: Annotated[str, typer.Option("--format", help="hh-rlhf: JSON lines of {chosen, rejected} dialogues.")],
    state: State = _STATE,
    json: Json = False,
) -> None:
    """Replay human preferences through the feedback service and train a reward model on them.

    Prints the reward model's held-out accuracy and NLL beside a bag-of-words line on the same split. Importing the
    same file again counts nothing twice.
    """
    from trimtab.cli import importing

    _await(importing.import_file(state, file, format_, json))


@feedback_app.command("trace")
def feedback_trace(
    identity: Annotated[str, typer.Argument(metavar="ID", help="A completion, feedback or example id.")],
    state: State = _STATE,
    json: Json = False,
) -> None:
    """Show the chain an id belongs to: completion, feedback, example, data set, run, model, release."""
    from trimtab.cli import inspecting

    _await(inspecting.trace(state, identity, json))


@models_app.command("list")
def models_list(state: State = _STATE, json: Json = False) -> None:
    """Every published model and data set, oldest first."""
    from trimtab.cli import inspecting

    _await(inspecting.models(state, json))


@models_app.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="A model id, or the beginning of one.")],
    state: State = _STATE,
    json: Json = False,
) -> None:
    """A model's card: what it was made from and the figures it was judged by."""
    from trimtab.cli import inspecting

    _await(inspecting.model(state, model, json))


@train_app.command("runs")
def train_runs(state: State = _STATE, json: Json = False) -> None:
    """Every training run, oldest first."""
    from trimtab.cli import inspecting

    _await(inspecting.runs(state, json))


@train_app.command("reproduce")
def train_reproduce(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")],
    state: State = _STATE,
    json: Json = False,
) -> None:
    """Run a published run again, from the registry alone, and compare every file it makes.

    Exit code 0 when all are equal, byte by byte. Needs no running platform.
    """
    from trimtab.cli import reproducing

    sys.exit(reproducing.reproduce(state, run, json))


@rollout_app.command("status")
def rollout_status(state: State = _STATE, json: Json = False) -> None:
    """Every release, newest last, and what is live now."""
    from trimtab.cli import inspecting

    _await(inspecting.releases(state, json))


@rollout_app.command("start")
def rollout_start(
    model: Annotated[str, typer.Argument(help="The policy's id, or the beginning of one.")],
    state: State = _STATE,
    force: Annotated[
        str, typer.Option("--force", help="Release it although its gates refused it, for this reason.")
    ] = "",
) -> None:
    """Release a policy behind a canary."""
    from trimtab.cli import operating

    _await(operating.start(state, model, force))


def _verb(name: str, summary: str) -> None:
    def command(reason: Reason, state: State = _STATE) -> None:
        from trimtab.cli import operating

        _await(operating.act(state, name, reason))

    command.__doc__ = summary
    rollout_app.command(name)(command)


_verb("promote", "Promote the candidate without waiting for evidence.")
_verb("pause", "Hold the release in progress where it is.")
_verb("resume", "Go on with a paused release.")
_verb("abort", "Withdraw the candidate; says nothing about it.")
_verb("undo", "Go back to the policy before the last promotion.")


@rollout_app.command("adopt")
def rollout_adopt(
    model: Annotated[str, typer.Argument(help="The policy's id, or the beginning of one.")],
    reason: Reason,
    state: State = _STATE,
) -> None:
    """Make a policy the line's stable policy and its anchor, on an operator's word."""
    from trimtab.cli import operating

    _await(operating.adopt(state, model, reason))
