"""`trimtab up`: everything on this machine, until Ctrl-C."""

import asyncio
import contextlib
import pathlib
import time
from collections.abc import Sequence

from trimtab.bus import letters
from trimtab.cli import show
from trimtab.cli.machine import artifacts, halting, operating, platform, versions
from trimtab.cli.operators import acts, releasing
from trimtab.core import audit, control, errors, files, lines, releases
from trimtab.rpc import health, secrets

# Who owns the line of a new state folder.
_TENANT = "local"
_LOAD_LIMIT_S = 300.0
_POLL_S = 0.2
_LOOK_EVERY_S = 5.0


def up(
    state: pathlib.Path,
    line: str,
    port: int,
    grpc_port: int,
    policy: pathlib.Path | None,
    *,
    log: str,
    database: str,
) -> None:
    """Starts the platform, imports and adopts the policy folder when one is given, then serves.

    log, database: URLs of the event log and of the ledger's database; empty: the folder's own.
    """
    screen = show.Screen()
    layout = platform.Layout(state)
    layout.state.mkdir(parents=True, exist_ok=True)
    versions.require_known(layout)
    if log:
        layout.choose_log(log)
    else:
        layout.make_topics()
    layout.use_database(database)
    tenant = _configure(layout, line)
    model = ""
    if policy is not None:
        with screen.step(f"importing {policy}") as step:
            model = artifacts.import_policy(layout, policy, tenant, line, operating.operator())
            step.say(f"policy {model[: show.SHORT]}")
    else:
        artifacts.note_imports(layout)
    live = platform.Platform(state, tenant, line, port, grpc_port)
    with live.shown(screen) as facts:
        if model:
            asyncio.run(_adopt_first(layout, model, screen))
        asyncio.run(_until_it_serves(layout, screen))
        _welcome(screen, layout, facts, line)
        _until_interrupted(screen, layout)


def import_folder(state: pathlib.Path, line: str, folder: pathlib.Path) -> None:
    """Publishes a model folder as a policy of a line of a platform, whether that runs or not. The same folder, the
    same id."""
    layout = platform.Layout(state)
    named = layout.check_line(line) if line else layout.read_facts().line
    tenant = lines.load_lines(layout.lines)[named].tenant
    show.Screen().say(artifacts.import_policy(layout, folder, tenant, named, operating.operator()))


def _configure(layout: platform.Layout, line: str) -> str:
    """The tenant that owns the line. A new state folder gets a line with defaults; one that is there keeps what its
    owner wrote."""
    if not layout.lines.exists():
        files.replace(layout.lines, f'[lines.{line}]\ntenant = "{_TENANT}"\n')
    tenant = lines.load_lines(layout.lines)[layout.check_line(line)].tenant
    if layout.secrets.exists():
        key = secrets.load(layout.secrets).find(secrets.local_api_key(layout.secrets))
        if key is None or key.tenant != tenant:
            owner = f"tenant {key.tenant!r}" if key else "nobody"
            raise errors.InvalidField(
                "--line",
                f"{line!r} belongs to tenant {tenant!r} and the API key in {layout.secrets} to {owner}",
                "name a line of the key's tenant",
            )
    return tenant


async def _adopt_first(layout: platform.Layout, model: str, screen: show.Screen) -> None:
    """Makes the policy the line's first. A line that has one goes on where it stopped."""
    async with platform.doors(layout) as doors:
        serving = await _serving(doors, doors.facts.line)
        if not serving:
            await acts.adopt_and_wait(doors, model, "given to `trimtab up`", screen)
        elif model not in {arm.policy_id for arm in serving}:
            live = ", ".join(arm.policy_id[: show.SHORT] for arm in serving)
            start = f"trimtab rollout start {model[: show.SHORT]}"
            screen.say(f"  The line goes on with policy {live}; `{start}` releases the one given.")


async def _until_it_serves(layout: platform.Layout, screen: show.Screen) -> None:
    """Policies load for seconds; who is told where to ask gets an answer."""
    async with platform.doors(layout) as doors:
        if not await _serving(doors):
            return
        with screen.step("loading the policy"):
            deadline = time.monotonic() + _LOAD_LIMIT_S
            while not await _answers(await _serving(doors)):
                if time.monotonic() > deadline:
                    raise errors.ServiceUnavailable(
                        f"The policy did not serve within {_LOAD_LIMIT_S:.0f} s; its log is in {layout.logs}."
                    )
                await asyncio.sleep(_POLL_S)


async def _answers(arms: Sequence[releases.ArmTarget]) -> bool:
    return all([await health.is_serving(arm.address, timeout_s=2.0) for arm in arms])


async def _serving(doors: platform.Doors, line: str = "") -> list[releases.ArmTarget]:
    """The policies that get traffic, of one line or all; none before a line's first."""
    request = control.ListReleasesRequest(doors.facts.tenant, line)
    known = await platform.patiently(lambda: doors.rollout.list_releases(request, timeout_s=10))
    return [arm for head in releasing.heads(known).values() for arm in head.arms if arm.weight > 0]


def _welcome(screen: show.Screen, layout: platform.Layout, facts: platform.Facts, line: str) -> None:
    screen.say("")
    screen.table(
        ("", ""),
        [
            ("base URL", f"{facts.http_url}/v1"),
            ("gRPC address", facts.addresses["gateway"]),
            ("API key", secrets.local_api_key(layout.secrets)),
            ("model", line),
            ("state", str(layout.state)),
            ("logs", str(layout.logs)),
        ],
    )
    screen.say("\nCtrl-C or `trimtab down` stops it; the same command goes on where it stopped.")


def _until_interrupted(screen: show.Screen, layout: platform.Layout) -> None:
    """Says when a consumer halts, and when it goes on."""
    told: dict[str, audit.ConsumerHalted] = {}
    with (
        contextlib.suppress(KeyboardInterrupt),
        contextlib.closing(layout.open_log()) as log,
        contextlib.closing(letters.Letters(log)) as known,
    ):
        while True:
            with contextlib.suppress(errors.LogUnavailable):
                known.refresh()
            standing = dict(known.halted)
            halting.say(screen, {name: one for name, one in standing.items() if name not in told})
            for name in told.keys() - standing.keys():
                screen.say(show.literal(f"{name} goes on"))
            told = standing
            time.sleep(_LOOK_EVERY_S)
    screen.say("")
