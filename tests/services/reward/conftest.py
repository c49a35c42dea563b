"""A real reward service over real files: log, registry, and very small reward models."""

import asyncio
import contextlib
import dataclasses
import datetime
import pathlib
from collections.abc import AsyncIterator

import pytest
import torch

import trimtab_client
from trimtab import registry
from trimtab.bus import connect, publish, topics
from trimtab.core import models, scoring, text
from trimtab.modeling import loading, rewards, tiny
from trimtab.reward import app, settings
from trimtab.rpc import process, secrets
from trimtab.wire import calls

TENANT, LINE = "acme", "support"
AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def item(question: str, answer: str) -> scoring.ScoreItem:
    return scoring.ScoreItem((text.Message(text.Role.USER, text.Text(question)),), text.Text(answer))


def build_reward(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """A reward model with a random head: its scores differ from answer to answer."""
    torch.set_num_threads(1)
    tokenizer = tiny.train_bpe(["where is the setting", "open the menu and look there"], 300)
    model = tiny.tiny_llama(len(tokenizer), seed, hidden=16, layers=1, heads=2, intermediate=32, context=64)
    reward = rewards.from_policy(loading.LoadedPolicy(model, tokenizer, loading.ServingProfile()))
    with torch.no_grad():
        reward.model.score.weight.normal_(generator=torch.Generator().manual_seed(seed))
    rewards.save_reward_model(reward, folder)
    return folder


@dataclasses.dataclass
class Installation:
    folder: pathlib.Path

    @property
    def registry(self) -> registry.Registry:
        return registry.Registry(f"file://{self.folder}/registry", self.folder / "cache")

    def publish(
        self, weights: pathlib.Path, *, kind: models.ModelKind = models.ModelKind.REWARD, passed: bool = True
    ) -> str:
        """Into the registry and onto the topic, as the trainer does."""
        draft = registry.ManifestDraft(
            kind=kind, tenant=TENANT, line=LINE, method="reward", passed=passed, created_at=AT
        )
        model_id = self.registry.publish(weights, draft).id
        model = models.PublishedModel(model_id, text.Context(TENANT, LINE), kind, AT, passed=passed)
        log = connect.open_log(f"sqlite://{self.folder}/log.db")
        publish.publish(log, topics.MODELS, model_id.encode(), model).result(10)
        log.close()
        return model_id

    def flags(self) -> dict[str, str]:
        return {
            "log_url": f"sqlite://{self.folder}/log.db",
            "registry_url": f"file://{self.folder}/registry",
            "cache": f"{self.folder}/cache",
            "lines_file": f"{self.folder}/lines.toml",
            "secrets_file": f"{self.folder}/secrets.toml",
            "drain_s": "1",
        }

    def build(self, **changes: object) -> process.Process:
        return app.build(settings.RewardSettings.model_validate({**self.flags(), **changes}))

    @contextlib.asynccontextmanager
    async def service(self, **changes: object) -> AsyncIterator[calls.RewardCalls]:
        made = self.build(**changes)
        token = made.secrets.internal_token
        async with made.serving() as address, trimtab_client.connect(address, token) as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
            yield calls.RewardCalls(channel)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Five different reward models on disk."""
    root = tmp_path_factory.mktemp("rewards")
    return [build_reward(root / str(seed), seed) for seed in range(5)]


@pytest.fixture
def installation(tmp_path: pathlib.Path) -> Installation:
    secrets.create(tmp_path / "secrets.toml", TENANT)
    (tmp_path / "lines.toml").write_text(f'[lines.{LINE}]\ntenant = "{TENANT}"\n')
    return Installation(tmp_path)
