"""A real gateway over real HTTP and gRPC, a real feedback process, a real log, and two small policies.

The policies speak the real PolicyService: they answer fixed words, so that what the gateway makes of them can be said.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import httpx
import openai
import pytest
from tests import timing

from trimtab.bus import connect, port, publish, topics
from trimtab.core import completions, errors, releases, text
from trimtab.feedback import app as feedback_app
from trimtab.feedback import settings as feedback_settings
from trimtab.gateway import app, settings
from trimtab.rpc import process, secrets
from trimtab.wire import codec, schemas
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc

TENANT, LINE = "acme", "support"
STABLE_ID, CANDIDATE_ID = "a" * 64, "b" * 64
WORDS = ("Press", " ", "Start", ".")


class FixedPolicy(policy_service_pb2_grpc.PolicyServiceServicer):
    """Answers WORDS, whatever is asked; some questions make it fail, or wait for ever."""

    def __init__(self, policy_id: str) -> None:
        self.policy_id = policy_id
        self.asked: list[completions.CompleteRequest] = []
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def Complete(self, request: Any, context: Any) -> Any:
        asked = await self._receive(request)
        assert asked.assignment is not None
        completion = completions.Completion(
            id=asked.assignment.completion_id,
            context=asked.assignment.context,
            created_at=datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC),
            prompt=asked.messages,
            responses=tuple(self._response(choice, WORDS, asked) for choice in range(asked.n)),
            origin=completions.Origin.SERVED,
            sampling=asked.sampling,
            policy_id=self.policy_id,
            exposure=asked.assignment.exposure,
        )
        answer = completions.CompleteResponse(completion, completions.Usage(5, len(WORDS) * asked.n))
        return codec.to_proto(answer, policy_service_pb2.CompleteResponse)

    async def StreamComplete(self, request: Any, context: Any) -> AsyncIterator[Any]:
        asked = await self._receive(request)
        for position, word in enumerate(WORDS):
            for choice in range(asked.n):
                if asked.messages[-1].content.read() == "break" and position == 2:
                    raise errors.ServiceUnavailable("The policy broke.")
                yield codec.to_proto(
                    self._event(asked, choice, position, word), policy_service_pb2.StreamCompleteResponse
                )
            if asked.messages[-1].content.read() == "pause" and position == 1:
                await self._wait_for_ever()

    def _event(
        self, asked: completions.CompleteRequest, choice: int, position: int, word: str
    ) -> completions.StreamCompleteResponse:
        assert asked.assignment is not None
        last = position == len(WORDS) - 1
        return completions.StreamCompleteResponse(
            completion_id=asked.assignment.completion_id,
            choice=choice,
            delta=word,
            tokens=position + 1,
            policy_id=self.policy_id,
            finish_reason=completions.FinishReason.STOP if last else None,
            usage=completions.Usage(5, 4 * asked.n) if last and choice == asked.n - 1 else None,
            detail=self._response(choice, (word,), asked) if asked.sampling.logprobs else None,
        )

    def _response(
        self, choice: int, words: tuple[str, ...], asked: completions.CompleteRequest
    ) -> completions.Response:
        listed = asked.sampling.logprobs
        alternatives = tuple(
            completions.TokenAlternatives((completions.TokenAlternative(7, word, -0.5),))
            for word in words
            if asked.sampling.top_logprobs
        )
        return completions.Response(
            choice=choice,
            text=text.Text("".join(words)),
            token_ids=tuple(range(len(words))),
            logprobs_raw=(-0.5,) * len(words),
            logprobs_sampled=(-0.25,) * len(words),
            finish_reason=completions.FinishReason.STOP,
            tokens=words if listed else (),
            top_logprobs=alternatives,
        )

    async def _receive(self, request: Any) -> completions.CompleteRequest:
        asked = codec.from_proto(request, completions.CompleteRequest)
        self.asked.append(asked)
        match asked.messages[-1].content.read():
            case "overload":
                raise errors.Overloaded("64 requests wait already.")
            case "essay":
                raise errors.PromptTooLong(5000, 2048)
            case "wait":
                await self._wait_for_ever()
        return asked

    async def _wait_for_ever(self) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    def register(self, server: grpc.aio.Server) -> None:
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(self, server)

    async def Describe(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@dataclasses.dataclass
class Platform:
    log: port.EventLog
    secrets: secrets.Secrets
    api_key: str
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI
    grpc_address: str
    stable: FixedPolicy
    candidate: FixedPolicy
    addresses: dict[completions.Arm, str]
    feedback_serving: contextlib.AsyncExitStack

    def written(self) -> int:
        """Records on the topics that requests write to."""
        return sum(sum(self.log.end_offsets(topic).values()) for topic in ("completions", "feedback"))

    def records(self, topic: topics.Topic, kind: type[Any]) -> list[Any]:
        ends = self.log.end_offsets(topic.name)
        with contextlib.closing(self.log.reader(dict.fromkeys(ends, 0))) as reader:
            found: list[port.Record] = []
            while len(found) < sum(ends.values()):
                found += reader.poll(100, 5.0)
        return [schemas.decode(record.value, record.headers, kind) for record in found]

    def publish(self, *, candidate: float, stable: float, revision: int) -> None:
        """A newer release of the line; an arm without weight has no address."""
        addresses = {
            completions.Arm.STABLE: self.addresses[completions.Arm.STABLE] if stable else "",
            completions.Arm.CANDIDATE: self.addresses[completions.Arm.CANDIDATE] if candidate else "",
        }
        newer = release(addresses, candidate=candidate, stable=stable, revision=revision)
        publish.publish(self.log, topics.ROLLOUTS, newer.id.encode(), newer).result()

    async def until(self, path: str, status: int) -> None:
        """Returns when the path answers with the status."""
        await eventually(lambda: is_status(self.http, path, status))

    def chat(self, content: Any = "How?", **body: Any) -> Any:
        """A request's JSON body."""
        return {"model": LINE, "messages": [{"role": "user", "content": content}]} | body


async def is_status(http: httpx.AsyncClient, path: str, status: int) -> bool:
    return (await http.get(path)).status_code == status


def release(
    addresses: dict[completions.Arm, str], *, candidate: float, stable: float, revision: int = 1
) -> releases.Release:
    return releases.Release(
        id=f"release-{candidate}",
        context=text.Context(TENANT, LINE),
        revision=revision,
        candidate_id=CANDIDATE_ID,
        stable_id=STABLE_ID,
        anchor_id=STABLE_ID,
        state=releases.ReleaseState.EVIDENCE,
        salt=b"salt",
        created_at=datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC),
        arms=(
            releases.ArmTarget(completions.Arm.STABLE, STABLE_ID, addresses[completions.Arm.STABLE], stable),
            releases.ArmTarget(
                completions.Arm.CANDIDATE, CANDIDATE_ID, addresses[completions.Arm.CANDIDATE], candidate
            ),
        ),
    )


@pytest.fixture
def settings_of(tmp_path: pathlib.Path) -> dict[str, Any]:
    return {
        "log_url": f"sqlite://{tmp_path / 'log.db'}",
        "registry_url": f"file://{tmp_path / 'registry'}",
        "cache": tmp_path / "cache",
        "lines_file": tmp_path / "lines.toml",
        "secrets_file": tmp_path / "secrets.toml",
        "drain_s": 0.05,
    }


@contextlib.asynccontextmanager
async def serving_policy(policy: FixedPolicy, settings_of: dict[str, Any]) -> AsyncIterator[str]:
    made = process.Process("policy", feedback_settings.FeedbackSettings(**settings_of))
    made.add_service(policy.register, "trimtabapi.policy.v1.PolicyService")
    async with made.serving() as address:
        yield address


@pytest.fixture
async def platform(settings_of: dict[str, Any], tmp_path: pathlib.Path) -> AsyncIterator[Platform]:
    api_key = secrets.create(tmp_path / "secrets.toml", TENANT)
    stable, candidate = FixedPolicy(STABLE_ID), FixedPolicy(CANDIDATE_ID)
    log = connect.open_log(settings_of["log_url"])
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(log.close)
        addresses = {
            completions.Arm.STABLE: await stack.enter_async_context(serving_policy(stable, settings_of)),
            completions.Arm.CANDIDATE: await stack.enter_async_context(serving_policy(candidate, settings_of)),
        }
        publish.publish(log, topics.ROLLOUTS, b"r", release(addresses, candidate=0.5, stable=0.5)).result()
        feedback = feedback_app.build(feedback_settings.FeedbackSettings(**settings_of))
        feedback_serving = await stack.enter_async_context(contextlib.AsyncExitStack())
        feedback_address = await feedback_serving.enter_async_context(feedback.serving())
        made = app.build(
            settings.GatewaySettings(
                **settings_of,
                http_listen="127.0.0.1:0",
                http_address_file=tmp_path / "http",
                feedback_address=feedback_address,
                policy_deadline_s=5.0,
            )
        )
        address = await stack.enter_async_context(made.serving())
        bound = tmp_path / "http"
        await eventually(lambda: asyncio.to_thread(bound.exists))
        url = f"http://{await asyncio.to_thread(bound.read_text)}"
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {api_key}"}, timeout=timing.PATIENCE_S)
        )
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0)
        )
        await eventually(lambda: is_status(http, "/readyz", 200))
        yield Platform(
            log, made.secrets, api_key, http, client, address, stable, candidate, addresses, feedback_serving
        )


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Returns when it holds; fails after a minute at the earliest."""
    for _ in range(int(timing.PATIENCE_S * 100)):
        if await holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")
