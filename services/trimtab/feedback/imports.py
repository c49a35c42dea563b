"""Preferences between texts from elsewhere, of people or of a model, as completions and comparisons like any other.

Called by `feedback.servicer`. One item is one completion, whoever compared its answers. Every id and the order of the
two answers follow from the content, so importing again writes the same records and the ledger counts them once; nothing
about a position tells which answer was preferred. An operator's import is on the audit trail from the append on that
brought the first of it (decision 0008).
"""

import asyncio
import dataclasses
import hashlib

from trimtab.bus import port, publish, topics, trail
from trimtab.core import audit, clock, completions, errors, failpoints, feedback, ids, text
from trimtab.feedback import acknowledged, intake, placing, validation
from trimtab.obs import metrics

MAX_ITEMS = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class _Import:
    """One item as it is written."""

    completion: completions.Completion
    event: feedback.FeedbackEvent
    digest: bytes


class Importer:
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
        self._trail = trail.Trail(log)
        self._appending = asyncio.Lock()
        # The oldest key, so that an item keeps its id when a newer key takes over signing.
        self._ring = ids.KeyRing(keys=ring.keys, current=min(ring.keys))
        self._hash_key = hash_key
        self._config_digest = config_digest
        self._now = now
        self._acknowledged = acknowledged.Acknowledged(intake.REMEMBERED)

    async def run(self, request: feedback.ImportPreferencesRequest) -> feedback.ImportPreferencesResponse:
        """Items that are no preference are refused one by one; LogUnavailable when the log did not take the others."""
        _check_request(request)
        new: dict[tuple[str, str], _Import] = {}
        duplicates = 0
        refused: list[feedback.ImportRefusal] = []
        for item in request.items:
            try:
                made = self._made(request, item)
                if self._is_known(made, new):
                    duplicates += 1
                else:
                    new[feedback.identity(made.event)] = made
            except (errors.InvalidField, errors.ConflictingFeedback) as problem:
                refused.append(feedback.ImportRefusal(item.item, feedback.refusal_of(problem)))
        await self._append(request, list(new.values()))
        for outcome, count in (("accepted", len(new)), ("duplicate", duplicates), ("refused", len(refused))):
            metrics.FEEDBACK_IMPORTED.labels(outcome=outcome).inc(count)
        return feedback.ImportPreferencesResponse(len(new), duplicates, tuple(refused))

    def close(self) -> None:
        self._trail.close()

    def _is_known(self, made: _Import, new: dict[tuple[str, str], _Import]) -> bool:
        identity = feedback.identity(made.event)
        seen = self._acknowledged.look(identity, made.digest)
        beside = new.get(identity)
        if seen is acknowledged.Seen.OTHER or (beside is not None and beside.digest != made.digest):
            raise errors.ConflictingFeedback(made.event.id)
        return seen is acknowledged.Seen.SAME or beside is not None

    async def _append(self, request: feedback.ImportPreferencesRequest, items: list[_Import]) -> None:
        """All of them or none: a completion without its verdict would be worth nothing."""
        if not items:
            return
        async with self._appending:
            acts = [self._act(request)] if request.actor else []
            appended = await asyncio.to_thread(self._trail.missing, acts)
            for item in items:
                key = item.completion.context.session_hash
                appended.append(publish.new_record(topics.COMPLETIONS, key, item.completion))
                appended.append(publish.new_record(topics.FEEDBACK, key, item.event))
            failpoints.reach("feedback.import.before_append")
            await asyncio.wrap_future(self._log.append(appended))
            failpoints.reach("feedback.import.appended")
        for item in items:
            self._acknowledged.add(feedback.identity(item.event), item.digest)

    def _act(self, request: feedback.ImportPreferencesRequest) -> audit.AuditRecord:
        return audit.AuditRecord(
            id=request.request_id or str(ids.uuid7()),
            context=text.Context(request.tenant, request.line),
            at=self._now(),
            actor=request.actor,
            act="feedback.import",
            target=request.line,
            reason=request.reason,
        )

    def _made(self, request: feedback.ImportPreferencesRequest, item: feedback.ImportedPreference) -> _Import:
        prompt, preferred, rejected = _check_item(item)
        roles = (message.role.value for message in item.prompt)
        answers = sorted((preferred, rejected), key=lambda answer: hashlib.sha256(answer.encode()).digest())
        said = answers if item.tie else (preferred, rejected)
        rater, by = request.rater, _by(request)
        parts = (*roles, *prompt, *said, *by, *(["tie"] if item.tie else []))
        digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
        session_hash = placing.prompt_session(self._hash_key, request.tenant, item.prompt)
        context = text.Context(
            request.tenant, request.line, session_hash=session_hash, config_digest=self._config_digest
        )
        names = (request.tenant, request.line, request.source, item.item)
        token = ids.CompletionToken(
            uuid=ids.content_uuid("completion", *names),
            session_hash=session_hash,
            release=ids.release_tag(""),
            arm=completions.Arm.STABLE,
            randomised=False,
            imported=True,
        )
        completion = completions.Completion(
            id=ids.mint(token, request.tenant, self._ring),
            context=context,
            created_at=self._now(),
            prompt=item.prompt,
            responses=tuple(
                completions.Response(choice=choice, text=text.Text(answer)) for choice, answer in enumerate(answers)
            ),
            origin=completions.Origin.IMPORTED,
        )
        event = feedback.FeedbackEvent(
            id=item.feedback_id or str(ids.content_uuid("feedback", *names, *by)),
            occurred_at=completion.created_at,
            kind=feedback.Comparison(
                preferred=text.ResponseRef(completion.id, answers.index(said[0])),
                rejected=text.ResponseRef(completion.id, answers.index(said[1])),
                tie=item.tie,
            ),
            context=dataclasses.replace(context, subject_hash=bytes.fromhex(rater.id)),
            rater=rater,
            surface=request.source,
            criterion=request.criterion,
            verified=True,
        )
        return _Import(completion, event, digest)


def _by(request: feedback.ImportPreferencesRequest) -> tuple[str, ...]:
    """What tells one verdict on an item from another; nothing for annotators of whom nothing is known."""
    rater = request.rater
    named = rater.id or rater.kind is not feedback.RaterKind.ANNOTATOR
    by = (rater.kind.value, rater.id) if named else ()
    return (*by, request.criterion) if request.criterion else by


def _check_request(request: feedback.ImportPreferencesRequest) -> None:
    validation.check_rater(request.rater)
    if request.rater.kind is feedback.RaterKind.MODEL and not request.rater.id:
        raise errors.InvalidField("rater.id", "is empty", "name the model, so that its verdicts stay its own")
    validation.check_name("criterion", request.criterion)
    for field, value in (("tenant", request.tenant), ("line", request.line), ("source", request.source)):
        if not value:
            raise errors.InvalidField(field, "is empty", "name it")
        validation.check_name(field, value)
    if len(request.items) > MAX_ITEMS:
        raise errors.InvalidField("items", f"has {len(request.items)} items", f"send at most {MAX_ITEMS} at once")


def _check_item(item: feedback.ImportedPreference) -> tuple[list[str], str, str]:
    """(texts of the prompt, preferred, rejected) of an item that is a preference."""
    validation.check_id("item", item.item)
    if item.feedback_id:
        validation.check_id("feedback_id", item.feedback_id)
    prompt = validation.check_prompt("prompt", item.prompt)
    preferred = validation.check_text("preferred", item.preferred)
    rejected = validation.check_text("rejected", item.rejected)
    if preferred == rejected:
        raise errors.InvalidField("rejected", "is the same text as `preferred`", "send two different answers")
    return prompt, preferred, rejected
