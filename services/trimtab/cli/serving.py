"""`trimtab up`: everything on this machine, until Ctrl-C."""

import asyncio
import pathlib
import threading

from trimtab.cli import artifacts, operating, platform, show
from trimtab.core import errors, lines
from trimtab.rpc import secrets

TENANT = "local"


def up(state: pathlib.Path, line: str, port: int, policy: pathlib.Path | None) -> None:
    """Starts the platform, imports and adopts the policy folder when one is given, then serves."""
    screen = show.Screen()
    layout = platform.Layout(state)
    layout.state.mkdir(parents=True, exist_ok=True)
    _configure(layout, line)
    model = ""
    if policy is not None:
        with screen.step(f"importing {policy}") as step:
            model = artifacts.import_policy(layout, policy, TENANT, line)
            step.say(f"policy {model[:12]}")
    live = platform.Platform(state, TENANT, line, port)
    with screen.step("starting the processes"):
        running = live.running()
        facts = running.__enter__()
    try:
        if model:
            asyncio.run(_adopt_unless_live(layout, model, screen))
        _welcome(screen, layout, facts, line)
        _until_interrupted(screen)
    finally:
        with screen.step("stopping"):
            running.__exit__(None, None, None)


def _configure(layout: platform.Layout, line: str) -> None:
    """A new state folder gets a line with defaults; one that is there keeps what its owner wrote."""
    if not layout.lines.exists():
        layout.lines.write_text(f'[lines.{line}]\ntenant = "{TENANT}"\n')
    if line not in lines.load_lines(layout.lines):
        raise errors.InvalidField("--line", f"{line!r} is not in {layout.lines}", "add it there or name one that is")


async def _adopt_unless_live(layout: platform.Layout, model: str, screen: show.Screen) -> None:
    async with platform.doors(layout) as doors:
        from trimtab.core import control

        known = await doors.rollout.list_releases(
            control.ListReleasesRequest(doors.facts.tenant, doors.facts.line), timeout_s=10
        )
        serving = {target.policy_id for target in known[0].arms if target.weight > 0} if known else set()
        if model not in serving:
            await operating.adopt_and_wait(doors, model, "given to `trimtab up`", screen)


def _welcome(screen: show.Screen, layout: platform.Layout, facts: platform.Facts, line: str) -> None:
    screen.say("")
    screen.table(
        ("", ""),
        [
            ("base URL", f"{facts.http_url}/v1"),
            ("API key", secrets.local_api_key(layout.secrets)),
            ("model", line),
            ("state", str(layout.state)),
            ("logs", str(layout.state / "logs")),
        ],
    )
    screen.say("\nCtrl-C stops it; the same command goes on where it stopped.")


def _until_interrupted(screen: show.Screen) -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        screen.say("")
