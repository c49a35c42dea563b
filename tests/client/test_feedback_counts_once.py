"""Feedback arrives once, whatever happens to its attempts; an error means that nobody knows, or that it is refused."""

import asyncio
import itertools
import time
from collections.abc import Iterator

import pytest
from tests.client import conftest, gateway

import trimtab_client
from trimtab.core import errors as core_errors
from trimtab_client import errors, sending
from trimtabapi.feedback.v1 import feedback_service_pb2

AWAY = core_errors.ServiceUnavailable("Not yet.")
PASSING = [AWAY, core_errors.LogUnavailable("It is busy."), core_errors.DeadlineExceeded("Too late.")]


@pytest.mark.parametrize("takes_in_first", [False, True], ids=["not taken in", "taken in"])
async def test_feedback_is_sent_under_one_id_until_it_is_acknowledged(app: conftest.App, takes_in_first: bool) -> None:
    app.votes.takes_in_first = takes_in_first
    app.votes.failures += PASSING
    receipt = await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=True))
    assert receipt == trimtab_client.Receipt(receipt.id, "chatcmpl-1", duplicate=takes_in_first)
    assert [attempt.event.id for attempt in app.votes.attempts] == [receipt.id] * 4
    assert len(set(map(repr, app.votes.attempts))) == 1
    assert list(app.votes.kept) == [receipt.id]


async def test_two_votes_have_two_ids(app: conftest.App) -> None:
    for _ in range(2):
        await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=True))
    assert len(app.votes.kept) == 2


async def test_more_than_the_platform_takes_on_is_sent_again_when_it_says(app: conftest.App) -> None:
    app.votes.failures += [core_errors.Overloaded("64 wait already.")]
    begun = time.monotonic()
    await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=True))
    assert time.monotonic() - begun >= 0.5
    assert len(app.votes.attempts) == 2


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (core_errors.InvalidField("surface", "is too long", "shorten it"), errors.InvalidField),
        (core_errors.ForgedCompletionId("chatcmpl-1"), errors.ForgedCompletionId),
        (core_errors.NotBuiltYet("It"), errors.NotBuiltYet),
        (core_errors.InternalFault("It"), errors.InternalFault),
        (core_errors.ConflictingFeedback("f"), errors.ConflictingFeedback),
    ],
)
async def test_feedback_that_is_refused_is_not_sent_again(
    app: conftest.App, failure: core_errors.TrimtabError, kind: type[errors.TrimtabError]
) -> None:
    app.votes.failures += [failure]
    with pytest.raises(kind) as caught:
        await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=True))
    assert str(caught.value) == str(failure)
    assert len(app.votes.attempts) == 1


async def test_the_last_failure_is_told_when_the_time_is_over(app: conftest.App) -> None:
    app.votes.failures += [AWAY] * 99
    begun = time.monotonic()
    with pytest.raises(errors.ServiceUnavailable, match="Not yet"):
        await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=True, timeout_s=2))
    assert time.monotonic() - begun <= 2
    assert 2 <= len(app.votes.attempts) <= 4


async def test_a_conflict_with_an_earlier_attempt_of_the_same_call_is_its_receipt(app: conftest.App) -> None:
    app.votes.failures += [AWAY, core_errors.ConflictingFeedback("f")]
    receipt = await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=True))
    assert receipt == trimtab_client.Receipt(app.votes.attempts[0].event.id, "chatcmpl-1", duplicate=True)


async def test_a_conflict_under_an_id_of_the_apps_own_is_told_also_after_a_retry(app: conftest.App) -> None:
    await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=True, id="click-7"))
    app.votes.failures += [AWAY]
    with pytest.raises(errors.ConflictingFeedback):
        await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=False, id="click-7"))
    again = await app.call(lambda client: client.feedback.thumb("chatcmpl-1", up=True, id="click-7"))
    assert again == trimtab_client.Receipt("click-7", "chatcmpl-1", duplicate=True)


async def test_many_threads_share_a_client(served: tuple[str, gateway.Policies, gateway.Votes]) -> None:
    address, _, votes = served
    with trimtab_client.Trimtab(address, api_key=gateway.KEY, line="main") as client:
        votes.failures += [AWAY] * 8
        one = (asyncio.to_thread(client.feedback.thumb, f"chatcmpl-{number}", up=True) for number in range(16))
        receipts = await asyncio.gather(*one)
    assert sorted(votes.kept) == sorted(receipt.id for receipt in receipts)
    assert len(votes.kept) == 16


def given(clock: Iterator[float], timeout_s: float) -> sending.Sending:
    request = feedback_service_pb2.SendRequest()
    return sending.Sending(request, trimtab_client.Receipt("f"), timeout_s, id_is_new=True, now=lambda: next(clock))


def test_an_attempt_that_hangs_leaves_time_for_others() -> None:
    late = errors.DeadlineExceeded("Late.")
    clock = iter([0.0, 0.0, 12.0, 12.1, 24.1, 24.3, 30.0])
    one = given(clock, 30.0)
    assert one.attempt_s() == 12.0
    assert 0.05 <= one.after(late) <= 0.1  # type: ignore[operator]
    assert one.attempt_s() == 12.0
    assert 0.1 <= one.after(late) <= 0.2  # type: ignore[operator]
    assert one.attempt_s() == pytest.approx(5.7)
    with pytest.raises(errors.DeadlineExceeded):
        one.after(late)


def test_pauses_double_up_to_two_seconds_and_are_never_the_same_for_all() -> None:
    away = errors.ServiceUnavailable("Away.")
    many = [given(itertools.repeat(0.0), 60.0) for _ in range(200)]
    for longest in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        pauses = [one.after(away) for one in many]
        assert longest / 2 <= min(pauses) < 0.6 * longest  # type: ignore[type-var]
        assert 0.9 * longest < max(pauses) <= longest  # type: ignore[type-var]
