"""A platform's folder for a row on training and publishing: what its processes share, and how they are asked."""

import asyncio
import contextlib
import pathlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

from tests.faults import killing, reading, test_job_killed
from tests.faults.harness import load, subjects, world

import trimtab_client
from trimtab import registry
from trimtab.bus import connect, port, publish, topics
from trimtab.core import errors, models, runs
from trimtab.rpc import secrets
from trimtab.wire import calls

WITHIN_S = 600.0
_AWAY = (errors.ServiceUnavailable, errors.DeadlineExceeded)
_T = TypeVar("_T")
LINES = f"""
[lines.{load.LINE}]
tenant = "{load.TENANT}"
[lines.{load.LINE}.trigger]
examples = 0
"""


class Installation:
    """Log, registry, secrets and lines in a folder; `subject` makes its processes, which all end with it."""

    def __init__(self, folder: pathlib.Path, *, size: world.Size, seed: int, name: str, mutant: str = "") -> None:
        self.folder, self.size, self.seed, self.mutant = folder, size, seed, mutant
        self.rng = random.Random(f"{name} {seed}")
        self.log_url = f"sqlite://{folder / 'log.db'}"
        self.registry = registry.Registry(f"file://{folder / 'registry'}", folder / "harness-cache")
        self.api_key = secrets.create(folder / "secrets.toml", load.TENANT)
        self.secrets = secrets.load(folder / "secrets.toml")
        (folder / "lines.toml").write_text(LINES)
        self.subjects: list[subjects.Subject] = []

    def subject(
        self, program: str, name: str = "", environment: Mapping[str, str] | None = None, **settings: Any
    ) -> subjects.Subject:
        """A process that is not started yet."""
        told = subjects.settings_of(self.folder, self.log_url) | settings
        made = subjects.Subject(
            program, name or program, self.folder, told, mutant=self.mutant, environment=environment or {}
        )
        self.subjects.append(made)
        return made

    def make_models(self) -> None:
        """A tiny policy in folder `policy`, a reward model in `reward`, data sets: in a process of their own."""
        killing.run(test_job_killed.make_inputs, self.folder)

    def publish(self, folder: str, kind: models.ModelKind, *, announce: bool = False, **draft: Any) -> str:
        """As an operator publishes a folder of the installation."""
        manifest = self.registry.publish(
            self.folder / folder, registry.ManifestDraft(kind=kind, tenant=load.TENANT, line=load.LINE, **draft)
        )
        if announce:
            self.announce(manifest)
        return manifest.id

    def announce(self, manifest: registry.Manifest) -> None:
        with self.opened() as log:
            record = self.registry.announcement(manifest)
            publish.publish(log, topics.MODELS, manifest.id.encode(), record).result()

    @contextlib.contextmanager
    def opened(self) -> Iterator[port.EventLog]:
        with contextlib.closing(connect.open_log(self.log_url)) as log:
            yield log

    def announced(self) -> list[models.PublishedModel]:
        """Every record of topic `models`, in its order."""
        with self.opened() as log:
            return reading.decoded(log, topics.MODELS, models.PublishedModel)

    def ask(self, subject: subjects.Subject, kind: Callable[..., Any], method: Callable[[Any], Awaitable[_T]]) -> _T:
        """What a process answers to one call; asked again while it is away."""

        async def once() -> _T:
            async with trimtab_client.connect(subject.address, self.secrets.internal_token) as channel:
                return await method(kind(channel))

        give_up_at = time.monotonic() + WITHIN_S
        while True:
            try:
                return asyncio.run(once())
            except _AWAY as problem:
                if time.monotonic() > give_up_at:
                    raise subjects.Failed(f"{subject.name} does not answer: {problem}") from problem
                time.sleep(0.2)

    def start_run(self, trainer: subjects.Subject, kind: runs.RunKind, request_id: str, **spec: Any) -> str:
        """Asks for a run, once however often it is tried; its id."""
        wanted = runs.StartRunRequest(
            runs.RunSpec(load.TENANT, load.LINE, kind, **spec), actor="harness", request_id=request_id
        )
        return self.ask(trainer, calls.TrainerCalls, lambda to: to.start_run(wanted)).id

    def run(self, trainer: subjects.Subject, run_id: str) -> runs.Run:
        wanted = runs.GetRunRequest(load.TENANT, run_id)
        return self.ask(trainer, calls.TrainerCalls, lambda to: to.get_run(wanted)).run

    def await_run(
        self, trainer: subjects.Subject, run_id: str, there: Callable[[runs.Run], bool] | None = None
    ) -> runs.Run:
        """The run when it has succeeded, or when what is asked of it holds. Failed when it ended otherwise."""
        found: list[runs.Run] = []

        def look() -> bool:
            found[:] = [self.run(trainer, run_id)]
            if found[0].state in (runs.RunState.FAILED, runs.RunState.CANCELLED):
                raise subjects.Failed(f"Run {run_id} ended as {found[0].state}: {found[0].problem}")
            succeeded = found[0].state is runs.RunState.SUCCEEDED
            if there is not None and succeeded and not there(found[0]):
                raise subjects.Failed(f"Run {run_id} succeeded before it came to what was waited for.")
            return there(found[0]) if there is not None else succeeded

        until(look, f"run {run_id} does not come to what is waited for: see {trainer.said}")
        return found[0]

    def run_folder(self, run_id: str) -> pathlib.Path:
        return self.folder / "trainer" / "runs" / run_id

    def close(self) -> None:
        for subject in self.subjects:
            subject.end()


def until(holds: Callable[[], object], otherwise: str, within_s: float = WITHIN_S) -> None:
    """Returns when it holds; Failed with the sentence when it never does."""
    give_up_at = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > give_up_at:
            raise subjects.Failed(f"After {within_s:.0f} s {otherwise}")
        time.sleep(0.05)
