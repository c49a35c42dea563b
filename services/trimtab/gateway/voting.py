"""Passes feedback on to the feedback service, for the tenant of the API key and with raters and their networks hashed.

Called by both doors (`gateway.routes`, `gateway.servicer`). What is acceptable, and the
log, are the feedback service's.
"""

import dataclasses
from collections.abc import Sequence

from trimtab.core import errors, feedback, ids, text
from trimtab.gateway import channels, hashes
from trimtab.wire import calls, gathering

MAX_RATER = 256


class Voting:
    def __init__(
        self, services: channels.Channels, feedback_address: str, *, hash_key: bytes, deadline_s: float
    ) -> None:
        self._services = services
        self._feedback_address = feedback_address
        self._gathered = gathering.Gatherer(lambda: services.to(feedback_address), timeout_s=deadline_s)
        self._hash_key = hash_key
        self._deadline_s = deadline_s

    async def send(self, tenant: str, request: feedback.SendRequest, traceparent: str) -> feedback.SendResponse:
        """Returns once the log has the event."""
        return await self._gathered.send(self._prepared(tenant, request, traceparent))

    async def send_batch(
        self, tenant: str, items: Sequence[feedback.SendRequest | errors.TrimtabError], traceparent: str
    ) -> feedback.SendBatchResponse:
        """One answer per item, in order; items that cannot be sent are refused here, the others go on together."""
        prepared = [self._prepared_or_refused(tenant, item, traceparent) for item in items]
        batch = feedback.SendBatchRequest(tuple(item for item in prepared if isinstance(item, feedback.SendRequest)))
        answers = await self._service().send_batch(batch, timeout_s=self._deadline_s)
        answered = iter(answers.results)
        return feedback.SendBatchResponse(
            tuple(next(answered) if isinstance(item, feedback.SendRequest) else item for item in prepared)
        )

    async def import_preferences(
        self, tenant: str, request: feedback.ImportPreferencesRequest
    ) -> feedback.ImportPreferencesResponse:
        _check_tenant(tenant, request.tenant)
        if request.rater.network:
            remedy = "leave it out: what is imported is no vote on a release"
            raise errors.InvalidField("rater.network", "is given with an import", remedy)
        rater = dataclasses.replace(request.rater, id=self._person(tenant, request.rater).hex())
        # an app is no operator, whatever it says
        mine = dataclasses.replace(request, tenant=tenant, actor="", rater=rater)
        return await self._service().import_preferences(mine, timeout_s=self._deadline_s)

    def _service(self) -> calls.FeedbackCalls:
        return calls.FeedbackCalls(self._services.to(self._feedback_address))

    def _prepared_or_refused(
        self, tenant: str, item: feedback.SendRequest | errors.TrimtabError, traceparent: str
    ) -> feedback.SendRequest | feedback.SendBatchResult:
        if isinstance(item, errors.TrimtabError):
            return feedback.SendBatchResult(feedback.refusal_of(item))
        try:
            return self._prepared(tenant, item, traceparent)
        except errors.TrimtabError as problem:
            return feedback.SendBatchResult(feedback.refusal_of(problem))

    def _prepared(self, tenant: str, request: feedback.SendRequest, traceparent: str) -> feedback.SendRequest:
        _check_tenant(tenant, request.tenant)
        event = request.event
        person = self._person(tenant, event.rater)
        line = event.context.line if event.context is not None else ""
        context = text.Context(tenant=tenant, line=line, subject_hash=person, traceparent=traceparent)
        network = hashes.network_hash(self._hash_key, tenant, event.rater.network) if event.rater.network else b""
        rater = dataclasses.replace(event.rater, id=person.hex(), network=network.hex())
        # named here: a call that is tried again must not become another vote
        named = event.id or str(ids.uuid7())
        return feedback.SendRequest(tenant, dataclasses.replace(event, id=named, context=context, rater=rater))

    def _person(self, tenant: str, rater: feedback.Rater) -> bytes:
        """A rater's keyed hash; empty for the session itself."""
        if len(rater.id) > MAX_RATER:
            raise errors.InvalidField("rater", "is too long", f"send at most {MAX_RATER} characters")
        return hashes.person_hash(self._hash_key, tenant, rater.id) if rater.id else b""


def _check_tenant(tenant: str, named: str) -> None:
    if named not in {"", tenant}:
        raise errors.NotAllowed("`tenant` is not the one this API key belongs to; leave it out.")
