"""A policy process that is killed while records wait in it: their feedback is unjoinable, counted and shown."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

import prometheus_client
import pytest
from tests.services.gateway.conftest import eventually
from tests.services.policy import harness

import trimtab_client
from trimtab.bus import connect, publish, topics
from trimtab.bus.sqlite import file
from trimtab.core import clock, completions, feedback, ids, ledger, text
from trimtab.feedback import app as feedback_app
from trimtab.feedback import settings as feedback_settings
from trimtab.ledger import app as ledger_app
from trimtab.ledger import settings as ledger_settings
from trimtab.ledger import unjoinable
from trimtab.policy import recorder
from trimtab.rpc import health, secrets
from trimtab.wire import calls

AFTER_S = 1.0
LIMIT_S = 60.0
COUNTS = ledger.CountsRequest(harness.TENANT, harness.LINE)


def asked(installation: harness.Installation) -> completions.CompleteRequest:
    """A question under an id that the feedback service knows to be ours."""
    ring = secrets.load(installation.folder / "secrets.toml").signing
    request = harness.request(temperature=0.0, max_tokens=3)
    assert request.assignment is not None
    session = request.assignment.context.session_hash
    token = ids.CompletionToken(ids.uuid7(), session, b"r" * 8, completions.Arm.STABLE, True)
    assignment = dataclasses.replace(request.assignment, completion_id=ids.mint(token, harness.TENANT, ring))
    return dataclasses.replace(request, assignment=assignment)


async def lost_answer(installation: harness.Installation) -> completions.Completion:
    """An answer that its caller has and whose record died with the process."""
    with harness.started(installation, record_wait_s=0.1) as running:
        async with running.calls() as policy:
            await eventually(lambda: health.is_serving(running.address, timeout_s=5.0))
            with contextlib.closing(file.Turnstile(installation.log_file)) as turnstile, turnstile.held():
                answer = await policy.complete(asked(installation), timeout_s=LIMIT_S)
                running.process.kill()
                running.process.wait()
    return answer.completion


@contextlib.asynccontextmanager
async def doors(installation: harness.Installation) -> AsyncIterator[tuple[calls.FeedbackCalls, calls.LedgerCalls]]:
    shared = installation.settings().model_dump(exclude={"model_id", "line"}, exclude_unset=True) | {"drain_s": 0.1}
    database = f"sqlite:///{installation.folder / 'ledger.db'}"
    joins = ledger_app.build(ledger_settings.LedgerSettings(**shared, database=database, unjoinable_after_s=AFTER_S))
    takes = feedback_app.build(feedback_settings.FeedbackSettings(**shared))
    async with (
        joins.serving() as ledger_address,
        takes.serving() as feedback_address,
        trimtab_client.connect(ledger_address, installation.token) as to_ledger,
        trimtab_client.connect(feedback_address, installation.token) as to_feedback,
    ):
        await eventually(lambda: health.is_serving(ledger_address, timeout_s=5.0))
        yield calls.FeedbackCalls(to_feedback), calls.LedgerCalls(to_ledger)


async def until(ask: Callable[[], Awaitable[ledger.CountsResponse]], **wanted: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            found = await ask()
            if all(getattr(found, name) == value for name, value in wanted.items()):
                return
            await asyncio.sleep(0.02)


def unjoinable_by_the_gauge() -> float | None:
    return prometheus_client.REGISTRY.get_sample_value("trimtab_ledger_unjoinable_feedback")


async def test_feedback_on_an_answer_that_died_with_its_policy_is_counted_and_shown(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unjoinable, "_LOOK_S", 0.1)
    installation = harness.install(tmp_path)
    answer = await lost_answer(installation)
    assert answer.id not in installation.records()
    async with doors(installation) as (say, known):
        thumb = feedback.Thumb(text.ResponseRef(answer.id, 0), up=True)
        event = feedback.FeedbackEvent("vote", clock.utc_now(), thumb)
        await say.send(feedback.SendRequest(harness.TENANT, event), timeout_s=LIMIT_S)
        await until(lambda: known.counts(COUNTS), waiting=0, unjoinable=1, feedback=1)
        [traced] = (await known.trace(ledger.TraceRequest(harness.TENANT, answer.id))).feedback
        assert (traced.status.value, traced.reason) == ("unjoinable", "completion has not arrived")
        await eventually(lambda: asyncio.sleep(0, unjoinable_by_the_gauge() == 1))
        # should it come after all, it joins
        with contextlib.closing(connect.open_log(f"sqlite://{installation.log_file}")) as log:
            kept = recorder.stored_form(answer)
            await asyncio.wrap_future(publish.publish(log, topics.COMPLETIONS, answer.context.session_hash, kept))
        await until(lambda: known.counts(COUNTS), joined=1, waiting=0, unjoinable=0, examples=1)
        await eventually(lambda: asyncio.sleep(0, unjoinable_by_the_gauge() == 0))
