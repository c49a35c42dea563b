"""`trimtab rollout status`, `trimtab rollout history` and `trimtab audit`: releases and who did what."""

import asyncio
import contextlib
import datetime
import pathlib
from collections.abc import Sequence

from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.cli.models import inspecting
from trimtab.core import control, errors, ledger, releases

_MODEL_ID = 64
_ASK_EVERY_S = 0.5
# Acts that change no state: history has them in no transition.
_NO_MOVE = frozenset({"release.pause", "release.resume", "quarantine.release"})


async def status(state: pathlib.Path, line: str, as_json: bool) -> None:
    """One line a release, newest last, and who gets the traffic of each policy line."""
    listed = await _listed(state, line)
    screen = show.Screen(as_json)
    if as_json:
        screen.json([inspecting.plain(release) for release in listed])
        return
    screen.table(
        ("release", "line", "candidate", "state", "because"),
        [
            (
                release.id,
                release.context.line,
                release.candidate_id[: show.SHORT],
                release.state.value.replace("_", " ") + (", paused" if release.paused else ""),
                because(release),
            )
            for release in listed
        ],
    )
    for release in listed:
        if release.evidence and release.evidence.uncounted and release.state not in releases.FINAL_STATES:
            screen.say(f"release {show.literal(release.id)}: {release.evidence.uncounted}")
    for head in heads(listed).values():
        for target in head.arms:
            if target.weight > 0:
                share = f"policy {target.policy_id[: show.SHORT]} takes {target.weight:.0%} of new sessions"
                screen.say(f"live on line {show.literal(head.context.line)}: {share}")
    if not listed:
        screen.say("No policy has been adopted yet: `trimtab rollout adopt MODEL --reason WHY`.")


def because(release: releases.Release) -> str:
    """Why it is in its state, and what keeps it there."""
    reason = release.history[-1].reason if release.history else ""
    return f"{reason} Waits: {release.waits_for}" if release.waits_for else reason


def heads(listed: Sequence[releases.Release]) -> dict[str, releases.Release]:
    """The newest record of each line: it routes."""
    newest: dict[str, releases.Release] = {}
    for release in sorted(listed, key=lambda one: one.revision):
        newest[release.context.line] = release
    return newest


async def watch(state: pathlib.Path, line: str, as_json: bool) -> None:
    """Tells the newest release of each line and then every change, until Ctrl-C. A controller that restarts is met
    again."""
    screen = show.Screen(as_json)
    told: dict[str, str] = {}
    async with platform.doors(platform.Layout(state), line) as doors:
        while True:
            with contextlib.suppress(errors.ServiceUnavailable, errors.DeadlineExceeded):
                async for release in doors.rollout.watch_releases(
                    control.ListReleasesRequest(doors.facts.tenant, line)
                ):
                    _tell(screen, release, told, as_json)
            await asyncio.sleep(_ASK_EVERY_S)


def _tell(screen: show.Screen, release: releases.Release, told: dict[str, str], as_json: bool) -> None:
    paused = ", paused" if release.paused else ""
    words = f"{release.candidate_id[: show.SHORT]} {platform.describe_release(release)}{paused}"
    if told.get(release.id) == words:
        return
    told[release.id] = words
    if as_json:
        screen.json(inspecting.plain(release))
    else:
        now = show.moment(datetime.datetime.now(datetime.UTC))
        screen.say(show.literal(f"{now}  {release.context.line}  {words}"))


async def history(state: pathlib.Path, line: str, beginning: str, as_json: bool) -> None:
    """A table a release: every state and every act with its time, who, and why."""
    listed = [release for release in await _listed(state, line) if release.id.startswith(beginning)]
    if beginning and not listed:
        raise errors.NotFound("release", beginning)
    screen = show.Screen(as_json)
    if as_json:
        screen.json([inspecting.plain(release) for release in listed])
        return
    for number, release in enumerate(listed):
        if number:
            screen.say("")
        against = f" against {release.stable_id[: show.SHORT]}" if release.stable_id else ", the line's first"
        verdict = f", verdict: {_verdict(release)}" if release.evidence else ""
        screen.say(
            show.literal(
                f"release {release.id} on line {release.context.line}: "
                f"policy {release.candidate_id[: show.SHORT]}{against}{verdict}"
            )
        )
        screen.table(("when (UTC)", "what", "who", "why"), events(release))


def _verdict(release: releases.Release) -> str:
    return release.evidence.verdict.value.replace("_", " ") if release.evidence else ""


def events(release: releases.Release) -> list[tuple[str, str, str, str]]:
    """Its states, and the acts that are no change of state, by time."""
    moves = [(move.at, move.to_state.value.replace("_", " "), move.actor, move.reason) for move in release.history]
    acts = [(act.at, act.act, act.actor, act.reason) for act in release.acts if act.act in _NO_MOVE]
    ordered = sorted([*moves, *acts], key=lambda event: event[0])
    return [(show.moment(at), what, who, why) for at, what, who, why in ordered]


async def audited(state: pathlib.Path, line: str, limit: int, as_json: bool) -> None:
    """The audit trail, newest last: the newest `limit`."""
    async with platform.doors(platform.Layout(state), line) as doors:
        request = ledger.ListAuditRequest(doors.facts.tenant, line, limit)
        found = tuple(reversed((await doors.ledger.list_audit(request)).records))
    screen = show.Screen(as_json)
    if as_json:
        screen.json([inspecting.plain(record) for record in found])
        return
    if not found:
        screen.say("Nobody has done anything yet.")
        return
    screen.table(
        ("when (UTC)", "who", "what", "to", "line", "why"),
        [
            (
                show.moment(record.at),
                record.actor,
                record.act,
                # a model's id is long; the others are read whole
                record.target[: show.SHORT] if len(record.target) == _MODEL_ID else record.target,
                record.context.line,
                record.reason,
            )
            for record in found
        ],
    )


async def _listed(state: pathlib.Path, line: str) -> list[releases.Release]:
    """Oldest first."""
    async with platform.doors(platform.Layout(state), line) as doors:
        request = control.ListReleasesRequest(doors.facts.tenant, line)
        return list(reversed(await doors.rollout.list_releases(request, timeout_s=10)))
