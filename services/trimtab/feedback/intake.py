"""Takes in what people think: judge, append, and only then say yes.

Called by the doors (`feedback.servicer`). The rules are in `feedback.validation` and `feedback.placing`; joining with
the answer, and counting once for ever, is the ledger's.
"""

import asyncio
import dataclasses
from collections.abc import Sequence

from trimtab.bus import port, publish, topics
from trimtab.core import clock, errors, failpoints, feedback, ids, text
from trimtab.feedback import acknowledged, placing, validation
from trimtab.obs import metrics

REMEMBERED = 100_000


class Intake:
    """Promises 1 and 2: acknowledged is durable, and the same event again is acknowledged without a second record."""

    def __init__(
        self,
        log: port.EventLog,
        ring: ids.KeyRing,
        hash_key: bytes,
        *,
        config_digest: str,
        now: clock.Clock = clock.utc_now,
    ) -> None:
        self._log = log
        self._ring = ring
        self._hash_key = hash_key
        self._config_digest = config_digest
        self._now = now
        self._acknowledged = acknowledged.Acknowledged(REMEMBERED)

    async def send(self, request: feedback.SendRequest) -> feedback.SendResponse:
        """OK once the log has the event. An error means that nothing was written; LogUnavailable, that nobody knows."""
        try:
            response = await self._send(request)
        except errors.TrimtabError as problem:
            metrics.FEEDBACK_EVENTS.labels(outcome=errors.reason_of(type(problem)).lower()).inc()
            raise
        metrics.FEEDBACK_EVENTS.labels(outcome="duplicate" if response.duplicate else "accepted").inc()
        return response

    async def send_batch(
        self, items: Sequence[feedback.SendRequest | errors.TrimtabError]
    ) -> feedback.SendBatchResponse:
        """Each on its own and all at once, so that they share a commit. Items that could not be read are refused."""
        return feedback.SendBatchResponse(tuple(await asyncio.gather(*(self._answer(item) for item in items))))

    async def _answer(self, item: feedback.SendRequest | errors.TrimtabError) -> feedback.SendBatchResult:
        if isinstance(item, errors.TrimtabError):
            return feedback.SendBatchResult(refusal_of(item))
        try:
            return feedback.SendBatchResult(await self.send(item))
        except errors.TrimtabError as problem:
            return feedback.SendBatchResult(refusal_of(problem))

    async def _send(self, request: feedback.SendRequest) -> feedback.SendResponse:
        event = self._judged(request)
        identity, digest = feedback.identity(event), feedback.body_digest(event)
        match self._acknowledged.look(identity, digest):
            case acknowledged.Seen.SAME:
                return feedback.SendResponse(event.id, duplicate=True)
            case acknowledged.Seen.OTHER:
                raise errors.ConflictingFeedback(event.id)
        if event.context is None:
            raise TypeError("a judged event has its context")
        failpoints.reach("feedback.intake.before_append")
        append = publish.publish(self._log, topics.FEEDBACK, event.context.session_hash, event)
        # within the log's own deadline: stored, or LogUnavailable
        await asyncio.wrap_future(append)
        failpoints.reach("feedback.intake.appended")
        self._acknowledged.add(identity, digest)
        return feedback.SendResponse(event.id)

    def _judged(self, request: feedback.SendRequest) -> feedback.FeedbackEvent:
        """The event as it is written: id, context and `verified` filled in."""
        if not request.tenant:
            raise errors.InvalidField("tenant", "is missing", "send feedback through the gateway, which fills it")
        event = request.event
        validation.check_event(event, self._now())
        session_hash, verified = placing.place(event.kind, request.tenant, self._ring, self._hash_key)
        kind = event.kind
        if isinstance(kind, feedback.Retraction):
            kind = dataclasses.replace(kind, prompt=())  # it has said where the event belongs
        given = event.context or text.Context(tenant=request.tenant, line="")
        context = dataclasses.replace(
            given,
            tenant=request.tenant,
            session_hash=session_hash,
            # consent is the completion's, and the join knows it; a demonstration is sent to be kept
            store=True,
            config_digest=self._config_digest,
        )
        judged = dataclasses.replace(event, kind=kind, context=context, verified=verified)
        return dataclasses.replace(judged, id=event.id or str(ids.uuid7()))


def refusal_of(problem: errors.TrimtabError) -> feedback.Refusal:
    return feedback.Refusal(reason=errors.reason_of(type(problem)), message=str(problem))
