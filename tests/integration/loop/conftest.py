"""One platform for all tests of this folder, a policy small enough to learn to answer within seconds, two tenants."""

import hashlib
import pathlib
import random
from collections.abc import Iterator

import httpx
import openai
import pytest
import torch
from tests.integration.loop import living, teaching

from trimtab.rpc import secrets

torch.set_num_threads(1)

RIVAL, RIVAL_KEY = "rival", "tt-the-key-of-another-tenant"
_QUESTIONS = ("Where is the lamp?", "How do I open the door?", "Which key do I press?")
# Models write brackets too, and what writes them to a screen must not take them for its own.
_WORDS = ("press", "open", "start", "[blue]", "[/menu]", "key", "lamp", "door", "north", "seven", "river", "stone")


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A chat model folder. It answers with six words of twelve: never empty, and hardly ever the same twice."""
    rng = random.Random(1)
    pairs = [(rng.choice(_QUESTIONS), " ".join(rng.choices(_WORDS, k=6))) for _ in range(300)]
    folder = tmp_path_factory.mktemp("chat-model")
    teaching.write_chat_model(folder, pairs)
    return folder


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory, policy: pathlib.Path) -> Iterator[living.Up]:
    """`trimtab up` on a policy folder. A second tenant has a key and nothing else."""
    platform = living.Up(tmp_path_factory.mktemp("up"), policy)
    keys = platform.state / "secrets.toml"
    secrets.create(keys, living.TENANT)
    digest = hashlib.sha256(RIVAL_KEY.encode()).hexdigest()
    with keys.open("a") as file:
        file.write(f'\n[[api_keys]]\nsha256 = "{digest}"\ntenant = "{RIVAL}"\nname = "theirs"\n')
    try:
        platform.start()
        yield platform
    finally:
        platform.destroy()


@pytest.fixture(scope="session")
def client(up: living.Up) -> Iterator[openai.OpenAI]:
    """The official client, as an app would set it up."""
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key=up.api_key()) as client:
        yield client


@pytest.fixture(scope="session")
def http(up: living.Up) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {up.api_key()}"}
    with httpx.Client(base_url=up.url, headers=headers, timeout=30) as http:
        yield http


@pytest.fixture(scope="session")
def rival(up: living.Up) -> Iterator[httpx.Client]:
    """Another tenant of the same platform."""
    with httpx.Client(base_url=up.url, headers={"authorization": f"Bearer {RIVAL_KEY}"}, timeout=30) as http:
        yield http
