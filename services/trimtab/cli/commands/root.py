"""The commands people type: `trimtab up` and `demo`; the others are in modules of their group.

Processes are started by `cli.app`.
"""

import contextlib
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from trimtab.cli.commands import deadletter, evaluate, feedback, models, operate, options, rollout, topics, train
from trimtab.core import errors

_EPILOG = (
    "Processes, each with its own --help: trimtab gateway, policy, reward, feedback, ledger, trainer, rollout. "
    "They are started by `trimtab up`, or one by one with flags or TRIMTAB_* variables."
)
app = typer.Typer(
    name="trimtab",
    no_args_is_help=True,
    epilog=_EPILOG,
    help="Serve a language model, train it on what its users think of it, release what they prove better.",
    pretty_exceptions_enable=False,
)
for name, group in (
    ("deadletter", deadletter.app),
    ("feedback", feedback.app),
    ("models", models.app),
    ("rollout", rollout.app),
    ("topics", topics.app),
    ("train", train.app),
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


@app.command()
def up(
    *,
    policy: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--policy", help="Hugging Face chat model folder (safetensors) to serve as the line's first policy."
        ),
    ] = None,
    line: Annotated[str, typer.Option("--line", help="Name of the policy line: the `model` of requests.")] = "main",
    port: Annotated[int, typer.Option("--port", help="Port of the public HTTP API; 0 takes a free one.")] = 8080,
    grpc_port: Annotated[
        int,
        typer.Option("--grpc-port", help="Port of the public gRPC API; 0 takes the one it had, at first a free one."),
    ] = 8081,
    log: options.Log = "",
    database: Annotated[
        str,
        typer.Option(
            "--database",
            help="The ledger's database, e.g. postgresql://user@host:5432/ledger, its password in the file that "
            "TRIMTAB_DATABASE_PASSWORD_FILE names; default: a SQLite in the state folder.",
        ),
    ] = "",
    state: options.State = options.STATE,
) -> None:
    """Run the whole platform on this machine until Ctrl-C. What it keeps survives in the state folder."""
    from trimtab.cli.operators import serving

    serving.up(state, line, port, grpc_port, policy, log=log, database=database)


@app.command()
def demo(
    seed: Annotated[int, typer.Option("--seed", help="Picks demonstrations, users and training seeds.")] = 0,
    state: Annotated[
        pathlib.Path | None,
        typer.Option("--state", help="Keep everything in this (new) folder; default: a temporary one."),
    ] = None,
    log: options.Log = "",
    json: options.Json = False,
) -> None:
    """The whole loop with simulated users, six to nine minutes: two promotions, one not proven, one rollback, a table.

    Exit code 0 only if each promoted policy is significantly better on held-out questions than the one before it, what
    changes nothing is not proven, the planted policy is refused, forced and rolled back, and the books balance.
    """
    from trimtab.cli.demo import app as demo_app

    sys.exit(demo_app.play(seed, state, log, json))


app.command("eval")(evaluate.evaluate)
operate.register(app)
