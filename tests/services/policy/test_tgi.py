"""The engine `tgi` over a server that speaks as text-generation-inference does, on a very small policy."""

import asyncio
import contextlib
import dataclasses
import pathlib
import shutil
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import torch
from tests import timing
from tests.engines import tgi_server
from tests.services.policy import harness

from trimtab.core import completions, errors
from trimtab.modeling import loading
from trimtab.policy import artifact, beside, engine, local, remote, tgi

PLAIN = completions.Sampling(1.0, 1.0, 0, 12, seed=7, presence_penalty=0.0, frequency_penalty=0.0)
QUESTION = harness.conversation("Where is the tone?", "Open Sound. Grüße 🙂", "And then?")


@dataclasses.dataclass(frozen=True)
class Place:
    installation: harness.Installation
    folder: pathlib.Path
    url: str


@pytest.fixture(scope="module")
def policy_of(tmp_path_factory: pytest.TempPathFactory) -> harness.Installation:
    return harness.install(tmp_path_factory.mktemp("tgi"))


@contextlib.contextmanager
def place(installation: harness.Installation, fault: str = "") -> Iterator[Place]:
    folder = installation.registry.fetch(installation.model_id)
    with tgi_server.serving(folder, installation.folder / "tgi.log", fault) as url:
        yield Place(installation, folder, url)


@pytest.fixture(scope="module")
def well(policy_of: harness.Installation) -> Iterator[Place]:
    with place(policy_of) as served:
        yield served


@contextlib.asynccontextmanager
async def running(at: Place) -> AsyncIterator[remote.RemoteEngine]:
    config = at.installation.settings(engine="tgi", engine_url=at.url)
    verified = artifact.verify(at.installation.registry, config)
    made = remote.RemoteEngine(lambda: verified, beside.Found(at.url), tgi.TGI(at.url), max_open=4, context=0)
    async with harness.thread_of(made):
        yield made


async def answer(made: engine.Engine, sampling: completions.Sampling) -> completions.Response:
    prompt = await made.encode(QUESTION)
    async with asyncio.timeout(timing.PATIENCE_S):
        pieces = [piece async for piece in made.generate(prompt, sampling, 1, stream=True)]
    assert pieces[-1].result is not None
    assert "".join(piece.delta for piece in pieces) == pieces[-1].result.text.read()
    return pieces[-1].result


def logprobs(loaded: local.Loaded, prompt: tuple[int, ...], said: tuple[int, ...], temperature: float) -> list[float]:
    with torch.no_grad():
        logits_T_V = loaded.policy.model(torch.tensor([[*prompt, *said]])).logits[0].float()
    scores_T_V = (logits_T_V / temperature).log_softmax(-1)[len(prompt) - 1 : -1]
    return [float(row[token]) for row, token in zip(scores_T_V, said, strict=True)]


async def test_logprobs_are_those_of_the_distribution_they_are_said_to_be_of(well: Place) -> None:
    loaded = artifact.load(well.installation.registry, well.installation.settings())
    async with running(well) as made:
        prompt = await made.encode(QUESTION)
        plain = await answer(made, PLAIN)
        greedy = await answer(made, dataclasses.replace(PLAIN, temperature=0.0))
        warm = await answer(made, dataclasses.replace(PLAIN, temperature=0.7))
    for said in (plain, greedy):
        assert said.logprobs_raw == pytest.approx(logprobs(loaded, prompt, said.token_ids, 1.0), abs=1e-4)
    assert plain.logprobs_sampled == plain.logprobs_raw
    assert set(greedy.logprobs_sampled) == {0.0}
    assert warm.logprobs_raw == ()
    assert warm.logprobs_sampled == pytest.approx(logprobs(loaded, prompt, warm.token_ids, 0.7), abs=1e-4)


async def test_a_greedy_answer_is_the_local_engines(well: Place) -> None:
    loaded = artifact.load(well.installation.registry, well.installation.settings())
    here = local.LocalEngine(lambda: loaded, max_batch=1, max_queue=0, context=0)
    asked = dataclasses.replace(PLAIN, temperature=0.0, logprobs=True, top_logprobs=3)
    async with harness.thread_of(here), running(well) as made:
        expected = await answer(here, asked)
        said = await answer(made, asked)
    assert (said.token_ids, said.text, said.finish_reason) == (
        expected.token_ids,
        expected.text,
        expected.finish_reason,
    )
    for mine, theirs in zip(said.top_logprobs, expected.top_logprobs, strict=True):
        assert [item.token_id for item in mine.items] == [item.token_id for item in theirs.items]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"logprobs": True, "temperature": 0.7}, "`logprobs` are those of the policy itself"),
        ({"top_logprobs": 9, "logprobs": True}, "`top_logprobs` were refused by the engine .*<= 5"),
        ({"max_tokens": 5000}, "`messages` were refused by the engine .*<= 2048"),
    ],
)
async def test_what_it_cannot_do_is_refused_by_name(well: Place, changes: dict[str, object], problem: str) -> None:
    async with running(well) as made:
        with pytest.raises(errors.InvalidField, match=problem):
            await answer(made, dataclasses.replace(PLAIN, **changes))
        assert set(made.facts().unsupported) == {"presence_penalty", "frequency_penalty"}
        assert made.facts().context_tokens == 2048  # its, not the policy's 4,096


async def test_a_prompt_whose_text_reads_as_other_tokens_is_refused(well: Place) -> None:
    tokenizer = loading.load_front(well.folder).tokenizer
    word = tokenizer(" tone", add_special_tokens=False)["input_ids"]
    letters = [one for letter in " tone" for one in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    assert len(letters) > len(word)
    async with running(well) as made:
        with pytest.raises(errors.InvalidField, match="read as other tokens once they are text"):
            made.generate(tuple(letters), PLAIN, 1, stream=False)


@pytest.mark.parametrize(
    ("fault", "kind", "problem"),
    [
        ("overloaded", errors.Overloaded, "has no room .*; retry with back-off"),
        ("generation", engine.EngineFailed, "failed in an answer .*out of memory"),
        ("breaks", engine.EngineFailed, "failed in an answer"),
    ],
)
async def test_a_server_in_trouble_is_said_in_a_sentence(
    policy_of: harness.Installation, fault: str, kind: type[Exception], problem: str
) -> None:
    with place(policy_of, fault) as served, pytest.raises(kind, match=problem):
        [_ async for _ in tgi.TGI(served.url).chunks(tgi.Body("Where is the tone?", {"max_new_tokens": 9}))]


async def test_a_server_that_is_away_is_asked_for_by_another_process(well: Place) -> None:
    dialect = tgi.TGI("http://127.0.0.1:1")
    with pytest.raises(errors.ServiceUnavailable, match=r"http://127\.0\.0\.1:1 is away .*; retry"):
        [_ async for _ in dialect.chunks(tgi.Body("Where?", {"max_new_tokens": 3}))]


def refusal(installation: harness.Installation, url: str) -> str:
    """What a policy process says that ends because of its engine."""
    with harness.started(installation, engine="tgi", engine_url=url) as process:
        assert process.process.wait(timing.PATIENCE_S) == 1
    return (installation.folder / "policy.log").read_text()


def test_one_that_reads_other_tokens_ends_the_process(policy_of: harness.Installation) -> None:
    with place(policy_of, "other-tokens") as served:
        assert "reads 'Grüße 🙂 1 + 1?\\\\n' as tokens (0, " in refusal(policy_of, served.url)


def test_one_on_another_folder_cannot_prove_what_it_serves(
    policy_of: harness.Installation, tmp_path: pathlib.Path
) -> None:
    folder = policy_of.registry.fetch(policy_of.model_id)
    shutil.copytree(folder, tmp_path / "copy")
    with tgi_server.serving(tmp_path / "copy", tmp_path / "log") as url:
        said = refusal(policy_of, url)
    assert (
        f"A shared remote engine cannot prove which weights it serves: {url} was started on '{tmp_path}/copy'" in said
    )
    assert f"`text-generation-launcher --model-id={folder.resolve()} --hostname=127.0.0.1" in said


def test_one_that_was_started_before_the_folder_cannot_prove_it(policy_of: harness.Installation) -> None:
    with place(policy_of) as served:
        time.sleep(3.0)  # a process's start is believed to the second
        (served.folder / "config.json").touch()
        assert "was started before the verified folder was made" in refusal(policy_of, served.url)
