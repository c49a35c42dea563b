"""From an app's first question to an example in the ledger: real processes, the official client, a real model."""

import dataclasses
import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from tests.integration.loop import living

from trimtab.core import examples, ledger, text
from trimtab.rpc import ports

pytestmark = pytest.mark.slow
QUESTION: Any = [{"role": "user", "content": "Where is the lamp?"}]
ACROSS_THE_CONTEXT = "Where is the lamp? " * 100


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer as an app keeps it until its user has an opinion."""

    id: str
    texts: tuple[str, ...]
    fingerprint: str


def ask(client: openai.OpenAI, n: int = 1, **more: Any) -> Answer:
    reply = client.chat.completions.create(**{"model": living.LINE, "messages": QUESTION, "n": n} | more)
    texts = tuple(choice.message.content or "" for choice in reply.choices)
    return Answer(reply.id, texts, reply.system_fingerprint or "")


def ask_streaming(client: openai.OpenAI) -> Answer:
    with client.chat.completions.create(model=living.LINE, messages=QUESTION, stream=True) as stream:
        chunks = list(stream)
    [completion_id] = {chunk.id for chunk in chunks}
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] in {"stop", "length"}
    body = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return Answer(completion_id, (body,), chunks[0].system_fingerprint or "")


def vote(http: httpx.Client, completion_id: str, value: str = "up", **more: Any) -> dict[str, Any]:
    """An acknowledged thumb."""
    response = http.post("/v1/feedback", json={"completion_id": completion_id, "value": value} | more)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_the_models_of_the_tenant_are_listed_and_each_can_be_asked(client: openai.OpenAI, rival: httpx.Client) -> None:
    listed = list(client.models.list())
    assert listed[0].id == living.LINE
    assert {model.owned_by for model in listed} == {living.TENANT}
    fingerprints = {ask(client, model=model.id).fingerprint for model in listed}
    assert len(fingerprints) == 1
    assert listed[-1].id.startswith(f"{living.LINE}@{fingerprints.pop()}")
    assert rival.get("/v1/models").json()["data"] == []


@pytest.mark.parametrize("way", ["at once", "streamed", "two choices"])
def test_a_thumb_by_the_id_of_an_answer_becomes_an_example(
    up: living.Up, client: openai.OpenAI, http: httpx.Client, way: str
) -> None:
    before = up.books().counts
    answer = ask_streaming(client) if way == "streamed" else ask(client, n=2 if way == "two choices" else 1)
    assert all(body.strip() for body in answer.texts)
    choice = len(answer.texts) - 1
    said = vote(http, answer.id, "down", choice=choice)
    assert (said["status"], said["duplicate"]) == ("accepted", False)
    after = up.books().counts
    assert (after.completions, after.joined, after.examples) == (
        before.completions + 1,
        before.joined + 1,
        before.examples + 1,
    )
    assert after.feedback == before.feedback + 1
    [example] = up.trace(said["id"]).examples
    assert example.kind == examples.ThumbExample(text.Text(answer.texts[choice]), up=False)


def test_a_comparison_of_two_choices_becomes_an_example(
    up: living.Up, client: openai.OpenAI, http: httpx.Client
) -> None:
    before = up.books().counts
    answer = ask(client, n=2)
    sides = {"preferred": {"choice": 1}, "rejected": {"choice": 0}}
    response = http.post("/v1/feedback", json={"kind": "comparison", "completion_id": answer.id} | sides)
    assert response.status_code == 200, response.text
    after = up.books().counts
    assert (after.joined, after.examples) == (before.joined + 1, before.examples + 1)
    [example] = up.trace(response.json()["id"]).examples
    rejected, chosen = (text.Text(body) for body in answer.texts)
    assert example.kind == examples.PairExample(chosen, rejected)


def test_the_same_feedback_id_twice_counts_once_and_with_another_body_not_at_all(
    up: living.Up, client: openai.OpenAI, http: httpx.Client
) -> None:
    answer, before = ask(client), up.books().counts
    same = {"id": f"click-{uuid.uuid4()}"}
    assert [vote(http, answer.id, **same)["duplicate"] for _ in range(3)] == [False, True, True]
    changed = http.post("/v1/feedback", json={"completion_id": answer.id, "value": "down"} | same)
    assert changed.status_code == 409
    error = changed.json()["error"]
    assert (error["code"], error["param"]) == ("conflicting_feedback", "id")
    assert "`supersedes`" in error["message"]
    after = up.books().counts
    assert (after.feedback, after.joined, after.examples, after.conflicts) == (
        before.feedback + 1,
        before.joined + 1,
        before.examples + 1,
        before.conflicts,
    )


def told(up: living.Up, identity: str) -> Any:
    """What `trimtab feedback trace --json` tells a program."""
    ended = living.trimtab("feedback", "trace", identity, "--state", str(up.state), "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def test_a_trace_of_any_id_of_a_chain_shows_the_whole_chain(
    up: living.Up, client: openai.OpenAI, http: httpx.Client
) -> None:
    answer = ask(client)
    said = vote(http, answer.id, surface="help page")
    up.books()
    chain = told(up, answer.id)
    [completion], [traced], [example] = chain["completions"], chain["feedback"], chain["examples"]
    assert completion["id"] == answer.id
    assert completion["policy_id"].startswith(answer.fingerprint)
    assert [response["text"]["body"] for response in completion["responses"]] == list(answer.texts)
    assert (traced["event"]["id"], traced["status"]) == (said["id"], "joined")
    assert traced["event"]["kind"] == {
        "type": "Thumb",
        "target": {"completion_id": answer.id, "choice": 0},
        "up": True,
    }
    assert (example["feedback_id"], example["surface"]) == (said["id"], "help page")
    assert example["prompt"][-1]["content"]["body"] == QUESTION[0]["content"]
    assert up.trace(example["id"]) == up.trace(said["id"]) == up.trace(answer.id)


def test_a_trace_for_people_names_every_link(up: living.Up, client: openai.OpenAI, http: httpx.Client) -> None:
    answer = next(answer for answer in (ask(client) for _ in range(50)) if "[/menu]" in answer.texts[0])
    said = vote(http, answer.id, "down")
    up.books()
    shown = living.trimtab("feedback", "trace", said["id"], "--state", str(up.state))
    assert shown.returncode == 0
    for words in ("completion", "thumb down: joined", "example", "thumb, revision", *answer.texts[0].split()):
        assert words in shown.stdout
    unknown = living.trimtab("feedback", "trace", "no-such-id", "--state", str(up.state))
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("trimtab: ")
    assert "no-such-id" in unknown.stderr


@dataclasses.dataclass(frozen=True)
class Refused:
    """status, code, param: what an OpenAI client reads; remedy: words that tell its owner what to do."""

    status: int
    code: str
    param: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Callers:
    """client, http: of the tenant whose answers are voted on; rival: another tenant."""

    client: openai.OpenAI
    http: httpx.Client
    rival: httpx.Client


@pytest.fixture(scope="module")
def callers(client: openai.OpenAI, http: httpx.Client, rival: httpx.Client) -> Callers:
    return Callers(client, http, rival)


@pytest.fixture(scope="module")
def answered(client: openai.OpenAI) -> Answer:
    """An answer that nobody has voted on."""
    return ask(client)


Attempt = Callable[[Callers, Answer], Any]


def chat(**body: Any) -> Attempt:
    """Asks through the official client."""
    request: Any = {"model": living.LINE, "messages": QUESTION} | body
    return lambda callers, answer: callers.client.chat.completions.create(**request)


def say(**body: Any) -> Attempt:
    """Feedback on an answer that is there."""
    return lambda callers, answer: callers.http.post("/v1/feedback", json={"completion_id": answer.id} | body)


def forged(callers: Callers, answer: Answer) -> httpx.Response:
    """One character of the signature is another."""
    last = "A" if answer.id[-2] != "A" else "B"
    changed = answer.id[:-2] + last + answer.id[-1]
    return callers.http.post("/v1/feedback", json={"completion_id": changed, "value": "up"})


def foreign(callers: Callers, answer: Answer) -> httpx.Response:
    """Another tenant votes on an answer of ours."""
    return callers.rival.post("/v1/feedback", json={"completion_id": answer.id, "value": "up"})


def foreign_model(callers: Callers, answer: Answer) -> httpx.Response:
    """Another tenant asks a model of ours."""
    return callers.rival.post("/v1/chat/completions", json={"model": living.LINE, "messages": QUESTION})


def no_utf8(callers: Callers, answer: Answer) -> httpx.Response:
    body = b'{"model": "main", "messages": [{"role": "user", "content": "Gr\xfc\xdfe"}]}'
    return callers.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})


def vote_in_no_utf8(callers: Callers, answer: Answer) -> httpx.Response:
    body = b'{"completion_id": "' + answer.id.encode() + b'", "value": "up", "surface": "\xff"}'
    return callers.http.post("/v1/feedback", content=body, headers={"content-type": "application/json"})


FUNCTION = {"type": "function", "function": {"name": "switch", "parameters": {"type": "object", "properties": {}}}}
IMAGE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]
_UNCHANGED, _SHORTER, _UTF8 = "send the `id` of a chat completion unchanged", "shorten the conversation", "in UTF-8"
REFUSALS: dict[str, tuple[Attempt, Refused]] = {
    "a forged id": (forged, Refused(400, "forged_completion_id", "completion_id", _UNCHANGED)),
    "an id of another tenant": (foreign, Refused(400, "forged_completion_id", "completion_id", _UNCHANGED)),
    "no id": (say(completion_id="", value="up"), Refused(400, "invalid_field", "completion_id", _UNCHANGED)),
    "no thumb": (say(value="sideways"), Refused(400, "invalid_field", "value", 'send "up" or "down"')),
    "a surface of 65 characters": (
        say(value="up", surface="s" * 65),
        Refused(400, "invalid_field", "surface", "at most 64"),
    ),
    "a vote that is no UTF-8": (vote_in_no_utf8, Refused(400, "malformed_body", "body", _UTF8)),
    "a completion compared with itself": (
        say(kind="comparison", preferred={"choice": 0}, rejected={"choice": 0}),
        Refused(400, "invalid_field", "rejected", "compare two different answers"),
    ),
    "an empty message": (
        chat(messages=[{"role": "user", "content": ""}]),
        Refused(400, "invalid_field", "messages[0].content", "send text"),
    ),
    "a message of white space": (
        chat(messages=[*QUESTION, {"role": "user", "content": " \n\t"}]),
        Refused(400, "invalid_field", "messages[1].content", "send text"),
    ),
    "a message over the limit of bytes": (
        chat(messages=[{"role": "user", "content": "x" * 1_100_000}]),
        Refused(413, "body_too_large", "body", _SHORTER),
    ),
    "a prompt over the context": (
        chat(messages=[{"role": "user", "content": ACROSS_THE_CONTEXT}]),
        Refused(400, "context_length_exceeded", "messages", _SHORTER),
    ),
    "a streamed prompt over the context": (
        chat(messages=[{"role": "user", "content": ACROSS_THE_CONTEXT}], stream=True),
        Refused(400, "context_length_exceeded", "messages", _SHORTER),
    ),
    "bytes that are no UTF-8": (no_utf8, Refused(400, "malformed_body", "body", _UTF8)),
    "a model that is not there": (
        chat(model="gpt-5"),
        Refused(404, "model_not_found", "model", "`GET /v1/models` lists them"),
    ),
    "a model of another tenant": (
        foreign_model,
        Refused(404, "model_not_found", "model", "`GET /v1/models` lists them"),
    ),
    "tools": (chat(tools=[FUNCTION]), Refused(400, "unsupported_parameter", "tools", "Leave it out")),
    "an image": (
        chat(messages=[{"role": "user", "content": IMAGE}]),
        Refused(400, "unsupported_parameter", "messages[0].content[1]", "Leave it out"),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_is_named_with_its_remedy_and_leaves_no_trace(
    case: str, up: living.Up, callers: Callers, answered: Answer
) -> None:
    attempt, expected = REFUSALS[case]
    before = up.books()
    try:
        response = attempt(callers, answered)
    except openai.APIStatusError as problem:
        response = problem.response
        assert (problem.code, problem.param) == (expected.code, expected.param)
    assert response.status_code == expected.status, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (expected.code, expected.param, "invalid_request_error")
    assert expected.param.partition("[")[0] in error["message"]
    assert expected.remedy in error["message"]
    assert up.books() == before


def test_it_ends_without_a_trace_and_goes_on_where_it_stopped(
    up: living.Up, client: openai.OpenAI, http: httpx.Client
) -> None:
    answer, key = ask(client), up.api_key()
    before, releases = up.books(), up.history()
    assert len(up.processes()) == 8
    assert up.terminate() in {0, 130}
    assert up.processes() == {}
    assert "Traceback" not in up.said()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{up.url}/healthz")
    up.start()
    assert up.api_key() == key
    assert ask(client).fingerprint == answer.fingerprint
    assert [release.id for release in up.history()] == [release.id for release in releases]
    said = vote(http, answer.id)
    after = up.books()
    assert (after.written, after.counts.joined) == (before.written + 2, before.counts.joined + 1)
    [traced] = up.trace(answer.id).feedback
    assert (traced.event.id, traced.status) == (said["id"], ledger.FeedbackStatus.JOINED)


def test_a_second_one_beside_it_is_refused_and_disturbs_nothing(up: living.Up, client: openai.OpenAI) -> None:
    running = up.processes()
    said = living.trimtab("up", "--state", str(up.state), "--port", str(ports.free_port()))
    assert said.returncode == 1
    assert said.stderr.startswith("trimtab: ")
    assert "stop it first" in said.stderr
    assert "Traceback" not in said.stderr
    assert ask(client).texts
    assert up.processes() == running
    assert up.history()
