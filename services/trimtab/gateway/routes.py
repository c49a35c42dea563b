"""The HTTP door: OpenAI's chat completions and models, feedback, verdicts for other controllers, health.

Built by `gateway.app`. Each handler reads, calls the domain (`gateway.answering`, `gateway.voting`) and shapes; errors
become HTTP in one place (`gateway.errors`).
"""

import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

from starlette import applications, exceptions, requests, responses, routing

from trimtab.core import clock, completions, errors, feedback
from trimtab.gateway import (
    analysis,
    answering,
    auth,
    feedback_form,
    fields,
    openai,
    shapes,
    streaming,
    tracing,
    voting,
)
from trimtab.gateway import errors as gateway_errors
from trimtab.gateway import routing as policy_routing
from trimtab.obs import metrics
from trimtab.rpc import secrets

# A body over the limit is read on, up to this many times the limit, so that the client gets to see the answer.
_READ_ON = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Door:
    """The handlers, over what `gateway.app` built."""

    answers: answering.Answering
    votes: voting.Voting
    routes: policy_routing.Routes
    secrets: secrets.Secrets
    max_body_bytes: int
    now: clock.Clock = clock.utc_now

    def application(self) -> applications.Starlette:
        return applications.Starlette(
            routes=[
                routing.Route("/v1/chat/completions", self.chat, methods=["POST"]),
                routing.Route("/v1/feedback", self.feedback, methods=["POST"]),
                routing.Route("/v1/models", self.models, methods=["GET"]),
                routing.Route("/v1/models/{model:path}", self.model, methods=["GET"]),
                routing.Route("/v1/analysis/{line}", self.analysis, methods=["GET"]),
                routing.Route("/v1/analysis/{line}/{hook}", self.hook, methods=["POST"]),
                routing.Route("/healthz", self.healthz, methods=["GET"]),
                routing.Route("/readyz", self.readyz, methods=["GET"]),
            ],
            exception_handlers={
                errors.TrimtabError: _on_trimtab_error,
                exceptions.HTTPException: _on_http_exception,
                requests.ClientDisconnect: _on_caller_gone,
                streaming.CallerGone: _on_caller_gone,
                Exception: _on_fault,
            },
        )

    async def chat(self, request: requests.Request) -> responses.Response | streaming.EventStream:
        tenant = self._tenant(request)
        chat = openai.read_chat(await self._body(request), request.headers.get("x-trimtab-session", ""))
        routed = self.answers.route(tenant, chat.complete, _traceparent(request))
        headers = _headers(routed)
        if chat.stream:
            return await self._streamed(request, chat, routed, headers)
        answer = await streaming.while_connected(request.receive, self.answers.complete(routed))
        body = shapes.completion(chat.complete.model, answer, with_logprobs=chat.complete.sampling.logprobs)
        return _answered(request, body, headers)

    async def _streamed(
        self,
        request: requests.Request,
        chat: openai.ChatRequest,
        routed: answering.Routed,
        headers: dict[str, str],
    ) -> streaming.EventStream:
        """The first event is awaited before the status line, so that an error that comes at once is a status."""
        events = self.answers.stream(routed)
        first = await streaming.while_connected(request.receive, _first(events))
        writer = shapes.ChunkWriter(
            completion_id=routed.completion_id,
            model=chat.complete.model,
            policy_id=routed.route.policy_id,
            created=int(self.now().timestamp()),
            include_usage=chat.include_usage,
        )
        metrics.HTTP_REQUESTS.labels(route=_route_of(request), status="200").inc()
        return streaming.EventStream(_written(writer, first, events), events, headers)

    async def feedback(self, request: requests.Request) -> responses.Response:
        tenant = self._tenant(request)
        body = await self._body(request)
        event = feedback_form.read_feedback(body, request.headers.get("idempotency-key", ""), self.now)
        sent = await self.votes.send(tenant, feedback.SendRequest(tenant, event), _traceparent(request))
        return _answered(request, {"id": sent.feedback_id, "status": "accepted", "duplicate": sent.duplicate})

    async def models(self, request: requests.Request) -> responses.Response:
        tenant = self._tenant(request)
        known = self.routes.models(tenant)
        listed = [shapes.model(name, int(of.created_at.timestamp()), tenant) for name, of in known.items()]
        return _answered(request, {"object": "list", "data": listed})

    async def model(self, request: requests.Request) -> responses.Response:
        tenant = self._tenant(request)
        name = request.path_params["model"]
        release = self.routes.select(tenant, name).release
        return _answered(request, shapes.model(name, int(release.created_at.timestamp()), tenant))

    async def analysis(self, request: requests.Request) -> responses.Response:
        release = self.routes.select(self._tenant(request), request.path_params["line"]).release
        return _answered(request, analysis.figures(release, request.query_params.get("policy", "")))

    async def hook(self, request: requests.Request) -> responses.Response:
        """Of Flagger, which sends its key in the body."""
        name = request.path_params["hook"]
        if name not in set(analysis.Hook):
            raise errors.NotFound("hook", name)
        api_key, policy = analysis.read_hook(await self._body(request))
        tenant = auth.tenant_of_key(self.secrets, api_key)
        release = self.routes.select(tenant, request.path_params["line"]).release
        return _answered(request, analysis.answer_hook(analysis.Hook(name), release, policy))

    async def healthz(self, request: requests.Request) -> responses.Response:
        return _answered(request, {"status": "alive"})

    async def readyz(self, request: requests.Request) -> responses.Response:
        ready = self.routes.caught_up.is_set()
        return _answered(request, {"status": "ready" if ready else "not ready"}, status=200 if ready else 503)

    def _tenant(self, request: requests.Request) -> str:
        return auth.tenant_of(self.secrets, request.headers.get("authorization", ""))

    async def _body(self, request: requests.Request) -> fields.Fields:
        kind = request.headers.get("content-type", "application/json")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise gateway_errors.WrongContentType(kind)
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self.max_body_bytes:
                chunks.append(chunk)
            elif size > _READ_ON * self.max_body_bytes:
                break
        if size > self.max_body_bytes:
            raise gateway_errors.BodyTooLarge(self.max_body_bytes)
        return fields.read_object(b"".join(chunks))


async def _first(
    events: AsyncGenerator[completions.StreamCompleteResponse, None],
) -> completions.StreamCompleteResponse:
    try:
        return await anext(events)
    except StopAsyncIteration as problem:
        raise errors.ServiceUnavailable("The policy ended its stream without an answer; ask again.") from problem


async def _written(
    writer: shapes.ChunkWriter,
    first: completions.StreamCompleteResponse,
    events: AsyncGenerator[completions.StreamCompleteResponse, None],
) -> AsyncGenerator[bytes, None]:
    """The events as bytes; an error on the way is the last of them, because the status has long been sent."""
    for chunk in writer.chunks(first):
        yield streaming.event(chunk)
    try:
        async for item in events:
            for chunk in writer.chunks(item):
                yield streaming.event(chunk)
    except errors.TrimtabError as problem:
        yield streaming.event(gateway_errors.body_of(problem))
    else:
        yield streaming.DONE


def _headers(routed: answering.Routed) -> dict[str, str]:
    exposure = routed.route.exposure
    return {
        "x-trimtab-policy": routed.route.policy_id,
        "x-trimtab-release": exposure.release_id,
        "x-trimtab-arm": exposure.arm.value if exposure.arm is not None else "",
    }


def _traceparent(request: requests.Request) -> str:
    return tracing.traceparent(request.headers.get("traceparent", ""))


def _route_of(request: requests.Request) -> str:
    route = request.scope.get("route")
    return route.path if isinstance(route, routing.Route) else "none"


def _answered(
    request: requests.Request, body: dict[str, Any], headers: dict[str, str] | None = None, *, status: int = 200
) -> responses.Response:
    metrics.HTTP_REQUESTS.labels(route=_route_of(request), status=str(status)).inc()
    return responses.JSONResponse(body, status_code=status, headers=headers)


async def _on_trimtab_error(request: requests.Request, problem: Exception) -> responses.Response:
    if not isinstance(problem, errors.TrimtabError):
        raise problem
    status, headers, body = gateway_errors.answer_to(problem)
    return _answered(request, body, headers, status=status)


async def _on_http_exception(request: requests.Request, problem: Exception) -> responses.Response:
    """Starlette's own: a path or method that is not here."""
    if not isinstance(problem, exceptions.HTTPException):
        raise problem
    message = f"{request.method} {request.url.path} is not here ({problem.detail}); see `/v1/chat/completions`."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "unknown_url"}
    return _answered(request, {"error": error}, dict(problem.headers or {}), status=problem.status_code)


async def _on_fault(request: requests.Request, problem: Exception) -> responses.Response:
    """Starlette raises it on after this answer, so that the server logs the traceback."""
    status, headers, body = gateway_errors.answer_to(errors.InternalFault(_route_of(request)))
    return _answered(request, body, headers, status=status)


async def _on_caller_gone(request: requests.Request, problem: Exception) -> responses.Response:
    return _answered(request, {}, status=499)  # nginx's word for it; nobody reads it
