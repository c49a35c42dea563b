"""What operators of a platform type: status, logs, down, audit, quarantine. Registered by `cli.commands.root`."""

import pathlib
from typing import Annotated

import typer

from trimtab.cli.commands import options

quarantine_app = typer.Typer(no_args_is_help=True, help="What led to policies that users found worse.")


def register(app: typer.Typer) -> None:
    """Adds these commands."""
    app.add_typer(quarantine_app, name="quarantine")
    for command in (status, logs, down, audit, backup, restore):
        app.command()(command)


def status(state: options.State = options.STATE, json: options.Json = False) -> None:
    """Everything on one screen: processes, lines with their policies and releases, feedback, the last runs."""
    from trimtab.cli.operators import overview

    options.run(overview.status(state, json))


def logs(
    process: Annotated[
        str, typer.Argument(metavar="PROCESS", help="A process of `trimtab status`; default: all of them.")
    ] = "",
    state: options.State = options.STATE,
    run: Annotated[str, typer.Option("--run", help="The log of a training run, by the beginning of its id.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """What the processes said, also of a platform that does not run any more."""
    from trimtab.cli.operators import logfiles

    logfiles.show_logs(state, process, run, lines, follow)


def down(state: options.State = options.STATE) -> None:
    """Stop the platform of a state folder, from another terminal; waits until it has ended. Nothing is lost."""
    from trimtab.cli.operators import stopping

    stopping.down(state)


def audit(
    state: options.State = options.STATE,
    line: options.EveryLine = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="The newest so many; 0 means all.")] = 50,
    json: options.Json = False,
) -> None:
    """What operators did: who, what, to what, why and when. Newest last."""
    from trimtab.cli.operators import releasing

    options.run(releasing.audited(state, line, limit, json))


def backup(
    to: Annotated[pathlib.Path, typer.Argument(metavar="FOLDER", help="A new folder for the copy.")],
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Copy what a platform keeps, while it runs: log, models, finished runs, settings and secrets.

    The copy holds every record that was acknowledged before it began. The ledger is not in it: it is made again from
    the log. Keep it as you keep the secrets that are in it.
    """
    from trimtab.cli.operators import backups

    backups.back_up(state, to, json)


def restore(
    backup: Annotated[pathlib.Path, typer.Argument(metavar="FOLDER", help="What `trimtab backup` made.")],
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Make a new state folder of a backup, checked byte by byte; `trimtab up` then goes on from there.

    What came after the backup is gone. Training runs that were under way begin anew, and come to the same weights.
    """
    from trimtab.cli.operators import backups

    backups.restore(backup, state, json)


@quarantine_app.command("list")
def quarantine_list(
    state: options.State = options.STATE, line: options.EveryLine = "", json: options.Json = False
) -> None:
    """What ended worse, newest first. Their data window and reward model train nothing until released."""
    from trimtab.cli.operators import quarantining

    options.run(quarantining.show_list(state, line, json))


@quarantine_app.command("release")
def quarantine_release(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE", help="The release's id in `quarantine list`, or the beginning of one.")
    ],
    reason: options.Reason,
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Let training use a release's data window and reward model again; the reason goes on the audit trail."""
    from trimtab.cli.operators import quarantining

    options.run(quarantining.release(state, release, reason, json))
