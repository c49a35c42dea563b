"""A real policy process over real files: registry, log, secrets, and a very small policy."""

import asyncio
import contextlib
import dataclasses
import datetime
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import torch
from tests import timing

import trimtab_client
from trimtab import registry
from trimtab.bus import port, sqlite, topics
from trimtab.core import completions, models, text
from trimtab.modeling import loading, tiny
from trimtab.policy import local, remote, settings
from trimtab.rpc import secrets
from trimtab.wire import calls, schemas

TENANT, LINE = "acme", "support"
AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
START_S = 60.0
_numbers = itertools.count(1)

torch.set_num_threads(1)


def conversation(*turns: str) -> tuple[text.Message, ...]:
    roles = itertools.cycle((text.Role.USER, text.Role.ASSISTANT))
    return tuple(text.Message(role, text.Text(turn)) for role, turn in zip(roles, turns, strict=False))


def request(*turns: str, store: bool = True, n: int = 1, **sampling: Any) -> completions.CompleteRequest:
    """A request as the gateway sends it, with an id of its own."""
    number = next(_numbers)
    context = text.Context(TENANT, LINE, session_hash=number.to_bytes(16, "big"), store=store)
    exposure = completions.Exposure("release-1", "evidence", completions.Arm.STABLE, 0.5, True)
    return completions.CompleteRequest(
        messages=conversation(*turns or ("Where is the tone?",)),
        sampling=completions.Sampling(**({"max_tokens": 12} | sampling)),
        n=n,
        assignment=completions.Assignment(f"chatcmpl-{number}", context, exposure),
    )


def identity(asked: completions.CompleteRequest) -> str:
    assert asked.assignment is not None
    return asked.assignment.completion_id


@dataclasses.dataclass
class Installation:
    """A folder with everything a policy process needs."""

    folder: pathlib.Path
    model_id: str

    @property
    def log_file(self) -> pathlib.Path:
        return self.folder / "log.db"

    @property
    def registry(self) -> registry.Registry:
        return registry.Registry(f"file://{self.folder}/registry", self.folder / "cache")

    @property
    def token(self) -> str:
        return secrets.load(self.folder / "secrets.toml").internal_token

    def settings(self, **changes: object) -> settings.PolicySettings:
        said = {
            "model_id": self.model_id,
            "line": LINE,
            "log_url": f"sqlite://{self.log_file}",
            "registry_url": f"file://{self.folder}/registry",
            "cache": self.folder / "cache",
            "lines_file": self.folder / "lines.toml",
            "secrets_file": self.folder / "secrets.toml",
        }
        return settings.PolicySettings.model_validate(said | changes)

    def flags(self, **changes: object) -> list[str]:
        said = self.settings(**changes).model_dump(exclude_unset=True)
        return [part for key, value in said.items() for part in (f"--{key.replace('_', '-')}", str(value))]

    def records(self) -> dict[str, completions.Completion]:
        """All completions in the log, by id."""
        log = sqlite.SqliteLog(self.log_file)
        ends = log.end_offsets(topics.COMPLETIONS.name)
        reader = log.reader(dict.fromkeys(ends, 0))
        found: list[port.Record] = []
        while len(found) < sum(ends.values()):
            found += reader.poll(100, 1.0)
        reader.close()
        log.close()
        decoded = [schemas.decode(record.value, record.headers, completions.Completion) for record in found]
        assert len({one.id for one in decoded}) == len(decoded)
        return {one.id: one for one in decoded}

    def until_recorded(self, completion_id: str) -> completions.Completion:
        deadline = time.monotonic() + timing.PATIENCE_S
        while completion_id not in (known := self.records()):
            assert time.monotonic() < deadline, f"{completion_id} is not in the log"
        return known[completion_id]


@dataclasses.dataclass
class Running:
    """A policy process."""

    process: subprocess.Popen[bytes]
    address: str
    installation: Installation

    @contextlib.asynccontextmanager
    async def calls(self) -> AsyncIterator[calls.PolicyCalls]:
        async with trimtab_client.connect(self.address, self.installation.token) as channel:
            await asyncio.wait_for(channel.channel_ready(), START_S)
            yield calls.PolicyCalls(channel)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timing.PATIENCE_S)


@contextlib.contextmanager
def started(installation: Installation, **changes: object) -> Iterator[Running]:
    """The process as the console command starts it; killed at the end if it still runs."""
    place = installation.folder / f"address-{next(_numbers)}"
    command = [sys.executable, "-m", "trimtab.cli.app", "policy"]
    process = subprocess.Popen(
        [*command, *installation.flags(address_file=place, **changes)],
        stderr=(installation.folder / "policy.log").open("ab"),
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        deadline = time.monotonic() + START_S
        while not place.exists():
            assert process.poll() is None, (installation.folder / "policy.log").read_text()
            assert time.monotonic() < deadline, "the policy process does not listen"
            time.sleep(0.02)
        yield Running(process, place.read_text(), installation)
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def thread_of(
    made: local.LocalEngine | remote.RemoteEngine, stop: threading.Event | None = None
) -> AsyncIterator[threading.Thread]:
    """The thread that an engine runs in, as in a policy process, once it has loaded; ended here, or by `stop`."""
    told, ready, loop = stop or threading.Event(), asyncio.Event(), asyncio.get_running_loop()
    thread = threading.Thread(target=made.run, args=(told, lambda: loop.call_soon_threadsafe(ready.set)))
    thread.start()
    try:
        await asyncio.wait_for(ready.wait(), timing.PATIENCE_S)
        yield thread
    finally:
        told.set()
        await asyncio.to_thread(thread.join, timing.PATIENCE_S)
        if isinstance(made, remote.RemoteEngine):
            await made.close()


def install(folder: pathlib.Path, **profile: Any) -> Installation:
    """Publishes a small policy whose greedy answers go on for ever, into a new installation."""
    tokenizer = tiny.train_bpe(["Where is the tone?", "Open Sound, then tone. Grüße 🙂"], 320)
    model = tiny.tiny_llama(len(tokenizer), 3, hidden=32, layers=2, heads=2, intermediate=48, context=4096)
    with torch.no_grad():
        model.model.embed_tokens.weight[:4] *= 0.05  # special tokens, the end among them, are unlikely
    weights = folder / "weights"
    loading.save_policy(model, tokenizer, loading.ServingProfile(**({"max_tokens": 20} | profile)), weights)
    installation = Installation(folder, "")
    installation.model_id = publish(installation, models.ModelKind.POLICY)
    secrets.create(folder / "secrets.toml", TENANT)
    (folder / "lines.toml").write_text(f'[lines.{LINE}]\ntenant = "{TENANT}"\n')
    return installation


def publish(installation: Installation, kind: models.ModelKind) -> str:
    """Publishes the installation's weights as an artifact of this kind."""
    draft = registry.ManifestDraft(kind=kind, tenant=TENANT, line=LINE, created_at=AT)
    return installation.registry.publish(installation.folder / "weights", draft).id
