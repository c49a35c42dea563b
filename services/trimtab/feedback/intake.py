"""Takes in what people think: judge, append, and only then say yes.

Called by the doors (`feedback.servicer`). The rules are in `feedback.validation` and `feedback.placing`; joining with
the answer, and counting once for ever, is the ledger's.
"""

import asyncio
import dataclasses
import functools
from collections.abc import Sequence

import prometheus_client

from trimtab.bus import limits, port, publish, topics
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
        [outcome] = await self._answer([request])
        if isinstance(outcome, errors.TrimtabError):
            raise outcome
        return outcome

    async def send_batch(
        self, items: Sequence[feedback.SendRequest | errors.TrimtabError]
    ) -> feedback.SendBatchResponse:
        """Each is judged on its own; what is new goes to the log as one. Items that could not be read are refused."""
        outcomes = await self._answer(items)
        return feedback.SendBatchResponse(
            tuple(
                feedback.SendBatchResult(feedback.refusal_of(one) if isinstance(one, errors.TrimtabError) else one)
                for one in outcomes
            )
        )

    async def _answer(
        self, items: Sequence[feedback.SendRequest | errors.TrimtabError]
    ) -> list[feedback.SendResponse | errors.TrimtabError]:
        looked_at = [self._look(item) for item in items]
        problem = await self._append([one for one in looked_at if isinstance(one, _New)])
        outcomes = [
            (problem or feedback.SendResponse(one.event.id)) if isinstance(one, _New) else one for one in looked_at
        ]
        for outcome in outcomes:
            _counter(_counted_as(outcome)).inc()
        return outcomes

    def _look(
        self, item: feedback.SendRequest | errors.TrimtabError
    ) -> "_New | feedback.SendResponse | errors.TrimtabError":
        """What is to be appended, or the answer at once."""
        if isinstance(item, errors.TrimtabError):
            return item
        try:
            event = self._judged(item)
            record = publish.new_record(topics.FEEDBACK, _session_hash(event), event)
            limits.placed(record)  # now, so that one that the log would not take holds up no other
        except errors.TrimtabError as problem:
            return problem
        identity, digest = feedback.identity(event), feedback.body_digest(event)
        match self._acknowledged.look(identity, digest):
            case acknowledged.Seen.SAME:
                return feedback.SendResponse(event.id, duplicate=True)
            case acknowledged.Seen.OTHER:
                return errors.ConflictingFeedback(event.id)
        return _New(event, record, identity, digest)

    async def _append(self, new: "Sequence[_New]") -> errors.TrimtabError | None:
        """Returns once the log has all of them, or with the reason why that is not known."""
        if not new:
            return None
        failpoints.reach("feedback.intake.before_append")
        try:
            # within the log's own deadline: stored, or LogUnavailable
            await asyncio.wrap_future(self._log.append([one.record for one in new]))
        except (errors.LogUnavailable, errors.Overloaded) as problem:
            return problem
        failpoints.reach("feedback.intake.appended")
        for one in new:
            self._acknowledged.add(one.identity, one.digest)
        return None

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
        context = text.Context(
            request.tenant,
            given.line,
            session_hash,
            given.subject_hash,
            # consent is the completion's, and the join knows it; a demonstration is sent to be kept
            store=True,
            traceparent=given.traceparent,
            config_digest=self._config_digest,
        )
        named = event.id or str(ids.uuid7())
        return dataclasses.replace(event, id=named, kind=kind, context=context, verified=verified)


@dataclasses.dataclass(frozen=True, slots=True)
class _New:
    """An event that this replica has not acknowledged lately."""

    event: feedback.FeedbackEvent
    record: port.NewRecord
    identity: tuple[str, str]
    digest: bytes


def _session_hash(event: feedback.FeedbackEvent) -> bytes:
    if event.context is None:
        raise TypeError("a judged event has its context")
    return event.context.session_hash


@functools.cache
def _counter(outcome: str) -> prometheus_client.Counter:
    return metrics.FEEDBACK_EVENTS.labels(outcome=outcome)


def _counted_as(outcome: feedback.SendResponse | errors.TrimtabError) -> str:
    if isinstance(outcome, errors.TrimtabError):
        return errors.reason_of(type(outcome)).lower()
    return "duplicate" if outcome.duplicate else "accepted"
