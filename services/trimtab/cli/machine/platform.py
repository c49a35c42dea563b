"""The platform on this machine: seven processes in one state folder, and the doors an operator uses.

Built by `trimtab up` and `trimtab demo`; the other commands find a running one through its state folder. The
processes themselves are kept up by `cli.machine.supervisor`; policies are added to its table by the rollout controller.
"""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

import httpx

import trimtab_client
from trimtab.bus import connect, letters, port
from trimtab.cli import show
from trimtab.cli.machine import halting, supervisor
from trimtab.core import audit, control, errors, files, lines, releases, runs
from trimtab.obs import logging
from trimtab.rollout import processes
from trimtab.rpc import health, ports, secrets, settings
from trimtab.wire import calls

_START_LIMIT_S = 60.0
# How long a process may be away while somebody waits for its answer: longer than a restart takes.
_AWAY_LIMIT_S = 60.0
_ASK_EVERY_S = 0.5
_RELEASE_EVERY_S = 0.3
_FACTS_FILE = "platform.json"
_Answer = TypeVar("_Answer")
# Figures of a run that tell people how it goes, in the order they are told.
_TOLD = {
    "loss_nats_per_token": "loss",
    "loss_nats_per_example": "loss",
    "pair_accuracy": "held-out accuracy on pairs",
    "pair_nll": "loss",
    "score": "score",
    "kl_nats": "KL",
    "win_rate": "win rate",
    "kl_to_anchor": "KL to anchor",
}
# In the order they start, the gateway last.
_BACK = ("ledger", "feedback", "reward", "trainer", "rollout")
# Those that call others: they stop first.
_CALLERS = ("gateway", "trainer", "rollout")
# Without these nothing is served or released; another that stands still keeps no platform from coming up.
_NEEDED = {"gateway", "rollout"}
# Before a platform that starts looks for consumers that stand still, and how often then.
_HALTS_AFTER_S = 2.0
_HALTS_EVERY_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """Where a platform's doors are; written to its state folder, read by the other commands."""

    tenant: str
    line: str
    http_url: str
    addresses: dict[str, str]


class Layout:
    """What stands where in a state folder."""

    def __init__(self, state: pathlib.Path) -> None:
        self.state = state.absolute()
        self.logs = self.state / "logs"
        self.log_file = self.state / "log.url"
        self.database_file = self.state / "database.url"
        self.registry_file = self.state / "registry.url"
        self.cache = self.state / "cache"
        self.lines = self.state / "lines.toml"
        self.secrets = self.state / "secrets.toml"
        self.facts = self.state / _FACTS_FILE
        self.ledger = self.state / "ledger.sqlite"
        self.trainer = self.state / "trainer" / "trainer.db"
        self.runs = self.state / "trainer" / "runs"

    @property
    def log_url(self) -> str:
        """Of the embedded log in this folder, unless another one was chosen for it."""
        if self.log_file.exists():
            return self.log_file.read_text().strip()
        return f"sqlite:///{self.state}/log.sqlite"

    @property
    def registry_url(self) -> str:
        """Of the registry in this folder, unless another one is named for it, as in an operator's pod of a cluster."""
        if self.registry_file.exists():
            return self.registry_file.read_text().strip()
        return f"file://{self.state}/registry"

    @property
    def database_url(self) -> str:
        """Of the ledger's database: the SQLite in this folder, unless another one was chosen for it."""
        if self.database_file.exists():
            return self.database_file.read_text().strip()
        return f"sqlite:///{self.state}/ledger.sqlite"

    def use_database(self, url: str) -> None:
        """From now on, this one; empty: the one chosen before. The ledger is made again from the log in one that lacks
        something of it. InvalidField or ServiceUnavailable when a ledger cannot work with it."""
        if not url and not self.database_file.exists():
            return
        from trimtab.ledger import settings as ledger_settings
        from trimtab.ledger.store import database

        database.require(url or self.database_url, ledger_settings.database_password())
        if url:
            files.replace(self.database_file, f"{url}\n")

    def choose_log(self, url: str) -> None:
        """For good: what the folder holds follows from one log. InvalidField when it follows from another already."""
        begun = self.log_file.exists() or (self.state / "log.sqlite").exists()
        if begun and url != self.log_url:
            raise errors.InvalidField(
                "--log", f"is {url!r}, and {self.state} follows from {self.log_url!r}", "name that, or a new folder"
            )
        self.state.mkdir(parents=True, exist_ok=True)
        connect.create_topics(url, settings.log_security())
        files.replace(self.log_file, f"{url}\n")

    def make_topics(self) -> None:
        """Those that the log lacks: a newer version may have one more. LogUnavailable when the log is away."""
        connect.create_topics(self.log_url, settings.log_security())

    def open_log(self) -> port.EventLog:
        """The log of this folder, for a command that reads or writes it itself."""
        return connect.open_log(self.log_url, settings.log_security())

    def environment(self) -> dict[str, str]:
        """What every process is told."""
        return {
            "TRIMTAB_LOG_URL": self.log_url,
            "TRIMTAB_REGISTRY_URL": self.registry_url,
            "TRIMTAB_CACHE": str(self.cache),
            "TRIMTAB_LINES_FILE": str(self.lines),
            "TRIMTAB_SECRETS_FILE": str(self.secrets),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }

    def check_line(self, name: str) -> str:
        """The name of a line that stands in the folder's lines file; InvalidField when it does not."""
        known = lines.load_lines(self.lines)
        if name not in known:
            raise errors.InvalidField("--line", f"{name!r} is not in {self.lines}", f"use one of {', '.join(known)}")
        return name

    def read_facts(self) -> Facts:
        """The doors of the platform that runs here; NotFound when none does."""
        try:
            return Facts(**json.loads(self.facts.read_text()))
        except FileNotFoundError as absent:
            raise errors.NotFound("running platform in", str(self.state)) from absent


class Platform:
    """A platform that starts when entered and stops when left.

    http_port, grpc_port: of the public doors on this machine; 0: a free one, for gRPC the one it had before.
    """

    def __init__(self, state: pathlib.Path, tenant: str, line: str, http_port: int = 0, grpc_port: int = 0) -> None:
        self.layout = Layout(state)
        self.tenant = tenant
        self._line = line
        self._ports = http_port, grpc_port
        self._http = f"127.0.0.1:{http_port or ports.free_port()}"
        self._grpc = f"127.0.0.1:{grpc_port}" if grpc_port else ""
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self, screen: show.Screen | None = None) -> Iterator[Facts]:
        """Starts every process, waits until all answer, and stops them all at the end.

        screen: is told what waits for an operator. What this process logs meanwhile goes to a file: the screen is for
        the person.
        """
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        logging.configure("trimtab", "info", self.layout.logs / "trimtab.log")
        if not self.layout.secrets.exists():
            secrets.create(self.layout.secrets, self.tenant)
        keeper = supervisor.Supervisor(self.layout.state, callers=_CALLERS)
        with keeper.alone():
            if not supervisor.left_running(self.layout.state):  # those are ended first, and have our ports
                _check_ports(*self._ports)
            with _held(self._http, self._grpc):
                addresses = self._want(keeper)
            thread = threading.Thread(target=keeper.run, args=(self._stop,), name="supervisor")
            thread.start()
            try:
                facts = Facts(self.tenant, self._line, f"http://{self._http}", addresses)
                self._wait_until_ready(facts, screen)
                self._write(facts)
                yield facts
            finally:
                self.layout.facts.unlink(missing_ok=True)
                self._stop.set()
                thread.join()

    @contextlib.contextmanager
    def shown(self, screen: show.Screen) -> Iterator[Facts]:
        """As `running`, for somebody who watches: its start and its stop are steps on the screen."""
        with contextlib.ExitStack() as stack:
            with screen.step("starting the processes"):
                facts = stack.enter_context(self.running(screen))
            try:
                yield facts
            finally:
                with screen.step("stopping the processes"):
                    stack.close()

    def _want(self, keeper: supervisor.Supervisor) -> dict[str, str]:
        addresses: dict[str, str] = {}
        for name in _BACK:
            match name:
                case "ledger":
                    extra: tuple[str, ...] = ("--database", self.layout.database_url)
                case "trainer":
                    extra = ("--ledger-address", addresses["ledger"], "--state", str(self.layout.state / "trainer"))
                case "rollout":
                    extra = ("--ledger-address", addresses["ledger"], "--reward-address", addresses["reward"])
                    extra += ("--state", str(self.layout.state))
                case _:
                    extra = ()
            addresses[name] = self._ensure(keeper, name, extra)
        extra = ("--http-listen", self._http, "--feedback-address", addresses["feedback"])
        addresses["gateway"] = self._ensure(keeper, "gateway", extra, self._grpc)
        return addresses

    def _ensure(self, keeper: supervisor.Supervisor, name: str, extra: tuple[str, ...], address: str = "") -> str:
        argv = (sys.executable, "-m", "trimtab.cli.app", name, "--listen", processes.ADDRESS, *extra)
        return keeper.ensure(processes.ProcessSpec(name, argv, self.layout.environment(), address)).address

    def _wait_until_ready(self, facts: Facts, screen: show.Screen | None) -> None:
        """Until all serve that can. A consumer that stands still is waited for without limit where nothing goes
        without its process: an operator has to say how it goes on, and is told so."""
        deadline = time.monotonic() + _START_LIMIT_S
        look_at = time.monotonic() + _HALTS_AFTER_S
        told: set[str] = set()
        while missing := _not_serving(facts):
            if time.monotonic() >= look_at:
                standing = halted(self.layout)
                held_up = {halting.process_of(name) for name in standing} & missing
                if missing <= held_up - _NEEDED:
                    return
                if held_up & _NEEDED:
                    deadline = time.monotonic() + _START_LIMIT_S
                    self._write(facts)
                    new = {name: one for name, one in standing.items() if name not in told}
                    told |= new.keys()
                    if screen and new:
                        halting.say_waiting(screen, new, missing)
                look_at = time.monotonic() + _HALTS_EVERY_S
            if time.monotonic() > deadline:
                raise errors.ServiceUnavailable(
                    f"{', '.join(sorted(missing))} did not answer within {_START_LIMIT_S:.0f} s; "
                    f"the logs are in {self.layout.logs}."
                )
            time.sleep(0.2)

    def _write(self, facts: Facts) -> None:
        """Tells the other commands where the doors are."""
        files.replace(self.layout.facts, json.dumps(dataclasses.asdict(facts), indent=2) + "\n")


def halted(layout: Layout) -> dict[str, audit.ConsumerHalted]:
    """By name, the consumers that stand still; none while the log cannot be asked."""
    with (
        contextlib.suppress(errors.LogUnavailable),
        contextlib.closing(layout.open_log()) as log,
        contextlib.closing(letters.Letters(log)) as known,
    ):
        known.refresh()
        return known.halted
    return {}


@contextlib.contextmanager
def _held(*addresses: str) -> Iterator[None]:
    """Keeps our own doors' ports from being given to another process as free ones, for as long as the context lasts."""
    with contextlib.ExitStack() as held:
        for address in filter(None, addresses):
            host, _, port = address.rpartition(":")
            with contextlib.suppress(OSError):  # who listens there already keeps it by that
                held.enter_context(socket.socket()).bind((host, int(port)))
        yield


def _check_ports(http_port: int, grpc_port: int) -> None:
    """InvalidField names the flag of a port that cannot be had."""
    if http_port and http_port == grpc_port:
        raise errors.InvalidField("--grpc-port", f"is {grpc_port} like `--port`", "give each a port of its own")
    for flag, number in (("--port", http_port), ("--grpc-port", grpc_port)):
        try:
            socket.create_server(("127.0.0.1", number)).close()
        except (OSError, OverflowError) as problem:
            raise errors.InvalidField(
                flag,
                f"{number} cannot be had ({problem})",
                f"stop what listens there, or give another port with {flag}",
            ) from problem


def _not_serving(facts: Facts) -> set[str]:
    """Names of the processes that do not say SERVING, by gRPC or, the gateway, by HTTP."""

    async def ask() -> set[str]:
        return {
            name for name, address in facts.addresses.items() if not await health.is_serving(address, timeout_s=2.0)
        }

    missing = asyncio.run(ask())
    with contextlib.suppress(httpx.TransportError):
        if httpx.get(f"{facts.http_url}/readyz", timeout=2.0).status_code == httpx.codes.OK:
            return missing
    return missing | {"gateway"}


@dataclasses.dataclass(frozen=True, slots=True)
class Doors:
    """The operator's doors of a running platform."""

    facts: Facts
    api_key: str
    ledger: calls.LedgerCalls
    trainer: calls.TrainerCalls
    rollout: calls.RolloutCalls
    feedback: calls.FeedbackCalls
    reward: calls.RewardCalls


@contextlib.asynccontextmanager
async def doors(layout: Layout, line: str = "") -> AsyncIterator[Doors]:
    """Opens the doors of the platform that runs in a state folder. line: another one than `trimtab up` was given."""
    facts = layout.read_facts()
    facts = dataclasses.replace(facts, line=layout.check_line(line)) if line else facts
    keys = secrets.load(layout.secrets)
    channels = {
        name: trimtab_client.connect(facts.addresses[name], keys.internal_token)
        for name in ("ledger", "trainer", "rollout", "feedback", "reward")
    }
    try:
        yield Doors(
            facts=facts,
            api_key=secrets.local_api_key(layout.secrets),
            ledger=calls.LedgerCalls(channels["ledger"]),
            trainer=calls.TrainerCalls(channels["trainer"]),
            rollout=calls.RolloutCalls(channels["rollout"]),
            feedback=calls.FeedbackCalls(channels["feedback"]),
            reward=calls.RewardCalls(channels["reward"]),
        )
    finally:
        for channel in channels.values():
            await channel.close()


async def patiently(ask: Callable[[], Awaitable[_Answer]], limit_s: float | None = None) -> _Answer:
    """The answer to what may be asked twice: asked again while the process behind the door restarts."""
    deadline = time.monotonic() + (_AWAY_LIMIT_S if limit_s is None else limit_s)
    while True:
        try:
            return await ask()
        except (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.LogUnavailable, errors.Overloaded):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_ASK_EVERY_S)


async def finished(
    doors: Doors, run: runs.Run, tell: Callable[[str], None], *, away_limit_s: float = _AWAY_LIMIT_S
) -> runs.Run:
    """Tells how a run goes until it has ended; WrongState with the reason when it does not succeed.

    Asked for again and again rather than watched: people are told that it goes on when nothing changes, and a trainer
    that restarts is met again. ServiceUnavailable when it stays away longer than `away_limit_s`.
    """
    away_since: float | None = None
    while run.ended_at is None:
        await asyncio.sleep(_ASK_EVERY_S)
        try:
            run = (await doors.trainer.get_run(runs.GetRunRequest(doors.facts.tenant, run.id))).run
            tell(await _turn(doors, run) if run.state is runs.RunState.QUEUED else describe_run(run))
            away_since = None
        except (errors.ServiceUnavailable, errors.DeadlineExceeded) as problem:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > away_limit_s:
                raise
            tell(f"the trainer does not answer, asking again: {problem}")
    if run.state is not runs.RunState.SUCCEEDED:
        raise errors.WrongState(f"Run {run.id} ended as {run.state.value}: {run.problem}")
    return run


async def ended(
    doors: Doors, release: releases.Release, tell: Callable[[str], None], *, away_limit_s: float | None = None
) -> releases.Release:
    """Tells how a release goes until it has ended. A controller that restarts is met again, as in `patiently`."""
    wanted = control.GetReleaseRequest(doors.facts.tenant, release.id)
    while release.state not in releases.FINAL_STATES:
        tell(describe_release(release))
        await asyncio.sleep(_RELEASE_EVERY_S)
        release = await patiently(lambda: doors.rollout.get_release(wanted, timeout_s=10), away_limit_s)
    tell(describe_release(release))
    return release


async def _turn(doors: Doors, run: runs.Run) -> str:
    """What a queued run waits for: those that people ask for take turns, and those that feedback triggers."""
    every = await doors.trainer.list_runs(runs.ListRunsRequest(doors.facts.tenant))
    ahead = [
        f"{other.id} ({other.spec.kind.value}, asked for by {other.asked_by}: {describe_run(other)})"
        for other in every
        if other.state is runs.RunState.RUNNING and (other.asked_by == runs.TRIGGER) == (run.asked_by == runs.TRIGGER)
    ]
    return f"{describe_run(run)} behind {', '.join(ahead)}" if ahead else describe_run(run)


def describe_run(run: runs.Run) -> str:
    """A run in a line: how far it is and its figures of the moment."""
    told = {figure.name: figure.value for figure in run.figures}
    figures = [f"{words} {told[name]:.3g}" for name, words in _TOLD.items() if name in told]
    if run.state is runs.RunState.QUEUED:
        return "waits for its turn"
    if run.state is not runs.RunState.RUNNING:
        return ", ".join(figures) or run.state.value
    return ", ".join([f"step {run.step} of {run.steps}" if run.steps else "loading", *figures])


def describe_release(release: releases.Release) -> str:
    """A release in a line: its state and what the evidence says."""
    state = release.state.value.replace("_", " ")
    evidence = release.evidence
    reason = release.history[-1].reason if release.history else ""
    if release.state is releases.ReleaseState.EVIDENCE and evidence is not None:
        votes = {arm.arm.value: f"{arm.approval:.2f} of {arm.voted}" for arm in evidence.arms}
        shares = ", ".join(f"{name} {share}" for name, share in votes.items())
        figures = f"approval {shares}; difference {evidence.lower:+.2f} to {evidence.upper:+.2f}"
        return "; ".join(filter(None, (f"{state}: {figures}", evidence.uncounted)))
    waits = f"waits: {release.waits_for}" if release.waits_for else ""
    return ": ".join(filter(None, (state, waits or reason)))
