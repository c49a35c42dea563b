"""`trimtab quarantine`: what led to policies that users found worse, and letting training use it again."""

import pathlib
from collections.abc import Sequence

from trimtab.cli import show
from trimtab.cli.machine import operating, platform
from trimtab.cli.models import inspecting
from trimtab.core import control, errors, ledger, releases


async def show_list(state: pathlib.Path, line: str, as_json: bool) -> None:
    async with platform.doors(platform.Layout(state), line) as doors:
        entries = await _entries(doors, line)
    screen = show.Screen(as_json)
    if as_json:
        screen.json([_document(entry) for entry in entries])
        return
    if not entries:
        screen.say("No release has ended worse.")
        return
    screen.table(
        ("release", "line", "policy", "since (UTC)", "examples", "reward model", "now"),
        [_row(entry) for entry in entries],
        numbers=("examples",),
    )
    for entry in entries:
        if entry.release.quarantine is not None:
            screen.say(show.literal(f"{entry.release.id}: {entry.release.history[-1].reason}"))


async def release(state: pathlib.Path, beginning: str, reason: str, as_json: bool) -> None:
    """Lets go of what one release holds; NotFound and WrongState name it."""
    async with platform.doors(platform.Layout(state)) as doors:
        entry = _named(await _entries(doors, ""), beginning)
        request = control.ReleaseQuarantineRequest(
            doors.facts.tenant, entry.release.id, operating.operator(), reason, operating.new_request()
        )
        freed = await platform.patiently(lambda: doors.rollout.release_quarantine(request, timeout_s=30))
    screen = show.Screen(as_json)
    if as_json:
        screen.json(inspecting.plain(freed))
        return
    held = freed.quarantine
    rewards = ", ".join(reward[: show.SHORT] for reward in held.reward_ids) if held else ""
    what = [f"{entry.examples} examples"] if entry.examples else []
    what += [f"reward model {rewards}"] if rewards else []
    screen.say(show.literal(f"released: {' and '.join(what)} of release {freed.id} may train again"))


async def _entries(doors: platform.Doors, line: str) -> tuple[ledger.QuarantineEntry, ...]:
    request = ledger.ListQuarantinesRequest(doors.facts.tenant, line)
    return (await platform.patiently(lambda: doors.ledger.list_quarantines(request))).entries


def _named(entries: Sequence[ledger.QuarantineEntry], beginning: str) -> ledger.QuarantineEntry:
    found = [entry for entry in entries if entry.release.id.startswith(beginning)]
    if not found:
        raise errors.NotFound("release with a quarantine", beginning)
    if len(found) > 1:
        raise errors.InvalidField("RELEASE", f"{beginning!r} begins {len(found)} ids", "give more of it")
    return found[0]


def _row(entry: ledger.QuarantineEntry) -> tuple[str, ...]:
    one = entry.release
    held = one.quarantine or releases.Quarantine(one.created_at)
    return (
        one.id,
        one.context.line,
        one.candidate_id[: show.SHORT],
        show.moment(held.at),
        str(entry.examples) if held.dataset_id else "-",
        ", ".join(reward[: show.SHORT] for reward in held.reward_ids) or "-",
        _now(one, held),
    )


def _now(one: releases.Release, held: releases.Quarantine) -> str:
    if held.in_force:
        return "in quarantine"
    if held.released_at is None:
        return "nothing to quarantine"
    let_go = next((act for act in one.acts if act.act == "quarantine.release"), None)
    return f"released by {let_go.actor}: {let_go.reason}" if let_go else "released"


def _document(entry: ledger.QuarantineEntry) -> dict[str, object]:
    one = entry.release
    held = one.quarantine or releases.Quarantine(one.created_at)
    return {
        "release_id": one.id,
        "line": one.context.line,
        "policy_id": one.candidate_id,
        "examples": entry.examples,
        "in_force": held.in_force,
        "reason": one.history[-1].reason,
        **inspecting.plain(held),
    }
