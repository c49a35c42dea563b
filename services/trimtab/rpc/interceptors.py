"""What every gRPC call passes before it reaches a servicer: one interceptor, one place.

Built by `rpc.process`. In order: count and time the call, refuse a caller without a token, refuse bytes that are no
message, give a call without a deadline one, and turn whatever the servicer raises into a rich status (`rpc.errors`).
Servicer methods are `async def` (or async generators); they need no `try`.
"""

import asyncio
import contextlib
import contextvars
import functools
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
import prometheus_client
from google.protobuf import message

from trimtab.core import errors
from trimtab.obs import logging, metrics
from trimtab.rpc import errors as rpc_errors

# Seconds a call without a deadline of its own is given; streams are watched for long.
UNARY_DEADLINE_S = 60.0
STREAM_DEADLINE_S = 3600.0
_OPEN_TO_ALL = ("/grpc.health.v1.Health/",)
_SCHEME = "Bearer "

# A token in, the caller's name out (a tenant, or "internal"); NotAuthenticated when the token is nobody's.
Authenticate = Callable[[str], str]

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler = Callable[[Any, Any], Any]
_Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_END = object()
_log = logging.get("trimtab.rpc")
_caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="")


def caller() -> str:
    """Who makes the call that is being answered, as `Authenticate` named them."""
    return _caller.get()


class _Unreadable:
    """Stands in for a request whose bytes are no message, so that the refusal can be a sentence."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of every call but health checks."""

    def __init__(
        self,
        authenticate: Authenticate,
        *,
        unary_deadline_s: float = UNARY_DEADLINE_S,
        stream_deadline_s: float = STREAM_DEADLINE_S,
    ) -> None:
        self._authenticate = authenticate
        self._unary_deadline_s = unary_deadline_s
        self._stream_deadline_s = stream_deadline_s
        self._draining = asyncio.Event()
        self._wrapped: dict[str, _Method] = {}

    def end_watches(self) -> None:
        """Ends the streams that have no end of their own (methods named Watch…), which would hold a drain up."""
        self._draining.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Method]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Method:
        method = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is not None:  # names of methods that nobody has are without end
            handler = self._wrapped[method] = self._wrap(method, handler)
        return handler

    def _wrap(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> _Method:
        # health is open to all; only reflection streams its requests, and it is a flag
        if method.startswith(_OPEN_TO_ALL) or handler.request_streaming:
            return handler
        deserialize = _tolerant(handler.request_deserializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(cast(_Handler, handler.unary_stream), method), deserialize, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(cast(_Handler, handler.unary_unary), method), deserialize, handler.response_serializer
        )

    def _unary(self, answer: _Handler, method: str) -> Callable[[Any, _Context], Awaitable[Any]]:
        async def call(request: Any, context: _Context) -> Any:
            async with _Call(method, context):
                self._admit(request, context)
                async with _deadline(context, self._unary_deadline_s):
                    return await _built(method, answer, request, context)

        return call

    def _streaming(self, answer: _Handler, method: str) -> Callable[[Any, _Context], AsyncIterator[Any]]:
        async def call(request: Any, context: _Context) -> AsyncIterator[Any]:
            async with _Call(method, context):
                self._admit(request, context)
                async with _deadline(context, self._stream_deadline_s):
                    events = _built(method, answer, request, context)
                    endless = method.rpartition("/")[2].startswith("Watch")
                    async for event in _until(self._draining, events) if endless else events:
                        yield event

        return call

    def _admit(self, request: Any, context: _Context) -> None:
        header = dict(context.invocation_metadata() or ()).get("authorization", "")
        text = header.decode(errors="replace") if isinstance(header, bytes) else header
        if not text.startswith(_SCHEME):
            raise errors.NotAuthenticated()
        _caller.set(self._authenticate(text.removeprefix(_SCHEME)))
        if isinstance(request, _Unreadable):
            raise errors.MalformedRecord(
                f"The request is unreadable ({request.problem}); send protobuf with text in UTF-8."
            )


@functools.cache
def _ended(method: str, code: grpc.StatusCode) -> prometheus_client.Counter:
    return metrics.RPC_CALLS.labels(method, code.name)


@functools.cache
def _seconds(method: str) -> prometheus_client.Histogram:
    return metrics.RPC_SECONDS.labels(method)


class _Call:
    """One call from arrival to end: counts it, times it, and says in a rich status what went wrong."""

    def __init__(self, method: str, context: _Context) -> None:
        self._method = method
        self._context = context
        self._started = time.perf_counter()

    async def __aenter__(self) -> None:
        metrics.RPC_IN_FLIGHT.inc()

    async def __aexit__(
        self, _kind: type[BaseException] | None, problem: BaseException | None, _trace: types.TracebackType | None
    ) -> None:
        error = self._error(problem)
        code = self._code(problem, error)
        metrics.RPC_IN_FLIGHT.dec()
        _ended(self._method, code).inc()
        _seconds(self._method).observe(time.perf_counter() - self._started)
        if error is not None:
            await self._context.abort(code, rpc_errors.rich_status(error).message, rpc_errors.trailers(error))

    def _error(self, problem: BaseException | None) -> errors.TrimtabError | None:
        if isinstance(problem, errors.TrimtabError):
            return problem
        # a cancelled call has nobody left to tell; an aborted one has been told
        if problem is None or isinstance(problem, grpc.aio.AbortError) or not isinstance(problem, Exception):
            return None
        _log.error("call failed inside", method=self._method, exc_info=problem)
        return errors.InternalFault(self._method)

    def _code(self, problem: BaseException | None, error: errors.TrimtabError | None) -> grpc.StatusCode:
        if error is not None:
            return rpc_errors.TABLE[rpc_errors.kind_of(error)][0]
        if problem is None:
            return grpc.StatusCode.OK
        return grpc.StatusCode.ABORTED if isinstance(problem, grpc.aio.AbortError) else grpc.StatusCode.CANCELLED


def _deadline(context: _Context, default_s: float) -> "contextlib.AbstractAsyncContextManager[None]":
    """Gives a call without a deadline one; a caller's own is kept by gRPC, which cancels the call."""
    return _within(default_s) if context.time_remaining() is None else contextlib.nullcontext()


@contextlib.asynccontextmanager
async def _within(default_s: float) -> AsyncIterator[None]:
    timeout = asyncio.timeout(default_s)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise errors.DeadlineExceeded(f"The call took longer than {default_s:g} s; send a deadline.") from None


def _built(method: str, answer: _Handler, request: Any, context: _Context) -> Any:
    """What the servicer's method returns; the generated base class raises for a method that nobody wrote."""
    try:
        return answer(request, context)
    except NotImplementedError:
        raise errors.NotBuiltYet(method) from None


async def _until(stop: asyncio.Event, events: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The events until `stop` is set; then ServiceUnavailable, so that the watcher goes to another replica."""
    stopped = asyncio.ensure_future(stop.wait())
    following = asyncio.ensure_future(anext(events, _END))
    try:
        while True:
            await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise errors.ServiceUnavailable("This process is stopping; watch again.")
            event = following.result()
            if event is _END:
                return
            yield event
            following = asyncio.ensure_future(anext(events, _END))
    finally:
        stopped.cancel()
        following.cancel()
        await asyncio.wait((following,))


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data) if deserialize else data
        except message.DecodeError as problem:
            return _Unreadable(str(problem))

    return read
