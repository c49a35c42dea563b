"""What operators do to releases. Each act is an audit record with who, what and why."""

import pathlib

from trimtab.cli import show
from trimtab.cli.machine import artifacts, operating, platform
from trimtab.core import control, errors, releases


async def start(state: pathlib.Path, line: str, model: str, force: str) -> None:
    layout = platform.Layout(state)
    async with platform.doors(layout, line) as doors:
        request = control.StartReleaseRequest(
            doors.facts.tenant,
            doors.facts.line,
            artifacts.resolve(layout, model),
            operating.operator(),
            force,
            operating.new_request(),
        )
        _show(await platform.patiently(lambda: doors.rollout.start_release(request, timeout_s=30)))


async def adopt(state: pathlib.Path, line: str, model: str, reason: str) -> None:
    layout = platform.Layout(state)
    async with platform.doors(layout, line) as doors:
        _show(await adopt_and_wait(doors, artifacts.resolve(layout, model), reason, show.Screen()))


async def adopt_and_wait(doors: platform.Doors, model_id: str, reason: str, screen: show.Screen) -> releases.Release:
    """Adopts a policy and waits until it serves; WrongState with the reason when it cannot."""
    request = control.AdoptRequest(
        doors.facts.tenant, doors.facts.line, model_id, operating.operator(), reason, operating.new_request()
    )
    with screen.step(f"adopting policy {model_id[: show.SHORT]}") as step:
        release = await platform.patiently(lambda: doors.rollout.adopt(request, timeout_s=30))
        release = await platform.ended(doors, release, step.say)
    if release.state is not releases.ReleaseState.PROMOTED:
        raise errors.WrongState(f"Policy {model_id[: show.SHORT]} does not serve: {platform.describe_release(release)}")
    return release


async def act(state: pathlib.Path, line: str, verb: str, reason: str) -> None:
    async with platform.doors(platform.Layout(state), line) as doors:
        request = control.LineRequest(
            doors.facts.tenant, doors.facts.line, operating.operator(), reason, operating.new_request()
        )
        verbs = {
            "promote": doors.rollout.promote,
            "pause": doors.rollout.pause,
            "resume": doors.rollout.resume,
            "abort": doors.rollout.abort,
            "undo": doors.rollout.undo,
        }
        _show(await platform.patiently(lambda: verbs[verb](request, timeout_s=30)))


def _show(release: releases.Release) -> None:
    said = show.literal(platform.describe_release(release))
    show.Screen().say(f"release {release.id} of policy {release.candidate_id[: show.SHORT]}: {said}")
