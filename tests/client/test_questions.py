"""A question goes out as it was asked, and comes back as an answer or as an error with a name."""

import asyncio
import pathlib
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.client import conftest, gateway

import trimtab_client
from trimtab.core import errors as core_errors
from trimtab_client import errors
from trimtabapi.common.v1 import common_pb2
from trimtabapi.completion.v1 import completion_pb2
from trimtabapi.policy.v1 import policy_service_pb2

TLS = pathlib.Path(__file__).parent / "tls"
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And then?"},
]


async def test_a_question_is_one_message_of_the_user_and_the_profile_decides_the_rest(app: conftest.App) -> None:
    answer = await app.call(lambda client: client.chat("How?"))
    choice = trimtab_client.Choice("chatcmpl-1", 0, "Press Start.", "length")
    assert answer == trimtab_client.Answer("chatcmpl-1", gateway.POLICY_ID, (choice,), 5, 4)
    assert answer.text == "Press Start."
    asked = policy_service_pb2.CompleteRequest(model=gateway.LINE)
    asked.messages.add(role=common_pb2.ROLE_USER).content.plain = "How?"
    asked.sampling.SetInParent()
    assert app.policies.asked == [asked]


async def test_everything_a_question_may_say_is_said(app: conftest.App) -> None:
    options: Any = {
        "session": "u-17",
        "user": "ann",
        "segment": "mobile-de",
        "store": False,
        "line": "support@candidate",
        "n": 2,
        "temperature": 0.0,
        "top_p": 0.5,
        "max_tokens": 9,
        "stop": ["\n", "END"],
        "seed": -3,
    }
    answer = await app.call(lambda client: client.chat(messages=CONVERSATION, **options))
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "Press Start."), (1, "Press Start.")]
    await app.call(lambda client: client.stream(CONVERSATION, **options))
    messages = [
        common_pb2.Message(role=getattr(common_pb2, f"ROLE_{said['role'].upper()}"), content={"plain": said["content"]})
        for said in CONVERSATION
    ]
    sampling = completion_pb2.Sampling(temperature=0.0, top_p=0.5, max_tokens=9, stop=["\n", "END"], seed=-3)
    asked = policy_service_pb2.CompleteRequest(
        model="support@candidate",
        messages=messages,
        sampling=sampling,
        n=2,
        session_id="u-17",
        user="ann",
        segment="mobile-de",
        store=False,
    )
    assert app.policies.asked == [asked, asked]


async def test_one_stop_string_needs_no_list(app: conftest.App) -> None:
    await app.call(lambda client: client.chat("How?", stop="END"))
    assert list(app.policies.asked[0].sampling.stop) == ["END"]


async def test_a_streamed_answer_comes_in_pieces_and_the_last_has_the_whole(app: conftest.App) -> None:
    pieces = await app.call(lambda client: client.stream("How?", n=2))
    assert [piece.text for piece in pieces if piece.choice == 1] == list(gateway.WORDS)
    assert [piece.answer for piece in pieces[:-1]] == [None] * 7
    choices = tuple(trimtab_client.Choice("chatcmpl-1", index, "Press Start.", "stop") for index in (0, 1))
    assert pieces[-1].answer == trimtab_client.Answer("chatcmpl-1", gateway.POLICY_ID, choices, 5, 8)


async def test_a_policy_that_is_away_for_a_moment_is_asked_again(app: conftest.App) -> None:
    app.policies.failures += [core_errors.ServiceUnavailable("Not yet.")] * 2
    assert (await app.call(lambda client: client.chat("How?"))).text == "Press Start."
    app.policies.failures += [core_errors.ServiceUnavailable("Not yet.")] * 2
    assert (await app.call(lambda client: client.stream("How?")))[-1].answer.text == "Press Start."
    assert len(app.policies.asked) == 6


async def test_a_platform_that_stays_away_is_an_error_soon_and_not_at_the_deadline(app: conftest.App) -> None:
    app.policies.failures += [core_errors.ServiceUnavailable("Not yet.")] * 9
    async with asyncio.timeout(20):
        with pytest.raises(errors.ServiceUnavailable, match="Not yet"):
            await app.call(lambda client: client.chat("How?", timeout_s=60))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (core_errors.PromptTooLong(5000, 2048), errors.PromptTooLong),
        (core_errors.Overloaded("64 requests wait already."), errors.Overloaded),
        (core_errors.UnknownModel("support"), errors.UnknownModel),
        (core_errors.InternalFault("It"), errors.InternalFault),
    ],
)
async def test_what_the_platform_refuses_is_an_error_of_its_name_and_asked_once(
    app: conftest.App, failure: core_errors.TrimtabError, kind: type[errors.TrimtabError]
) -> None:
    app.policies.failures += [failure, failure]
    with pytest.raises(kind) as caught:
        await app.call(lambda client: client.chat("How?"))
    assert str(caught.value) == str(failure)
    with pytest.raises(kind) as caught:
        await app.call(lambda client: client.stream("How?"))
    assert str(caught.value) == str(failure)
    assert len(app.policies.asked) == 2


async def test_a_stream_that_breaks_is_an_error_after_the_pieces_that_came(app: conftest.App) -> None:
    for question, sentence in (("break", "The policy broke."), ("end", "ended before its answer was complete")):
        came: list[str] = []
        with pytest.raises(errors.ServiceUnavailable, match=sentence):
            await app.call(lambda client, question=question, came=came: _collect(client, question, came))
        assert came == ["Press", " "]


def _collect(client: Any, question: str, came: list[str]) -> Any:
    """Reads a stream to its end, a piece at a time."""
    if isinstance(client, trimtab_client.Trimtab):
        came.extend(piece.text for piece in client.stream(question))
        return None

    async def collect() -> None:
        async for piece in client.stream(question):
            came.append(piece.text)

    return collect()


async def test_leaving_a_stream_early_ends_the_work_on_it(app: conftest.App) -> None:
    opened: list[Any] = []

    def begin(client: Any) -> Any:
        opened.append(client.stream("wait"))
        return next(opened[0]) if isinstance(client, trimtab_client.Trimtab) else anext(opened[0])

    def leave(client: Any) -> Any:
        return opened[0].close() if isinstance(client, trimtab_client.Trimtab) else opened[0].aclose()

    async with asyncio.timeout(10):
        assert (await app.call(begin)).text == "Press"
        await app.policies.waiting.wait()
        assert not app.policies.cancelled.is_set()
        await app.call(leave)
        await app.policies.cancelled.wait()


async def test_an_answer_that_takes_longer_than_its_deadline_is_an_error(app: conftest.App) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        await app.call(lambda client: client.stream("wait", timeout_s=0.3))


@pytest.mark.parametrize(
    ("question", "options", "field"),
    [
        ([{"role": "tool", "content": "7"}], {}, "messages[0].role"),
        ([{"content": "How?"}], {}, "messages[0].role"),
        ([{"role": "user", "content": "How?", "name": "ann"}], {}, "messages[0].name"),
        ([{"role": "user", "content": "a\ud800"}], {}, "messages[0].content"),
        ([{"role": "user", "content": 7}], {}, "messages[0].content"),
        ("How?", {"n": -1}, "n"),
        ("How?", {"max_tokens": 2.5}, "max_tokens"),
        ("How?", {"temperature": "hot"}, "temperature"),
        ("How?", {"seed": 2**70}, "seed"),
        ("How?", {"session": "\ud800"}, "session_id"),
        ("How?", {"stop": [7]}, "stop"),
    ],
)
async def test_what_cannot_be_sent_is_named_before_anything_is_sent(
    app: conftest.App, question: Any, options: Any, field: str
) -> None:
    for ask in ("chat", "stream"):
        with pytest.raises(errors.InvalidField) as caught:
            await app.call(lambda client, ask=ask: getattr(client, ask)(question, **options))
        assert caught.value.field == field
        assert str(caught.value).startswith(f"`{field}` ")
        assert (caught.value.reason, caught.value.status) == ("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT)
    assert app.policies.asked == []


async def test_an_option_that_does_not_exist_is_a_type_error(app: conftest.App) -> None:
    with pytest.raises(TypeError, match="temprature"):
        await app.call(lambda client: client.chat("How?", temprature=1))


@pytest.mark.parametrize("kind", [trimtab_client.Trimtab, trimtab_client.AsyncTrimtab])
@pytest.mark.parametrize("api_key", ["", "tt-key\n", "schlüssel"])
def test_what_cannot_be_a_key_is_said_at_once(kind: Any, api_key: str) -> None:
    with pytest.raises(errors.InvalidField, match="api_key"):
        kind("127.0.0.1:1", api_key=api_key, line="main")


async def test_a_wrong_key_is_not_authenticated(served: tuple[str, gateway.Policies, gateway.Votes]) -> None:
    address, policies, votes = served
    async with trimtab_client.AsyncTrimtab(address, api_key="guessed", line="main") as client:
        with pytest.raises(errors.NotAuthenticated):
            await client.chat("How?")
        with pytest.raises(errors.NotAuthenticated):
            await client.feedback.thumb("chatcmpl-1", up=True)
    assert (policies.asked, votes.attempts) == ([], [])


async def test_with_credentials_it_speaks_tls_and_without_it_does_not() -> None:
    certificate = (TLS / "certificate.pem").read_bytes()
    server = grpc.aio.server()
    policies = gateway.Policies()
    policies.register(server)
    keys = grpc.ssl_server_credentials([((TLS / "key.pem").read_bytes(), certificate)])
    address = f"localhost:{server.add_secure_port('localhost:0', keys)}"
    await server.start()
    trusting = grpc.ssl_channel_credentials(certificate)
    try:
        async with trimtab_client.AsyncTrimtab(address, api_key="k", line="main", credentials=trusting) as client:
            assert (await client.chat("How?")).text == "Press Start."
        with trimtab_client.Trimtab(address, api_key="k", line="main", credentials=trusting) as door:
            assert (await asyncio.to_thread(door.chat, "How?")).text == "Press Start."
        for wrong in (None, grpc.ssl_channel_credentials()):
            with (
                trimtab_client.Trimtab(address, api_key="k", line="main", credentials=wrong) as door,
                pytest.raises(errors.ServiceUnavailable),
            ):
                await asyncio.to_thread(door.chat, "How?")
    finally:
        await server.stop(None)
    assert len(policies.asked) == 2
