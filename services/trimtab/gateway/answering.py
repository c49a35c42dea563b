"""Answers a conversation: picks the policy, mints the completion's id, asks, and passes on what it says.

Called by both doors (`gateway.routes` for HTTP, `gateway.servicer` for gRPC). Generating, and recording what was
generated, is the policy process's.
"""

import contextlib
import dataclasses
import re
from collections.abc import AsyncGenerator, Iterator

from trimtab.core import completions, errors, ids, text
from trimtab.gateway import channels, hashes, routing
from trimtab.obs import metrics
from trimtab.wire import calls

MAX_CHOICES = 128
MAX_SESSION = 256
_SEGMENT = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CUT_SHORT = "The policy stopped before its answer was complete; ask again."


@dataclasses.dataclass(frozen=True, slots=True)
class Routed:
    """A request on its way: what is sent, and where."""

    request: completions.CompleteRequest
    route: routing.Route
    completion_id: str


class Answering:
    """`traceparent` and `tenant` come from the door, everything else from the request."""

    def __init__(
        self,
        routes: routing.Routes,
        policies: channels.Channels,
        *,
        ring: ids.KeyRing,
        hash_key: bytes,
        deadline_s: float,
        config_digest: str,
    ) -> None:
        self._routes = routes
        self._policies = policies
        self._ring = ring
        self._hash_key = hash_key
        self._deadline_s = deadline_s
        self._config_digest = config_digest

    def route(self, tenant: str, request: completions.CompleteRequest, traceparent: str) -> Routed:
        """Decides everything that is decided before a policy answers. Errors name the field that is wrong."""
        _check(request)
        selection = self._routes.select(tenant, request.model)
        unique = ids.uuid7()
        session = request.session_id or request.user or str(unique)
        session_hash = hashes.session_hash(self._hash_key, tenant, selection.line, session)
        route = selection.route(session_hash)
        token = ids.CompletionToken(
            uuid=unique,
            session_hash=session_hash,
            release=ids.release_tag(route.exposure.release_id),
            arm=route.exposure.arm or completions.Arm.STABLE,
            randomised=route.exposure.randomised,
            kept=request.store is not False,
        )
        context = text.Context(
            tenant=tenant,
            line=selection.line,
            session_hash=session_hash,
            subject_hash=hashes.person_hash(self._hash_key, tenant, request.user) if request.user else b"",
            store=token.kept,
            traceparent=traceparent,
            config_digest=self._config_digest,
        )
        completion_id = ids.mint(token, tenant, self._ring)
        assignment = completions.Assignment(completion_id, context, route.exposure)
        # the policy gets the assignment instead of names: it never learns who asks
        sent = dataclasses.replace(
            request, model="", n=request.n or 1, session_id="", user="", store=None, assignment=assignment
        )
        metrics.GATEWAY_ROUTED.labels(line=selection.line, arm=token.arm.value).inc()
        return Routed(sent, route, completion_id)

    def _policy(self, routed: Routed) -> calls.PolicyCalls:
        self._policies.keep(self._routes.places())
        return calls.PolicyCalls(self._policies.to(routed.route.address, routed.route.policy_id))

    async def complete(self, routed: Routed) -> completions.CompleteResponse:
        """All choices at once. Cancelling this cancels the policy's work."""
        policy = self._policy(routed)
        with _of_this_installation(routed):
            answer = await policy.complete(routed.request, timeout_s=self._deadline_s)
        if any(
            response.finish_reason is completions.FinishReason.CANCELLED for response in answer.completion.responses
        ):
            raise errors.ServiceUnavailable(_CUT_SHORT)
        return answer

    async def stream(self, routed: Routed) -> AsyncGenerator[completions.StreamCompleteResponse, None]:
        """Events as they come. Closing the generator cancels the policy's work."""
        policy = self._policy(routed)
        with _of_this_installation(routed):
            async for event in policy.stream_complete(routed.request, timeout_s=self._deadline_s):
                if event.finish_reason is completions.FinishReason.CANCELLED:
                    raise errors.ServiceUnavailable(_CUT_SHORT)
                yield event


@contextlib.contextmanager
def _of_this_installation(routed: Routed) -> Iterator[None]:
    """Whose token a policy refuses is not its caller's, who has shown a good one: it belongs to somebody else."""
    try:
        yield
    except errors.NotAuthenticated as refused:
        raise errors.ServiceUnavailable(
            f"At {routed.route.address} listens a policy of another installation; this one's is not up yet."
        ) from refused


def check_segment(field: str, value: str) -> None:
    """Which users a request is for, as the app calls them: a name that any table can show."""
    if value and not _SEGMENT.fullmatch(value):
        raise errors.InvalidField(field, "is no usable name", "send up to 64 of A-Z, a-z, 0-9, _ . : -")


def _check(request: completions.CompleteRequest) -> None:
    if request.assignment is not None:
        raise errors.InvalidField("assignment", "is set", "leave it out; the gateway assigns")
    if request.n > MAX_CHOICES:
        raise errors.InvalidField("n", f"is {request.n}", f"ask for 1 to {MAX_CHOICES} choices")
    for field, value in (("session_id", request.session_id), ("user", request.user)):
        if len(value) > MAX_SESSION:
            raise errors.InvalidField(field, f"has {len(value)} characters", f"send at most {MAX_SESSION}")
    check_segment("segment", request.segment)
    if not request.messages:
        raise errors.InvalidField("messages", "is empty", "send the conversation so far")
    for position, message in enumerate(request.messages):
        if isinstance(message.content.body, text.Ciphertext):
            raise errors.InvalidField(f"messages[{position}].content", "is sealed", "send it in the clear")
        if not message.content.body.strip():
            raise errors.InvalidField(f"messages[{position}].content", "is empty", "send text")
