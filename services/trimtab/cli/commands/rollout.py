"""`trimtab rollout`: what is live and why, and what an operator decides about it."""

import pathlib
import sys
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


@app.command("show")
def show_release(
    release: Annotated[
        str,
        typer.Argument(metavar="RELEASE", help="A release's id, or the beginning of one; default: the newest."),
    ] = "",
    report: Annotated[
        pathlib.Path | None,
        typer.Option("--report", help="SVG file for the confidence sequence over time.", dir_okay=False),
    ] = None,
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """One release whole: history, votes in both arms, verdict, guardrails. Needs no running platform."""
    from trimtab.cli.operators import showing

    showing.show_release(state, release, report, json)


@app.command("audit")
def audit(
    release: Annotated[
        str,
        typer.Argument(metavar="RELEASE", help="A release's id, or the beginning of one; default: all with evidence."),
    ] = "",
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Compute verdicts from the log again, and compare every figure with its record.

    Exit code 0 when all are equal, to the last bit. Needs no running platform.
    """
    from trimtab.cli.operators import auditing

    sys.exit(auditing.audit(state, release, json))


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


@app.command("simulate")
def simulate(
    *,
    sessions: Annotated[float, typer.Option("--sessions", min=0.001, help="Sessions a day.")] = 1000.0,
    approval: Annotated[
        float, typer.Option("--approval", min=0, max=1, help="Share of votes that are up today.")
    ] = 0.6,
    difference: Annotated[
        float,
        typer.Option("--difference", min=0, max=1, help="Of approval, that you want to see: 0.05 is five points."),
    ] = 0.05,
    response: Annotated[
        float, typer.Option("--response", min=0, max=1, help="Share of occasions on which a satisfied user votes.")
    ] = 0.3,
    unsatisfied: Annotated[
        float | None,
        typer.Option("--unsatisfied", min=0, max=1, help="The same of an unsatisfied user; default: equal."),
    ] = None,
    votes: Annotated[int, typer.Option("--votes", min=1, help="Occasions to vote in a session.")] = 1,
    likeness: Annotated[
        float, typer.Option("--likeness", min=0, max=1, help="Correlation of a session's votes (intra-class), 0 to 1.")
    ] = 0.3,
    delay: Annotated[float, typer.Option("--delay", min=0, help="Hours after which a vote comes at the latest.")] = 0.0,
    swing: Annotated[
        float,
        typer.Option("--swing", min=0, max=1, help="How far traffic goes above and below its mean in a day, 0 to 1."),
    ] = 0.0,
    drift: Annotated[float, typer.Option("--drift", help="What a day adds to the approval of both policies.")] = 0.0,
    spite: Annotated[
        float, typer.Option("--spite", min=0, max=1, help="Share of sessions that vote everything down.")
    ] = 0.0,
    aimed: Annotated[
        float,
        typer.Option("--aimed", min=0, max=1, help="Share of sessions that vote the candidate up and the other down."),
    ] = 0.0,
    aimed_raters: Annotated[
        int, typer.Option("--aimed-raters", min=0, help="People behind those; 0: everyone is somebody else.")
    ] = 0,
    days: Annotated[float, typer.Option("--days", min=0.1, max=3650, help="After which to stop.")] = 30.0,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Releases of each candidate.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of chance; the same seed gives the same table.")] = 0,
    state: options.State = options.STATE,
    line: options.Line = "",
    json: options.Json = False,
) -> None:
    """How long a verdict takes at your traffic, and how often it is wrong.

    Plays releases with simulated users: a candidate that is worse by
    --difference, one that is the same, one that is better. The rule is that of
    the line in the state folder's lines.toml, or the defaults.

    trimtab rollout simulate --sessions 5000 --response 0.05 --difference 0.03
    """
    from trimtab.cli.operators import planning
    from trimtab.rollout import simulation

    users = simulation.Users(
        sessions_per_day=sessions,
        daily_swing=swing,
        approval=approval,
        difference=difference,
        drift=drift,
        occasions=votes,
        likeness=likeness,
        response=response,
        response_unsatisfied=response if unsatisfied is None else unsatisfied,
        delay_h=(0.0, delay),
        spite=spite,
        aimed=aimed,
        aimed_raters=aimed_raters,
    )
    plan = planning.Plan(users, planning.config_of(state, line), days, runs, seed)
    planning.simulate(plan, json)
