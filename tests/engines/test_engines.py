"""What every engine keeps, on SmolLM2-135M-Instruct in fp32: `local` in this process, `openai` over a real vLLM, `tgi`
over a server that speaks as text-generation-inference does."""

import asyncio
import contextlib
import dataclasses
import functools
import pathlib
import shutil
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import psutil
import pytest
import torch
from tests import timing
from tests.engines import tgi_server, vllm
from tests.services.policy import harness

from trimtab.core import completions, errors, models
from trimtab.policy import artifact, beside, engine, local, openai, remote, tgi
from trimtab.wire import calls

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
Finish = completions.FinishReason
ENGINES = ("local", "openai", "tgi")
MAX_OPEN = 6
QUESTION = harness.conversation("Name three colours of the rainbow.")
PLAIN = completions.Sampling(1.0, 1.0, 0, 12, seed=7, presence_penalty=0.0, frequency_penalty=0.0)
GREEDY = dataclasses.replace(PLAIN, temperature=0.0)


@dataclasses.dataclass
class Place:
    """A published policy, its verified folder, and a server of each kind that was started on that."""

    installation: harness.Installation
    folder: pathlib.Path
    urls: dict[str, str]


@pytest.fixture(scope="module")
def place(made_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("engines")
    installation = harness.install(folder)
    shutil.rmtree(folder / "weights")
    shutil.copytree(vllm.MODEL, folder / "weights")
    installation.model_id = harness.publish(installation, models.ModelKind.POLICY)
    verified = installation.registry.fetch(installation.model_id)
    with (
        vllm.serving(verified, installation.model_id, folder / "vllm.log", "--dtype=float32") as openai_url,
        tgi_server.serving(verified, folder / "tgi.log") as tgi_url,
    ):
        yield Place(installation, verified, {"openai": openai_url, "tgi": tgi_url})


@pytest.fixture(scope="module")
def weights(place: Place) -> local.Loaded:
    return artifact.load(place.installation.registry, place.installation.settings())


def make(kind: str, place: Place, weights: local.Loaded) -> "local.LocalEngine | remote.RemoteEngine":
    if kind == "local":
        return local.LocalEngine(lambda: weights, max_batch=MAX_OPEN, max_queue=0, context=0)
    url = place.urls[kind]
    config = place.installation.settings(engine=kind, engine_url=url)
    dialect = openai.OpenAI(url, max_open=MAX_OPEN) if kind == "openai" else tgi.TGI(url)
    verified = artifact.verify(place.installation.registry, config)
    return remote.RemoteEngine(lambda: verified, beside.Found(url), dialect, max_open=MAX_OPEN, context=0)


@contextlib.asynccontextmanager
async def running(
    made: "local.LocalEngine | remote.RemoteEngine", stop: threading.Event | None = None
) -> AsyncIterator[engine.Engine]:
    async with harness.thread_of(made, stop):
        yield made


@pytest.fixture(params=ENGINES)
async def served(request: pytest.FixtureRequest, place: Place, weights: local.Loaded) -> AsyncIterator[engine.Engine]:
    async with running(make(request.param, place, weights)) as made:
        yield made


async def answers(
    served: engine.Engine, sampling: completions.Sampling, choices: int = 1, *, stream: bool = False
) -> tuple[list[completions.Response], list[engine.Piece]]:
    prompt = await served.encode(QUESTION)
    async with asyncio.timeout(3 * timing.PATIENCE_S):
        pieces = [piece async for piece in served.generate(prompt, sampling, choices, stream=stream)]
    results = {piece.choice: piece.result for piece in pieces if piece.result is not None}
    assert sorted(results) == list(range(choices))
    return [results[choice] for choice in range(choices)], pieces


def recomputed(weights: local.Loaded, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Log-probs of an answer's tokens under the policy's own weights."""
    with torch.no_grad():
        logits_T_V = weights.policy.model(torch.tensor([[*prompt, *answer]])).logits[0].float()
    scores_T_V = logits_T_V.log_softmax(-1)[len(prompt) - 1 : -1]
    found: list[float] = scores_T_V.gather(1, torch.tensor(answer)[:, None])[:, 0].tolist()
    return found


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, PLAIN, dataclasses.replace(PLAIN, temperature=0.8, top_p=0.9, top_k=20)],
    ids=["greedy", "plain", "shaped"],
)
async def test_raw_logprobs_are_those_of_the_policys_own_weights(
    served: engine.Engine, weights: local.Loaded, sampling: completions.Sampling
) -> None:
    (answer,), _ = await answers(served, sampling)
    prompt = await served.encode(QUESTION)
    assert answer.token_ids
    if sampling.temperature == 0.8 and getattr(CAPABILITIES[OF_THE_POLICY], served.facts().name) == "left empty":
        assert answer.logprobs_raw == ()
        return
    assert answer.logprobs_raw == pytest.approx(recomputed(weights, prompt, answer.token_ids), abs=1e-4)


async def test_engines_agree_to_the_token_when_nothing_is_left_to_chance(place: Place, weights: local.Loaded) -> None:
    said = []
    for kind in ENGINES:
        async with running(make(kind, place, weights)) as made:
            assert made.facts().loaded_digest == weights.digest
            (answer,), _ = await answers(made, dataclasses.replace(GREEDY, max_tokens=30, stop=("blue", "Blue")))
            said.append((answer.token_ids, answer.text, answer.finish_reason))
    assert said[0] == said[1] == said[2]


async def test_a_seed_is_an_answer_and_choices_count_on_from_it(served: engine.Engine) -> None:
    both, _ = await answers(served, PLAIN, 2)
    (second,), _ = await answers(served, dataclasses.replace(PLAIN, seed=8))
    assert both[0].token_ids != both[1].token_ids
    assert second.token_ids == both[1].token_ids


async def test_an_answer_ends_before_a_stop_string_and_at_the_end_token(served: engine.Engine) -> None:
    (whole,), _ = await answers(served, dataclasses.replace(GREEDY, max_tokens=200))
    assert whole.finish_reason is Finish.STOP
    said = whole.text.read()
    stop = said[len(said) // 2 :][:3]
    (cut,), _ = await answers(served, dataclasses.replace(GREEDY, max_tokens=200, stop=(stop,)))
    assert cut.finish_reason is Finish.STOP
    assert cut.text.read() == said[: said.index(stop)]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]


async def test_a_stream_says_the_whole_answer_with_every_token_once(served: engine.Engine) -> None:
    asked = dataclasses.replace(PLAIN, logprobs=True, top_logprobs=3)
    (answer,), pieces = await answers(served, asked, stream=True)
    assert len(pieces) > 2
    assert "".join(piece.delta for piece in pieces) == answer.text.read()
    details = [piece.detail for piece in pieces if piece.detail is not None]
    assert tuple(token for detail in details for token in detail.token_ids) == answer.token_ids
    assert tuple(token for detail in details for token in detail.tokens) == answer.tokens
    for items in answer.top_logprobs:
        ranked = [item.logprob for item in items.items]
        assert len(ranked) == 3
        assert ranked == sorted(ranked, reverse=True)


async def test_who_goes_away_frees_the_room_and_gets_what_there_is(served: engine.Engine, place: Place) -> None:
    long = dataclasses.replace(PLAIN, max_tokens=1500, temperature=2.0)
    prompt = await served.encode(QUESTION)
    generation = served.generate(prompt, long, MAX_OPEN, stream=True)
    with pytest.raises(errors.Overloaded, match="at most 6"):
        served.generate(prompt, long, 1, stream=False)
    pieces = []
    async with asyncio.timeout(3 * timing.PATIENCE_S):
        async for piece in generation:
            if not pieces:
                generation.cancel()
            pieces.append(piece)
    results = [piece.result for piece in pieces if piece.result is not None]
    assert [result.finish_reason for result in results] == [Finish.CANCELLED] * MAX_OPEN
    assert any(0 < len(result.token_ids) < 1500 for result in results)
    await answers(served, GREEDY, MAX_OPEN)
    for url in place.urls.values():
        await asyncio.to_thread(timing.until, functools.partial(is_idle, url), f"room at {url}")


def is_idle(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/metrics", timeout=timing.PATIENCE_S) as response:
        lines = response.read().decode().splitlines()
    running = ("vllm:num_requests_running", "tgi_batch_current_size")
    return not sum(float(line.split()[-1]) for line in lines if line.startswith(running))


async def test_when_the_process_ends_what_is_under_way_ends_cancelled(place: Place, weights: local.Loaded) -> None:
    for kind in ENGINES:
        stop = threading.Event()
        async with running(make(kind, place, weights), stop) as made:
            asked = dataclasses.replace(PLAIN, max_tokens=1500, temperature=2.0)
            generation = made.generate(await made.encode(QUESTION), asked, 1, stream=True)
            pieces = []
            async for piece in generation:
                stop.set()
                pieces.append(piece)
            assert pieces[-1].result is not None
            assert pieces[-1].result.finish_reason is Finish.CANCELLED
            with pytest.raises(errors.ServiceUnavailable):
                made.generate(await made.encode(QUESTION), asked, 1, stream=True)


@dataclasses.dataclass(frozen=True)
class Capability:
    """What an engine does with a request. refuses: the field it names; or whether it says what was drawn from."""

    sampling: dict[str, Any]
    local: str
    openai: str
    tgi: str


# each parameter beyond its default, and what becomes of it: the table of docs/concepts/engines.md
OF_THE_POLICY, OF_WHAT_WAS_SAMPLED = "log-probs of the policy itself", "log-probs of what was sampled from"
CAPABILITIES = {
    "temperature below 0.01": Capability({"temperature": 0.001}, "yes", "refused", "yes"),
    OF_THE_POLICY: Capability({"temperature": 0.5}, "yes", "yes", "left empty"),
    OF_WHAT_WAS_SAMPLED: Capability({"temperature": 0.5}, "yes", "left empty", "yes"),
    "top-p": Capability({"top_p": 0.5}, "yes", "yes", "yes"),
    "top-k": Capability({"top_k": 2}, "yes", "yes", "yes"),
    "presence penalty": Capability({"presence_penalty": 1.0}, "yes", "yes", "refused"),
    "frequency penalty": Capability({"frequency_penalty": 1.0}, "yes", "yes", "refused"),
}


@pytest.mark.parametrize("name", CAPABILITIES)
@pytest.mark.parametrize("kind", ENGINES)
async def test_a_parameter_is_honoured_or_refused_by_name(
    kind: str, name: str, place: Place, weights: local.Loaded
) -> None:
    expected = getattr(CAPABILITIES[name], kind)
    asked = dataclasses.replace(PLAIN, **CAPABILITIES[name].sampling)
    async with running(make(kind, place, weights)) as made:
        if CAPABILITIES[name].sampling.keys() & set(made.facts().unsupported):
            assert expected == "refused"  # by name, in `policy.validation`
            return
        if expected == "refused":
            with pytest.raises(errors.InvalidField) as refused:
                await answers(made, asked)
            assert refused.value.field in CAPABILITIES[name].sampling
            return
        (answer,), _ = await answers(made, asked)
        (plain,), _ = await answers(made, PLAIN)
        assert answer.token_ids != plain.token_ids
        assert bool(answer.logprobs_raw) == (getattr(CAPABILITIES[OF_THE_POLICY], kind) == "yes")
        assert bool(answer.logprobs_sampled) == (getattr(CAPABILITIES[OF_WHAT_WAS_SAMPLED], kind) == "yes")


def test_the_page_shows_this_table() -> None:
    page = pathlib.Path(__file__).parents[2] / "docs/concepts/engines.md"
    for name, capability in CAPABILITIES.items():
        assert f"| {name} | {capability.local} | {capability.openai} | {capability.tgi} |" in page.read_text()


async def until_answered(policy: calls.PolicyCalls, asked: completions.CompleteRequest) -> completions.CompleteResponse:
    async with asyncio.timeout(vllm.START_S):
        while True:
            with contextlib.suppress(errors.ServiceUnavailable):
                return await policy.complete(asked)
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("kind", ["openai", "tgi"])
async def test_a_policy_process_answers_by_the_engine_beside_it(kind: str, place: Place, weights: local.Loaded) -> None:
    given = {"engine": kind, "engine_url": place.urls[kind]}
    asked = harness.request("Name three colours of the rainbow.", temperature=0.0, max_tokens=8)
    with harness.started(place.installation, **given) as process:
        async with process.calls() as policy:
            answer = await until_answered(policy, asked)
            described = await policy.describe()
    assert (described.engine, described.loaded_digest) == (kind, weights.digest)
    record = place.installation.until_recorded(harness.identity(asked))
    assert record.responses[0].token_ids == answer.completion.responses[0].token_ids
    assert record.engine == kind


@pytest.mark.parametrize("kind", ["openai", "tgi"])
def test_an_engine_on_another_policys_bytes_is_refused(kind: str, place: Place) -> None:
    """The process ends, with a sentence that says what to start."""
    other = dataclasses.replace(place.installation, model_id="")
    (other.folder / "weights" / "profile.json").write_text('{"max_tokens": 5}')
    other.model_id = harness.publish(other, models.ModelKind.POLICY)
    with harness.started(other, engine=kind, engine_url=place.urls[kind]) as process:
        assert process.process.wait(timing.PATIENCE_S) == 1
    said = (other.folder / "policy.log").read_text()
    assert "A shared remote engine cannot prove which weights it serves" in said


async def test_a_policy_process_starts_an_engine_of_its_own_and_ends_with_it(
    place: Place, weights: local.Loaded
) -> None:
    asked = harness.request("Name three colours of the rainbow.", temperature=0.0, max_tokens=8)
    with harness.started(
        place.installation, engine="openai", engine_command=f"{vllm.COMMAND} --dtype=float32"
    ) as process:
        async with process.calls() as policy:
            await until_answered(policy, asked)
            described = await policy.describe()
        (served,) = psutil.Process(process.process.pid).children()
        below = served.children(recursive=True)
        served.kill()
        assert process.process.wait(timing.PATIENCE_S) == 1
        gone, alive = psutil.wait_procs([served, *below], timing.PATIENCE_S)
    assert (described.engine, described.loaded_digest) == ("openai", weights.digest)
    assert served in gone and below and not alive
    assert "The engine of this policy ended with signal 9" in (place.installation.folder / "policy.log").read_text()
