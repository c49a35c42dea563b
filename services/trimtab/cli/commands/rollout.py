"""`trimtab rollout`: what is live and why, and what an operator decides about it."""

from typing import Annotated

import typer

from trimtab.cli.commands import options

app = typer.Typer(no_args_is_help=True, help="What is live, and why.")


@app.command("status")
def status(
    state: options.State = options.STATE,
    line: options.EveryLine = "",
    watch: Annotated[bool, typer.Option("--watch", help="Go on telling every change until Ctrl-C.")] = False,
    json: options.Json = False,
) -> None:
    """Every release, newest last, and what is live now."""
    from trimtab.cli.operators import releasing

    options.run(releasing.watch(state, line, json) if watch else releasing.status(state, line, json))


@app.command("history")
def history(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE", help="A release's id, or the beginning of one; default: all.")
    ] = "",
    state: options.State = options.STATE,
    line: options.EveryLine = "",
    json: options.Json = False,
) -> None:
    """Every state of every release with its time, who or what moved it and why, and the verdict. Oldest first."""
    from trimtab.cli.operators import releasing

    options.run(releasing.history(state, line, release, json))


@app.command("start")
def start(
    model: options.Policy,
    state: options.State = options.STATE,
    line: options.Line = "",
    force: Annotated[
        str, typer.Option("--force", help="Release it although its gates refused it, for this reason.")
    ] = "",
) -> None:
    """Release a policy behind a canary."""
    from trimtab.cli.operators import acts

    options.run(acts.start(state, line, model, force))


@app.command("adopt")
def adopt(
    model: options.Policy,
    reason: options.Reason,
    state: options.State = options.STATE,
    line: options.Line = "",
) -> None:
    """Make a policy the line's stable policy and its anchor, on an operator's word."""
    from trimtab.cli.operators import acts

    options.run(acts.adopt(state, line, model, reason))


def _verb(name: str, summary: str) -> None:
    def command(reason: options.Reason, state: options.State = options.STATE, line: options.Line = "") -> None:
        from trimtab.cli.operators import acts

        options.run(acts.act(state, line, name, reason))

    command.__doc__ = summary
    app.command(name)(command)


_verb("promote", "Promote the candidate without waiting for evidence.")
_verb("pause", "Hold the release in progress where it is.")
_verb("resume", "Go on with a paused release.")
_verb("abort", "Withdraw the candidate; says nothing about it.")
_verb("undo", "Go back to the policy before the last promotion.")
