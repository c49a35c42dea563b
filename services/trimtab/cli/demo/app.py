"""`trimtab demo`: a platform in a state folder, the users, the acts, the table."""

import asyncio
import contextlib
import itertools
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from trimtab.cli import show
from trimtab.cli.demo import acts, operator, report, users
from trimtab.cli.machine import platform
from trimtab.cli.operators import auditing
from trimtab.core import errors, releases

TENANT = "demo"
# Seconds instead of hours, and a small model: what differs from a production line, and nothing else.
LINES = """\
[lines.support]
tenant = "demo"

[lines.support.trigger]
examples = 1300
promotions = 2

[lines.support.training.sft]
optimizer = "muon"
lr = 6e-3
matrix_lr = 6e-3
epochs = 5
batch = 24

[lines.support.training.reward]
lr = 1e-3
train_embeddings = false
surprise = true
epochs = 2
# a few dozen corrections teach the policy; too few to say whether a reward model understood them
minimum_examples = 120

# small steps: at 1.5e-3 a policy that is good already comes out worse than it was
[lines.support.training.ppo]
lr = 6e-4
critic_lr = 2e-3
iterations = 14

[lines.support.release]
maturity_s = 2.0
safety_weight = 0.25
safety_completions = 20
maximum_sessions = 2000
# one demo in forty may promote what changes nothing, and no more
alpha = 0.025

# the planted policy is long-winded, hence slow, and no reward model would like it: here its users shall find out, and
# nothing before them
[lines.support.release.guardrails]
length = inf
latency = inf
reward = inf
"""


def play(seed: int, state: pathlib.Path | None, log: str, as_json: bool) -> int:
    """Plays the demo and returns the exit code; the state folder is kept when it was named or something failed.

    log: URL of the event log, of which this demo's topics are the only ones with its prefix; empty: the folder's own.
    """
    screen = show.Screen(as_json)
    if state is not None and state.exists() and any(state.iterdir()):
        raise errors.InvalidField("--state", f"{str(state)!r} is not empty", "name a new folder")
    folder = state or pathlib.Path(tempfile.mkdtemp(prefix="trimtab-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    if log:
        platform.Layout(folder).choose_log(log)
    (folder / "lines.toml").write_text(LINES)
    screen.say(f"[bold]Trimtab demo[/], seed {seed}. Everything it keeps is in {folder}")
    code = 1
    try:
        outcome, balance, history = _on_a_platform(folder, seed, screen)
        audits = audited(platform.Layout(folder), history, screen)
        code = 0 if (held := tell(screen, outcome, history, balance, audits)) else 1
        if as_json:
            screen.json({"seed": seed, "held": held, **report.document(screen, outcome.policies, history, balance)})
    finally:
        if code == 0 and state is None:
            shutil.rmtree(folder)
        elif code:
            screen.say(f"\nLogs of the processes: {folder / 'logs'}")
    return code


_Played = tuple[acts.Outcome, report.Balance, Sequence[releases.Release]]


def _on_a_platform(folder: pathlib.Path, seed: int, screen: show.Screen) -> _Played:
    live = platform.Platform(folder, TENANT, acts.LINE)
    with live.shown(screen) as facts:
        return asyncio.run(_play(live.layout, facts, seed, screen))


def audited(
    layout: platform.Layout, history: Sequence[releases.Release], screen: show.Screen
) -> list[auditing.Audited]:
    """Every verdict, computed from the log again once all processes are gone."""
    judged = [release for release in history if release.evidence is not None]
    with (
        screen.step("computing every verdict from the log again") as step,
        contextlib.closing(layout.open_log()) as log,
    ):
        found = auditing.audited(log, judged, lambda read: step.say(f"{read:,} records"))
        step.say(f"{sum(one.equal for one in found)} of {len(found)} equal, to the last bit")
    return found


async def _play(layout: platform.Layout, facts: platform.Facts, seed: int, screen: show.Screen) -> _Played:
    async with platform.doors(layout) as doors:
        crowd = users.Users(facts.http_url, doors.api_key, acts.LINE, seed=seed)
        try:
            operating = operator.Operator(doors, acts.LINE, patience=1.0)
            demo = acts.Demo(layout, operating, crowd, screen, seed)
            return await demo.play(), await demo.balance(), await operating.history()
        finally:
            await crowd.close()


def tell(
    screen: show.Screen,
    outcome: acts.Outcome,
    history: Sequence[releases.Release],
    balance: report.Balance,
    audits: Sequence[auditing.Audited],
) -> bool:
    """Shows the last page; whether all of it happened, the books balance and the verdicts follow from the log."""
    report.show_policies(screen, outcome.policies)
    report.show_releases(screen, history)
    report.show_balance(screen, balance)
    report.show_times(screen)
    gains = [report.gain(before, after) for before, after in itertools.pairwise(outcome.learned)]
    told = ", then ".join(f"{difference:+.3f} ({low:+.3f} to {high:+.3f})" for difference, low, high in gains)
    verdicts = (
        (outcome.act_one, f"two policies were promoted, each better than the one before: approval {told}"),
        (outcome.nothing_new, "a candidate that changes nothing passed the gates and was not proven"),
        (outcome.act_two, "a fawning policy was refused at the gate, forced past it, and rolled back by votes"),
        (balance.holds, "every vote was acknowledged, joined, and trained on, held out or rejected with a reason"),
        (
            bool(audits) and all(one.equal for one in audits),
            f"every verdict follows from the log again, to the last bit: {len(audits)} releases",
        ),
    )
    screen.say("")
    for held, words in verdicts:
        screen.say(f"[green]yes[/]  {words}" if held else f"[red]no[/]   {words}")
    return all(held for held, _ in verdicts)
