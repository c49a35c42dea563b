"""`trimtab demo`: a platform in a state folder, the users, the acts, the table."""

import asyncio
import pathlib
import shutil
import tempfile

from trimtab.cli import platform, show
from trimtab.cli.demo import acts, report, users
from trimtab.core import errors

TENANT = "demo"
# Seconds instead of hours, and a small model: what differs from a production line, and nothing else.
_LINES = """\
[lines.support]
tenant = "demo"

[lines.support.trigger]
examples = 1250
cycles = 1

[lines.support.training.reward]
lr = 1e-3
train_embeddings = false
surprise = true

[lines.support.release]
maturity_s = 2.0
safety_completions = 20
maximum_sessions = 6000
"""


def play(seed: int, state: pathlib.Path | None, as_json: bool) -> int:
    """Plays the demo and returns the exit code; the state folder is kept when it was named or something failed."""
    screen = show.Screen(as_json)
    if state is not None and state.exists() and any(state.iterdir()):
        raise errors.InvalidField("--state", f"{str(state)!r} is not empty", "name a new folder")
    folder = state or pathlib.Path(tempfile.mkdtemp(prefix="trimtab-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lines.toml").write_text(_LINES)
    screen.say(f"[bold]Trimtab demo[/], seed {seed}. Everything it keeps is in {folder}")
    code = 1
    try:
        code = asyncio.run(_play(folder, seed, screen, as_json))
    finally:
        if code == 0 and state is None:
            shutil.rmtree(folder)
        elif code:
            screen.say(f"\nLogs of the processes: {folder / 'logs'}")
    return code


async def _play(folder: pathlib.Path, seed: int, screen: show.Screen, as_json: bool) -> int:
    live = platform.Platform(folder, TENANT, acts.LINE)
    with screen.step("starting the processes"):
        running = live.running()
        facts = await asyncio.to_thread(running.__enter__)
    try:
        async with platform.doors(live.layout) as doors:
            crowd = users.Users(facts.http_url, doors.api_key, acts.LINE, seed=seed)
            try:
                demo = acts.Demo(live.layout, doors, crowd, screen, seed)
                outcome = await demo.play()
                balance = await demo.balance()
                history = await demo.history()
            finally:
                await crowd.close()
    finally:
        with screen.step("stopping the processes"):
            await asyncio.to_thread(running.__exit__, None, None, None)
    policies = (outcome.before, outcome.after, outcome.planted)
    report.show_policies(screen, policies)
    report.show_releases(screen, history)
    report.show_balance(screen, balance)
    report.show_times(screen)
    held = _verdict(outcome, balance, screen)
    if as_json:
        screen.json({"seed": seed, "held": held, **report.document(screen, policies, history, balance)})
    return 0 if held else 1


def _verdict(outcome: acts.Outcome, balance: report.Balance, screen: show.Screen) -> bool:
    """Whether both acts happened and the books balance; says each in words."""
    difference, low, high = report.gain(outcome.before, outcome.after)
    screen.say("")
    for held, words in (
        (outcome.act_one, f"a better policy was promoted: approval {difference:+.3f} ({low:+.3f} to {high:+.3f})"),
        (outcome.act_two, "a fawning policy was refused at the gate, forced past it, and rolled back by votes"),
        (balance.holds, "every vote was acknowledged, joined, and trained on, held out or rejected with a reason"),
    ):
        screen.say(f"[green]yes[/]  {words}" if held else f"[red]no[/]   {words}")
    return outcome.act_one and outcome.act_two and balance.holds
