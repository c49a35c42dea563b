"""One platform for all tests of this folder, a policy small enough to learn to answer within seconds, two tenants."""

import hashlib
import pathlib
import random
from collections.abc import Iterator

import httpx
import openai
import pytest
import torch
import transformers
from tests.integration.loop import living

from trimtab.modeling import loading, tiny
from trimtab.rpc import secrets

torch.set_num_threads(1)

RIVAL, RIVAL_KEY = "rival", "tt-the-key-of-another-tenant"
CONTEXT = 128
_QUESTIONS = ("Where is the lamp?", "How do I open the door?", "Which key do I press?")
# Models write brackets too, and what writes them to a screen must not take them for its own.
_WORDS = ("press", "open", "start", "[blue]", "[/menu]", "key", "lamp", "door", "north", "seven", "river", "stone")


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A chat model folder. It answers with six words of twelve: never empty, and hardly ever the same twice."""
    rng = random.Random(1)
    pairs = [(rng.choice(_QUESTIONS), " ".join(rng.choices(_WORDS, k=6))) for _ in range(300)]
    tokenizer = tiny.train_bpe([text for pair in pairs for text in pair], vocab_size=320)
    model = tiny.tiny_llama(len(tokenizer), 1, hidden=32, layers=2, heads=2, intermediate=64, context=CONTEXT)
    _teach(model, [_tokens(tokenizer, question, answer) for question, answer in pairs[:32]])
    folder = tmp_path_factory.mktemp("chat-model")
    loading.save_policy(model, tokenizer, loading.ServingProfile(max_tokens=16, top_p=0.95), folder)
    return folder


def _tokens(tokenizer: transformers.PreTrainedTokenizerFast, question: str, answer: str) -> tuple[list[int], list[int]]:
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, answer + tiny.END))


def _teach(model: transformers.LlamaForCausalLM, rows: list[tuple[list[int], list[int]]], steps: int = 50) -> None:
    longest = max(len(asked) + len(answer) for asked, answer in rows)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)
    for row, (asked, answer) in enumerate(rows):
        whole = len(asked) + len(answer)
        ids[row, :whole] = torch.tensor(asked + answer)
        labels[row, len(asked) : whole] = torch.tensor(answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        # padding follows what it could disturb, so causal attention needs no mask
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


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
