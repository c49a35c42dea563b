"""Each kind through the public doors: acknowledged, joined, traced, amended and taken back.

A real gateway, feedback service and ledger on one real log; only the completions are written by hand.
"""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from tests.postgres.stores import Stores
from tests.services.gateway.conftest import eventually
from tests.unit.ledger import making

import trimtab_client
from trimtab.bus import connect, port, publish, topics
from trimtab.core import clock, completions, errors, examples, feedback, ids, ledger, text
from trimtab.feedback import app as feedback_app
from trimtab.feedback import settings as feedback_settings
from trimtab.gateway import app as gateway_app
from trimtab.gateway import settings as gateway_settings
from trimtab.ledger import app as ledger_app
from trimtab.ledger import settings as ledger_settings
from trimtab.rpc import health, secrets
from trimtab.wire import calls

QUESTION = (text.Message(text.Role.USER, text.Text("How?")),)
BODY, OTHER = text.Text("Press Start."), text.Text("Wait.")


@dataclasses.dataclass
class Doors:
    """The public doors, and the ledger behind them."""

    http: httpx.AsyncClient
    grpc: calls.FeedbackCalls
    ledger: calls.LedgerCalls
    log: port.EventLog
    secrets: secrets.Secrets

    async def answered(self, session: str) -> str:
        """The id of a completion with two choices that the log has."""
        session_hash = ids.keyed_hash(self.secrets.hash_key, making.TENANT, session)
        token = ids.CompletionToken(ids.uuid7(), session_hash, b"r" * 8, completions.Arm.STABLE, randomised=False)
        said = tuple(completions.Response(choice, body) for choice, body in enumerate((BODY, OTHER)))
        completion = completions.Completion(
            id=ids.mint(token, making.TENANT, self.secrets.signing),
            context=text.Context(making.TENANT, making.LINE, session_hash=session_hash),
            created_at=clock.utc_now(),
            prompt=QUESTION,
            responses=said,
            origin=completions.Origin.SERVED,
        )
        await asyncio.wrap_future(publish.publish(self.log, topics.COMPLETIONS, session_hash, completion))
        return completion.id

    async def post(self, **body: Any) -> str:
        response = await self.http.post("/v1/feedback", json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    async def send(self, kind: feedback.Kind, **given: Any) -> str:
        event = feedback.FeedbackEvent("", clock.utc_now(), kind, **given)
        return (await self.grpc.send(feedback.SendRequest("", event), timeout_s=10)).feedback_id

    async def traced(self, feedback_id: str, good: Callable[[ledger.TraceResponse], bool]) -> ledger.TraceResponse:
        """The chain of a feedback id, once it is as it should be."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(errors.NotFound):
                    chain = await self.ledger.trace(ledger.TraceRequest(making.TENANT, feedback_id))
                    if good(chain):
                        return chain
                await asyncio.sleep(0.01)


@pytest.fixture
async def doors(tmp_path: pathlib.Path, stores: Stores) -> AsyncIterator[Doors]:
    api_key = secrets.create(tmp_path / "secrets.toml", making.TENANT)
    common: dict[str, Any] = {
        "log_url": f"sqlite://{tmp_path / 'log.db'}",
        "registry_url": f"file://{tmp_path / 'registry'}",
        "cache": tmp_path / "cache",
        "lines_file": tmp_path / "lines.toml",
        "secrets_file": tmp_path / "secrets.toml",
        "drain_s": 0.05,
    }
    async with contextlib.AsyncExitStack() as stack:
        log = connect.open_log(common["log_url"])
        stack.callback(log.close)
        ledger_process = ledger_app.build(ledger_settings.LedgerSettings(**common, database=stores.url()))
        ledger_address = await stack.enter_async_context(ledger_process.serving())
        await eventually(lambda: health.is_serving(ledger_address, timeout_s=5.0))
        taking = feedback_app.build(feedback_settings.FeedbackSettings(**common))
        feedback_address = await stack.enter_async_context(taking.serving())
        gateway = gateway_app.build(
            gateway_settings.GatewaySettings(
                **common,
                http_listen="127.0.0.1:0",
                http_address_file=tmp_path / "http",
                feedback_address=feedback_address,
            )
        )
        address = await stack.enter_async_context(gateway.serving())
        await eventually(lambda: asyncio.to_thread((tmp_path / "http").exists))
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://{(tmp_path / 'http').read_text()}", headers={"authorization": f"Bearer {api_key}"}
            )
        )
        public = await stack.enter_async_context(trimtab_client.connect(address, api_key))
        internal = await stack.enter_async_context(
            trimtab_client.connect(ledger_address, gateway.secrets.internal_token)
        )
        yield Doors(http, calls.FeedbackCalls(public), calls.LedgerCalls(internal), log, gateway.secrets)


def spoken(name: str, completion_id: str) -> dict[str, Any]:
    """The body of each kind, as an app posts it."""
    of_answer = {"kind": name, "completion_id": completion_id}
    bodies: dict[str, dict[str, Any]] = {
        "thumb": of_answer | {"value": "up"},
        "rating": of_answer | {"stars": 4, "scale": 5},
        "comparison": of_answer | {"preferred": {"choice": 1}, "rejected": {"choice": 0}, "strength": 0.5},
        "tie": of_answer | {"kind": "comparison", "preferred": {}, "rejected": {"choice": 1}, "tie": True},
        "ranking": of_answer | {"items": [{"choice": 1, "rank": 1}, {"choice": 0, "rank": 2}]},
        "edit": of_answer | {"corrected": "Press Stop."},
        "critique": of_answer | {"comment": "curt", "span": {"start": 0, "end": 5}},
        "signal": of_answer | {"signal": "copy"},
        "demonstration": {"kind": "demonstration", "model": making.LINE, "prompt": "How?", "response": "Gently."},
    }
    return bodies[name]


REF = text.ResponseRef("")
KINDS: dict[str, tuple[feedback.Kind, examples.Kind]] = {
    "thumb": (feedback.Thumb(REF, True), examples.ThumbExample(BODY, True)),
    "rating": (feedback.Rating(REF, 4, 5), examples.RatingExample(BODY, 4, 5)),
    "comparison": (
        feedback.Comparison(dataclasses.replace(REF, choice=1), REF, 0.5),
        examples.PairExample(OTHER, BODY, 0.5),
    ),
    "tie": (
        feedback.Comparison(REF, dataclasses.replace(REF, choice=1), tie=True),
        examples.PairExample(BODY, OTHER, tie=True),
    ),
    "ranking": (
        feedback.Ranking(
            (feedback.RankedResponse(dataclasses.replace(REF, choice=1), 1), feedback.RankedResponse(REF, 2))
        ),
        examples.RankingExample((examples.RankedText(OTHER, 1), examples.RankedText(BODY, 2))),
    ),
    "edit": (feedback.Edit(REF, text.Text("Press Stop.")), examples.EditExample(BODY, text.Text("Press Stop."))),
    "critique": (
        feedback.Critique(REF, text.Text("curt"), feedback.Span(0, 5)),
        examples.CritiqueExample(BODY, text.Text("curt"), feedback.Span(0, 5)),
    ),
    "signal": (
        feedback.Signal(REF, feedback.SignalKind.COPY),
        examples.SignalExample(BODY, feedback.SignalKind.COPY),
    ),
    "demonstration": (
        feedback.Demonstration(QUESTION, text.Text("Gently.")),
        examples.DemonstrationExample(text.Text("Gently.")),
    ),
}


def about(kind: Any, completion_id: str) -> Any:
    """The kind with its answers on this completion, whatever holds them."""
    if isinstance(kind, text.ResponseRef):
        return dataclasses.replace(kind, completion_id=completion_id)
    if isinstance(kind, tuple):
        return tuple(about(item, completion_id) for item in kind)
    if dataclasses.is_dataclass(kind) and not isinstance(kind, type):
        values = {field.name: about(getattr(kind, field.name), completion_id) for field in dataclasses.fields(kind)}
        return dataclasses.replace(kind, **values)
    return kind


def stands(expected: examples.Kind) -> Callable[[ledger.TraceResponse], bool]:
    return lambda chain: [example.kind for example in chain.examples] == [expected]


def is_withdrawn(chain: ledger.TraceResponse) -> bool:
    return [example.withdrawn for example in chain.examples] == [True]


@pytest.mark.parametrize("name", KINDS)
async def test_a_kind_over_http_is_joined_traced_amended_and_taken_back(doors: Doors, name: str) -> None:
    completion_id = await doors.answered("s")
    _, expected = KINDS[name]
    body = spoken(name, completion_id)
    said = await doors.post(**body)
    chain = await doors.traced(said, stands(expected))
    assert [(traced.event.id, traced.status.value) for traced in chain.feedback] == [(said, "joined")]
    served = name != "demonstration"
    assert [completion.id for completion in chain.completions] == ([completion_id] if served else [])
    assert chain.examples[0].prompt == QUESTION
    if served:
        again = spoken("signal" if name == "thumb" else "thumb", completion_id)
        new: examples.Kind = KINDS["signal" if name == "thumb" else "thumb"][1]
    else:
        again, new = body | {"response": "Firmly."}, examples.DemonstrationExample(text.Text("Firmly."))
    amended = await doors.post(**again, supersedes=[said])
    chain = await doors.traced(said, stands(new))
    assert {traced.event.id: traced.status.value for traced in chain.feedback} == {
        said: "superseded",
        amended: "joined",
    }
    assert chain.examples[0].revision == 2
    place = {"completion_id": completion_id} if served else {"model": making.LINE, "prompt": "How?"}
    await doors.post(kind="retraction", supersedes=[amended], **place)
    chain = await doors.traced(said, is_withdrawn)
    assert [traced.status.value for traced in chain.feedback] == ["superseded", "superseded", "joined"]
    counts = await doors.ledger.counts(ledger.CountsRequest(making.TENANT, making.LINE))
    assert (counts.feedback, counts.joined, counts.superseded, counts.examples) == (3, 1, 2, 0)


@pytest.mark.parametrize("name", KINDS)
async def test_a_kind_over_grpc_is_joined_traced_amended_and_taken_back(doors: Doors, name: str) -> None:
    completion_id = await doors.answered("s")
    shape, expected = KINDS[name]
    served = name != "demonstration"
    given = {} if served else {"context": text.Context("", making.LINE)}
    said = await doors.send(about(shape, completion_id), **given)
    await doors.traced(said, stands(expected))
    amended = await doors.send(about(shape, completion_id), supersedes=(said,), **given)
    chain = await doors.traced(amended, lambda chain: len(chain.feedback) == 2)
    assert [traced.status.value for traced in chain.feedback] == ["superseded", "joined"]
    assert [(example.kind, example.revision) for example in chain.examples] == [(expected, 2)]
    back = feedback.Retraction("", completion_id) if served else feedback.Retraction(prompt=QUESTION)
    await doors.send(back, supersedes=(amended,), **given)
    await doors.traced(said, is_withdrawn)


async def test_a_retraction_that_comes_first_waits_and_then_takes_back(doors: Doors) -> None:
    completion_id = await doors.answered("s")
    back = await doors.post(kind="retraction", completion_id=completion_id, supersedes=["later"])
    [waiting] = (await doors.traced(back, lambda chain: bool(chain.feedback))).feedback
    assert (waiting.status.value, waiting.reason) == ("waiting", "superseded feedback has not arrived")
    await doors.post(**spoken("rating", completion_id), id="later")
    chain = await doors.traced("later", lambda chain: len(chain.feedback) == 2)
    assert {traced.event.id: traced.status.value for traced in chain.feedback} == {
        "later": "superseded",
        back: "joined",
    }
    assert chain.examples == ()
