"""Where an event belongs: the session that is its partition key, from the ids it names or, without any, its prompt.

The key follows from what the event is about, so that all of its copies meet in one partition. Called by
`feedback.intake`; sessions of prompts also by `feedback.imports`.
"""

import dataclasses
import uuid
from collections.abc import Sequence

from trimtab.core import errors, feedback, ids, text


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One completion id of an event, judged. verified: its MAC is genuine and the tenant's; a bare UUID has none."""

    uuid: uuid.UUID
    session_hash: bytes
    verified: bool


def place(kind: feedback.Kind, tenant: str, ring: ids.KeyRing, hash_key: bytes) -> tuple[bytes, bool]:
    """(session hash, verified) of an event. ForgedCompletionId, or InvalidField for answers that are not kept
    or of more than one session.

    A demonstration, and the retraction of one, belong to the session of their prompt.
    """
    refs = feedback.targets(kind)
    if not refs:
        return prompt_session(hash_key, tenant, _prompt(kind)), True
    targets = [_judged(ref.completion_id, tenant, ring) for ref in refs]
    answers = {(target.uuid, ref.choice) for target, ref in zip(targets, refs, strict=True)}
    if len(answers) < len(targets):
        raise _named_twice(kind)
    signed = {target.session_hash for target in targets if target.verified}
    if len(signed) > 1:
        raise _of_two_sessions(kind)
    session_hash = next(iter(signed)) if signed else min(target.session_hash for target in targets)
    return session_hash, all(target.verified for target in targets)


def prompt_session(hash_key: bytes, tenant: str, prompt: Sequence[text.Message]) -> bytes:
    """The session of what was said of no served answer: everything about one prompt is of one session and fold."""
    said = [part for message in prompt for part in (message.role.value, message.content.read())]
    return ids.keyed_hash(hash_key, "import", tenant, *said)


def _prompt(kind: feedback.Kind) -> tuple[text.Message, ...]:
    if isinstance(kind, feedback.Demonstration | feedback.Retraction):
        return kind.prompt
    raise TypeError(f"a {type(kind).__name__} is about an answer")


def _judged(completion_id: str, tenant: str, ring: ids.KeyRing) -> Target:
    bare = _bare_uuid(completion_id)
    if bare is not None:
        return Target(bare, bare.bytes, verified=False)
    token = ids.verify(completion_id, tenant, ring)
    if not token.kept:
        remedy = "nothing is kept of it, feedback neither; leave `store` out where people shall judge answers"
        raise errors.InvalidField("completion_id", "names an answer that was asked for with `store: false`", remedy)
    return Target(token.uuid, token.session_hash, verified=True)


def _bare_uuid(completion_id: str) -> uuid.UUID | None:
    """The UUID when this is one in its canonical spelling, as other gateways give out."""
    if len(completion_id) != 36:
        return None
    try:
        parsed = uuid.UUID(completion_id)
    except ValueError:
        return None
    return parsed if str(parsed) == completion_id else None


def _named_twice(kind: feedback.Kind) -> errors.InvalidField:
    if isinstance(kind, feedback.Ranking):
        return errors.InvalidField("items", "names an answer twice", "rank each answer once")
    return errors.InvalidField("rejected", "is the same answer as `preferred`", "compare two different answers")


def _of_two_sessions(kind: feedback.Kind) -> errors.InvalidField:
    if isinstance(kind, feedback.Ranking):
        return errors.InvalidField("items", "are of more than one session", "rank answers of one session")
    return errors.InvalidField(
        "rejected.completion_id", "belongs to another session than `preferred`", "compare answers of one session"
    )
