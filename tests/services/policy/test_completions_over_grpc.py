"""The policy process as its callers see it: a real process, real calls, and what is in the log afterwards."""

import asyncio
import dataclasses
import signal
from typing import Any

import pytest
import torch
from tests import timing
from tests.services.policy import harness
from tests.services.policy.harness import Installation, Running, identity, request

import trimtab_client
from trimtab.core import completions, errors, text, wording
from trimtab.modeling import loading
from trimtab.wire import calls

Finish = completions.FinishReason


def raw_logprobs(installation: Installation, completion: completions.Completion, choice: int) -> torch.Tensor:
    """By one full pass of the published policy over what was recorded."""
    policy = loading.load_policy(installation.registry.fetch(completion.policy_id))
    answer = completion.responses[choice].token_ids
    with torch.no_grad():
        logits = policy.model(torch.tensor([completion.prompt_token_ids + answer])).logits[0].float()
    picked = logits[len(completion.prompt_token_ids) - 1 : -1].log_softmax(-1)
    return picked.gather(1, torch.tensor(answer)[:, None]).squeeze(1)


async def test_a_completion_is_in_the_log_when_it_is_answered(
    policy: calls.PolicyCalls, installation: Installation
) -> None:
    asked = request("Where is the tone?", n=3, seed=5, temperature=0.7, top_p=0.9)
    asked = dataclasses.replace(asked, segment="mobile-de")
    answer = await policy.complete(asked)
    recorded = installation.records()[identity(asked)]
    assert recorded == answer.completion
    assert recorded.policy_id == installation.model_id
    assert recorded.loaded_digest == installation.registry.manifest(installation.model_id).loaded_digest
    assert (recorded.prompt, recorded.segment) == (asked.messages, "mobile-de")
    assert asked.assignment is not None
    assert recorded.context == asked.assignment.context
    assert recorded.exposure == asked.assignment.exposure
    assert [response.choice for response in recorded.responses] == [0, 1, 2]
    assert len({response.token_ids for response in recorded.responses}) == 3
    assert 0 < recorded.time_to_first_token_s <= recorded.latency_s
    tokens = sum(len(response.token_ids) for response in recorded.responses)
    assert answer.usage == completions.Usage(len(recorded.prompt_token_ids), tokens)
    assert recorded.measured is not None
    assert recorded.measured.tokens == pytest.approx(tokens / 3)
    said = [wording.repeats_itself(response.text.read()) for response in recorded.responses]
    assert recorded.measured.repeats == pytest.approx(sum(said) / 3)
    for choice in range(3):
        expected = raw_logprobs(installation, recorded, choice)
        found = torch.tensor(recorded.responses[choice].logprobs_raw)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


async def test_the_record_says_what_was_used_not_what_was_asked(
    policy: calls.PolicyCalls, installation: Installation
) -> None:
    asked = request(max_tokens=None)
    used = (await policy.complete(asked)).completion.sampling
    assert used is not None
    assert (used.temperature, used.top_p, used.top_k, used.max_tokens) == (0.8, 1.0, 0, 20)
    assert used.seed is not None
    again = await policy.complete(dataclasses.replace(request(), sampling=used))
    first = installation.records()[identity(asked)]
    assert again.completion.responses[0].token_ids == first.responses[0].token_ids


async def test_choices_have_the_seeds_that_follow(policy: calls.PolicyCalls) -> None:
    both = (await policy.complete(request(n=2, seed=40))).completion.responses
    second = (await policy.complete(request(seed=41))).completion.responses[0]
    assert both[1].token_ids == second.token_ids


async def test_many_at_once_answer_as_each_would_alone(policy: calls.PolicyCalls) -> None:
    asked = [request(f"Where is tone {number}?", seed=number, max_tokens=5 + number) for number in range(12)]
    together = await asyncio.gather(*(policy.complete(one) for one in asked))
    for one, answer in zip(asked, together, strict=True):
        repeated = dataclasses.replace(request(), messages=one.messages, sampling=one.sampling)
        alone = await policy.complete(repeated)
        assert answer.completion.responses[0].token_ids == alone.completion.responses[0].token_ids


async def test_a_stream_sums_to_the_answer_and_ends_after_the_record(
    policy: calls.PolicyCalls, installation: Installation
) -> None:
    asked = request(n=2, seed=3, max_tokens=30)
    whole = (await policy.complete(dataclasses.replace(request(n=2), sampling=asked.sampling))).completion
    texts, usage = ["", ""], None
    finished: list[int] = []
    async for event in policy.stream_complete(asked):
        assert event.completion_id == identity(asked)
        assert event.policy_id == installation.model_id
        texts[event.choice] += event.delta
        if event.finish_reason is not None:
            finished.append(event.choice)
        if event.usage is not None:
            usage = event.usage
            assert identity(asked) in installation.records()
    assert texts == [response.text.read() for response in whole.responses]
    assert sorted(finished) == [0, 1]
    assert usage is not None
    assert usage.completion_tokens == sum(len(response.token_ids) for response in whole.responses)


async def test_log_probs_come_when_asked_for_and_are_not_stored_twice(
    policy: calls.PolicyCalls, installation: Installation
) -> None:
    settings: dict[str, Any] = {"seed": 1, "logprobs": True, "top_logprobs": 2}
    asked = request(**settings)
    response = (await policy.complete(asked)).completion.responses[0]
    assert len(response.tokens) == len(response.top_logprobs) == len(response.token_ids)
    assert "".join(response.tokens).startswith(response.text.read())
    assert all(len(alternatives.items) == 2 for alternatives in response.top_logprobs)
    stored = installation.records()[identity(asked)].responses[0]
    assert (stored.tokens, stored.top_logprobs) == ((), ())
    assert stored.logprobs_raw == response.logprobs_raw
    streamed: list[int] = []
    raws: list[float] = []
    async for event in policy.stream_complete(request(**settings)):
        if event.detail is not None:
            streamed += event.detail.token_ids
            raws += event.detail.logprobs_raw
            assert len(event.detail.top_logprobs) == len(event.detail.tokens) == len(event.detail.token_ids)
    assert tuple(streamed) == response.token_ids
    assert raws == pytest.approx(response.logprobs_raw, abs=1e-5)


async def test_without_consent_nothing_that_was_said_is_kept(
    policy: calls.PolicyCalls, installation: Installation
) -> None:
    asked = request("My secret is tone.", store=False, temperature=0.0, stop=("secret",))
    answer = await policy.complete(asked)
    assert answer.completion.responses[0].token_ids
    recorded = installation.records()[identity(asked)]
    assert (recorded.prompt, recorded.prompt_token_ids) == ((), ())
    assert recorded.responses == (completions.Response(0, text.Text(""), finish_reason=Finish.LENGTH),)
    assert recorded.measured is not None
    assert recorded.measured.tokens == len(answer.completion.responses[0].token_ids)
    assert b"secret" not in b"".join(path.read_bytes() for path in installation.folder.glob("log.db*"))


async def test_a_caller_who_goes_away_frees_the_slot_and_leaves_a_record(
    policy: calls.PolicyCalls, installation: Installation
) -> None:
    asked = request(temperature=0.0, max_tokens=4000)
    seen = 0
    async for event in policy.stream_complete(asked):
        seen = event.tokens
        if seen >= 3:
            break
    recorded = await asyncio.to_thread(installation.until_recorded, identity(asked))
    response = recorded.responses[0]
    assert response.finish_reason is Finish.CANCELLED
    assert seen <= len(response.token_ids) < 4000
    assert len(response.logprobs_raw) == len(response.token_ids)


async def test_a_deadline_that_passes_is_an_error_and_ends_the_generation(
    policy: calls.PolicyCalls, installation: Installation
) -> None:
    asked = request(temperature=0.0, max_tokens=4000)
    with pytest.raises(errors.DeadlineExceeded):
        await policy.complete(asked, timeout_s=0.3)
    recorded = await asyncio.to_thread(installation.until_recorded, identity(asked))
    assert recorded.responses[0].finish_reason is Finish.CANCELLED


async def test_describe_says_what_was_loaded(policy: calls.PolicyCalls, installation: Installation) -> None:
    digest = installation.registry.manifest(installation.model_id).loaded_digest
    assert await policy.describe() == completions.DescribeResponse(installation.model_id, digest, "local", 4096)


BAD_REQUESTS: dict[str, tuple[completions.CompleteRequest, type[errors.TrimtabError], str]] = {
    "no assignment": (dataclasses.replace(request(), assignment=None), errors.InvalidField, "assignment"),
    "no messages": (dataclasses.replace(request(), messages=()), errors.InvalidField, "messages"),
    "blank content": (request("hi", "yes", "  \n"), errors.InvalidField, "messages[2].content"),
    "oversized content": (request("ü" * 33_000), errors.InvalidField, "messages[0].content"),
    "assistant last": (request("hi", "yes"), errors.InvalidField, "messages[1].role"),
    "too hot": (request(temperature=2.5), errors.InvalidField, "temperature"),
    "no number": (request(temperature=float("nan")), errors.InvalidField, "temperature"),
    "top_p of 0": (request(top_p=0.0), errors.InvalidField, "top_p"),
    "no tokens": (request(max_tokens=0), errors.InvalidField, "max_tokens"),
    "penalty": (request(presence_penalty=-3.0), errors.InvalidField, "presence_penalty"),
    "empty stop": (request(stop=("x", "")), errors.InvalidField, "stop[1]"),
    "many stops": (request(stop=tuple("abcdefghijklmnopq")), errors.InvalidField, "stop"),
    "top_logprobs alone": (request(top_logprobs=2), errors.InvalidField, "top_logprobs"),
    "many choices": (request(n=129), errors.InvalidField, "n"),
    "long prompt": (request("x?! " * 3000), errors.PromptTooLong, "messages"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_wrong_request_names_its_field_and_leaves_nothing(
    policy: calls.PolicyCalls, installation: Installation, name: str
) -> None:
    asked, kind, field = BAD_REQUESTS[name]
    before = installation.records()
    with pytest.raises(kind) as refused:
        await policy.complete(asked)
    assert refused.value.details["field"] == field
    with pytest.raises(kind):
        await anext(aiter(policy.stream_complete(asked)))
    assert installation.records() == before


async def test_another_line_is_not_answered_here(policy: calls.PolicyCalls) -> None:
    asked = request()
    assert asked.assignment is not None
    context = dataclasses.replace(asked.assignment.context, line="sales")
    with pytest.raises(errors.InvalidField, match="sales"):
        await policy.complete(
            dataclasses.replace(asked, assignment=dataclasses.replace(asked.assignment, context=context))
        )


async def test_a_caller_without_the_internal_token_is_refused(running: Running) -> None:
    async with trimtab_client.connect(running.address, "guessed") as channel:
        with pytest.raises(errors.NotAuthenticated):
            await calls.PolicyCalls(channel).complete(request())


async def test_max_tokens_end_with_the_context(policy: calls.PolicyCalls) -> None:
    answer = await policy.complete(request("x?! " * 1010, max_tokens=10**6))
    sampling = answer.completion.sampling
    assert sampling is not None
    assert sampling.max_tokens == 4096 - answer.usage.prompt_tokens


def test_sigterm_lets_a_stream_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    asked = request(temperature=0.0, max_tokens=400)
    installation = harness.install(tmp_path_factory.mktemp("drain"))

    async def follow(running: Running) -> completions.Usage | None:
        async with running.calls() as policy:
            events = policy.stream_complete(asked)
            await anext(events)
            running.process.send_signal(signal.SIGTERM)
            return [event.usage async for event in events][-1]

    with harness.started(installation, drain_s=30) as running:
        usage = asyncio.run(follow(running))
        assert running.process.wait(timing.PATIENCE_S) == 0
    assert usage is not None
    assert usage.completion_tokens == 400
    assert installation.records()[identity(asked)].responses[0].finish_reason is Finish.LENGTH


def test_what_the_drain_cannot_finish_is_recorded_as_cancelled(tmp_path_factory: pytest.TempPathFactory) -> None:
    asked = request(temperature=0.0, max_tokens=4000)
    installation = harness.install(tmp_path_factory.mktemp("cut"))

    async def follow(running: Running) -> None:
        async with running.calls() as policy:
            events = policy.stream_complete(asked)
            await anext(events)
            running.process.send_signal(signal.SIGTERM)
            async for _ in events:
                pass

    with harness.started(installation, drain_s=0.5) as running:
        with pytest.raises(errors.TrimtabError):
            asyncio.run(follow(running))
        assert running.process.wait(timing.PATIENCE_S) == 0
    response = installation.records()[identity(asked)].responses[0]
    assert response.finish_reason is Finish.CANCELLED
    assert 0 < len(response.token_ids) < 4000
