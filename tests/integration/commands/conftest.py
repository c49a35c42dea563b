"""One platform for all tests of this folder: the one that the documented session is recorded from."""

import asyncio
import contextlib
import dataclasses
import io
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests import timing
from tests.integration.loop import living
from tools import record_cli

from trimtab import registry
from trimtab.bus import connect, publish, topics
from trimtab.cli.commands import root
from trimtab.cli.machine import artifacts, platform
from trimtab.core import errors, ledger, models


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A platform after the session. page: as it would be written to the docs."""

    session: record_cli.Session
    page: str

    @property
    def layout(self) -> platform.Layout:
        return platform.Layout(self.session.state)

    def trimtab(self, *arguments: str, typed: str = "") -> tuple[int, str, str]:
        """(exit code, standard output, standard error) of a command on this platform, run in this process."""
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        standard, sys.stdin = sys.stdin, io.StringIO(typed)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                root.run([*arguments, "--state", str(self.session.state)])
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdin = standard
        return int(str(code or 0)), out.getvalue(), err.getvalue()

    def trace(self, identity: str) -> ledger.TraceResponse:
        """The chain an id belongs to; an empty one while the ledger knows nothing of it."""

        async def asked() -> ledger.TraceResponse:
            async with platform.doors(self.layout) as doors:
                return await doors.ledger.trace(ledger.TraceRequest(living.TENANT, identity), timeout_s=10)

        try:
            return asyncio.run(asked())
        except errors.NotFound:
            return ledger.TraceResponse()

    def counts(self) -> ledger.CountsResponse:
        """What the ledger has in its books."""

        async def asked() -> ledger.CountsResponse:
            async with platform.doors(self.layout) as doors:
                return await doors.ledger.counts(ledger.CountsRequest(living.TENANT, living.LINE), timeout_s=10)

        return asyncio.run(asked())

    def told(self, *arguments: str) -> Any:
        """What a command that succeeds tells a program."""
        code, out, err = self.trimtab(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    def answer(self, choices: int = 1) -> str:
        """The id of a new answer."""
        response = httpx.post(
            f"http://127.0.0.1:{self.session.port}/v1/chat/completions",
            headers={"authorization": f"Bearer {self.session.key}"},
            json={"model": "main", "messages": [{"role": "user", "content": record_cli.QUESTION}], "n": choices},
            timeout=timing.PATIENCE_S,
        )
        assert response.status_code == 200, response.text
        return str(response.json()["id"])


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    session = record_cli.Session(tmp_path_factory.mktemp("session"))
    with session.started():
        yield Recorded(session, session.play())


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Pairs in which the longer answer is better."""
    file = tmp_path_factory.mktemp("sets") / "preferences.jsonl"
    rows = [
        {"prompt": f"Number {number}?", "chosen": f"It is {number}, most red.", "rejected": f"Only {number}."}
        for number in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session")
def reward(recorded: Recorded, preferences: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a reward model with a head of chance, published and announced as one that learned the preferences."""
    manifest = publish_reward(recorded, preferences, tmp_path_factory.mktemp("reward"), seed=1)
    announce(recorded, manifest)
    return manifest.id


def publish_reward(recorded: Recorded, preferences: pathlib.Path, folder: pathlib.Path, seed: int) -> registry.Manifest:
    """A reward model with a head of chance in the registry. Nobody is told of it."""
    import torch

    from trimtab.modeling import loading, rewards

    store = artifacts.open_registry(recorded.layout)
    [policy] = [one.id for one in store.list() if one.kind is models.ModelKind.POLICY and one.method == "imported"]
    made = rewards.from_policy(loading.load_policy(store.fetch(policy)))
    torch.nn.init.normal_(made.model.score.weight, generator=torch.Generator().manual_seed(seed))
    rewards.save_reward_model(made, folder)
    draft = registry.ManifestDraft(
        kind=models.ModelKind.REWARD,
        tenant=living.TENANT,
        line=living.LINE,
        method="chance",
        parents=(policy,),
        datasets=(artifacts.publish_dataset(recorded.layout, preferences, living.TENANT, living.LINE),),
    )
    return store.publish(folder, draft)


def announce(recorded: Recorded, manifest: registry.Manifest) -> None:
    """Puts it on topic `models`, as the trainer does."""
    announcement = artifacts.open_registry(recorded.layout).announcement(manifest)
    with contextlib.closing(connect.open_log(recorded.layout.log_url)) as log:
        publish.publish(log, topics.MODELS, manifest.id.encode(), announcement).result()
