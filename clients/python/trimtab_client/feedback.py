"""What people think, in every kind the platform takes: one method a kind, for `client` and `aio` alike.

Sending is the caller's: `Feedback` is given a function that does it and hands on what that returns, a receipt or, with
asyncio, an awaitable of one.
"""

import datetime
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast

from trimtab_client import answers, errors, fields, sending
from trimtabapi.common.v1 import common_pb2
from trimtabapi.feedback.v1 import feedback_pb2, feedback_service_pb2

# An answer with one choice, one choice of an answer, the answer's id, or its id and the index of a choice.
Target: TypeAlias = answers.Answer | answers.Choice | str | tuple[str, int]
# Feedback that was given: its receipt or its id.
Given: TypeAlias = sending.Receipt | str
_Sent = TypeVar("_Sent")
_RATERS = {
    "user": feedback_pb2.RATER_KIND_USER,
    "annotator": feedback_pb2.RATER_KIND_ANNOTATOR,
    "model": feedback_pb2.RATER_KIND_MODEL,
}
_SIGNALS = {
    "copy": feedback_pb2.SIGNAL_KIND_COPY,
    "regenerate": feedback_pb2.SIGNAL_KIND_REGENERATE,
    "accept": feedback_pb2.SIGNAL_KIND_ACCEPT,
    "abandon": feedback_pb2.SIGNAL_KIND_ABANDON,
}


class RetractionDetails(TypedDict, total=False):
    """What may be said beside a retraction."""

    id: str
    """Up to 128 characters of ASCII, e.g. the id of a click: the same id with the same feedback counts once, whoever
    sends it. A new one when left out."""
    rater: str
    """Who says it, up to 256 characters; the platform keeps a keyed hash. The session itself when left out. A second
    vote of a rater on the same answer amends the first."""
    rater_kind: Literal["user", "annotator", "model"]
    """"user" when left out."""
    network: str
    """The IP address it came from, or a prefix; the platform keeps a keyed hash of its /24 (IPv4) or /48 (IPv6), and
    counts the votes from one network in so many sessions of a release only."""
    surface: str
    """Where in the app, e.g. "chat", up to 64 characters: thumbs are calibrated per surface."""
    criterion: str
    """What was judged, e.g. "helpful", up to 64 characters; all in all when left out."""
    occurred_at: datetime.datetime
    """When it was said, with its time zone; when it arrives when left out."""
    timeout_s: float
    """Seconds for all attempts together; 30 when left out."""


class Details(RetractionDetails, total=False):
    """What may be said beside feedback on an answer."""

    supersedes: Given | Iterable[Given]
    """Earlier feedback that this replaces: it is an amendment then."""
    read_from: Given | Iterable[Given]
    """Feedback on the same answer that this was made of, e.g. a critique that a model read as a thumb."""


class Feedback(Generic[_Sent]):
    """One method a kind. Each gives a receipt once the platform has the feedback on disk.

    Each raises InvalidField for what cannot be sent or was refused, ForgedCompletionId for an id that is not of this
    platform, ConflictingFeedback when `id` was used for other feedback, and, once `timeout_s` has passed,
    ServiceUnavailable, LogUnavailable or DeadlineExceeded: then nobody knows whether it was taken in, and sending it
    again under the same `id` is safe.
    """

    def __init__(self, line: str, send: Callable[[sending.Sending], _Sent]) -> None:
        self._line = line
        self._send = send

    def thumb(self, answer: Target, *, up: bool, **details: Unpack[Details]) -> _Sent:
        """Good or bad."""
        said = feedback_pb2.Thumb(target=_ref(answer))
        fields.put(said, up=up)
        return self._give(feedback_pb2.FeedbackEvent(thumb=said), **details)

    def rate(self, answer: Target, *, stars: int, scale: int = 5, **details: Unpack[Details]) -> _Sent:
        """stars: 1 to scale; scale: the best there is to give, 2 to 100."""
        said = feedback_pb2.Rating(target=_ref(answer))
        fields.put(said, stars=stars, scale=scale)
        return self._give(feedback_pb2.FeedbackEvent(rating=said), **details)

    def compare(
        self,
        better: Target,
        worse: Target,
        *,
        strength: float | None = None,
        tie: bool = False,
        **details: Unpack[Details],
    ) -> _Sent:
        """Two answers to the same question in one session.

        strength: how much better, above 0 and at most 1. tie: neither is better; without strength.
        """
        said = feedback_pb2.Comparison(preferred=_ref(better), rejected=_ref(worse))
        fields.put(said, strength=strength, tie=tie)
        return self._give(feedback_pb2.FeedbackEvent(comparison=said), **details)

    def rank(self, best_first: Sequence[Target | Sequence[Target]], **details: Unpack[Details]) -> _Sent:
        """Two or more answers to the same question in one session, from best to worst; a list among them is a tie."""
        said = feedback_pb2.Ranking()
        for rank, place in enumerate(best_first, start=1):
            for answer in _tied(place):
                said.items.add(target=_ref(answer), rank=rank)
        return self._give(feedback_pb2.FeedbackEvent(ranking=said), **details)

    def edit(self, answer: Target, corrected: str, **details: Unpack[Details]) -> _Sent:
        """The answer's text as it should have been."""
        said = feedback_pb2.Edit(target=_ref(answer))
        fields.put(said.corrected, "corrected", plain=corrected)
        return self._give(feedback_pb2.FeedbackEvent(edit=said), **details)

    def demonstrate(
        self, messages: str | Iterable[Mapping[str, str]], response: str, **details: Unpack[Details]
    ) -> _Sent:
        """What the line should answer to messages, which may be a question it was never asked."""
        prompt = fields.conversation(messages)
        said = feedback_pb2.Demonstration()
        fields.put_messages(said.prompt, prompt)
        fields.put(said.response, "response", plain=response)
        return self._give(feedback_pb2.FeedbackEvent(demonstration=said), messages=prompt, **details)

    def critique(
        self, answer: Target, comment: str, *, span: tuple[int, int] | None = None, **details: Unpack[Details]
    ) -> _Sent:
        """What is good or bad about it, in words. span: the characters meant, (start, end), end exclusive."""
        said = feedback_pb2.Critique(target=_ref(answer))
        fields.put(said.comment, "comment", plain=comment)
        if span is not None:
            said.span.SetInParent()
            fields.put(said.span, "span", start=span[0], end=span[1])
        return self._give(feedback_pb2.FeedbackEvent(critique=said), **details)

    def signal(
        self, answer: Target, signal: Literal["copy", "regenerate", "accept", "abandon"], **details: Unpack[Details]
    ) -> _Sent:
        """What the user did with it."""
        said = feedback_pb2.Signal(target=_ref(answer), signal=_one_of(_SIGNALS, signal, "signal"))
        return self._give(feedback_pb2.FeedbackEvent(signal=said), **details)

    def retract(self, previous: sending.Receipt, *, reason: str = "", **details: Unpack[RetractionDetails]) -> _Sent:
        """Takes earlier feedback back. reason: in the rater's words.

        Its receipt may be made of what an app has kept: `Receipt(id, answer_id)`.
        """
        said = feedback_pb2.Retraction()
        fields.put(said, reason=reason, completion_id=previous.answer_id)
        fields.put_messages(said.prompt, previous.messages)
        event = feedback_pb2.FeedbackEvent(retraction=said)
        return self._give(event, messages=previous.messages, supersedes=previous, **details)

    def _give(  # a keyword for each of Details
        self,
        event: feedback_pb2.FeedbackEvent,
        *,
        messages: tuple[Mapping[str, str], ...] = (),
        id: str = "",
        rater: str = "",
        rater_kind: str = "user",
        network: str = "",
        surface: str = "",
        criterion: str = "",
        occurred_at: datetime.datetime | None = None,
        supersedes: Given | Iterable[Given] = (),
        read_from: Given | Iterable[Given] = (),
        timeout_s: float = sending.TIMEOUT_S,
    ) -> _Sent:
        fields.put(event, id=id or str(uuid.uuid4()), surface=surface, criterion=criterion)
        fields.put(event.rater, "rater", id=rater, kind=_one_of(_RATERS, rater_kind, "rater_kind"))
        fields.put(event.rater, network=network)
        if occurred_at is not None:
            if occurred_at.tzinfo is None:
                raise errors.invalid_field(
                    "occurred_at", "has no time zone", "give one, e.g. datetime.now(datetime.UTC)"
                )
            event.occurred_at.FromDatetime(occurred_at)
        fields.put(event, supersedes=_ids(supersedes), read_from=_ids(read_from))
        receipt = sending.Receipt(event.id, _answer_id(event), messages)
        if not receipt.answer_id:  # an answer says itself which line it is of
            fields.put(event.context, line=self._line)
        request = feedback_service_pb2.SendRequest(event=event)
        return self._send(sending.Sending(request, receipt, timeout_s, id_is_new=not id))


def _ids(given: Given | Iterable[Given]) -> list[str]:
    every = [given] if isinstance(given, sending.Receipt | str) else given
    return [item.id if isinstance(item, sending.Receipt) else item for item in every]


def _ref(answer: Any) -> common_pb2.ResponseRef:
    """Which choice of which completion is meant."""
    ref = common_pb2.ResponseRef()
    match answer:
        case answers.Choice():
            fields.put(ref, completion_id=answer.answer_id, choice=answer.index)
        case answers.Answer() if len(answer.choices) != 1:
            raise errors.invalid_field(
                "answer", f"has {len(answer.choices)} choices", "give the one that is meant, e.g. answer.choices[0]"
            )
        case answers.Answer():
            fields.put(ref, completion_id=answer.id)
        case (answer_id, choice):
            fields.put(ref, completion_id=answer_id, choice=choice)
        case _:
            fields.put(ref, completion_id=answer)
    return ref


def _answer_id(event: feedback_pb2.FeedbackEvent) -> str:
    """The completion an event is about, the first of several; empty when it is about none."""
    match said := getattr(event, event.WhichOneof("kind") or ""):
        case feedback_pb2.Comparison():
            return said.preferred.completion_id
        case feedback_pb2.Ranking():
            return said.items[0].target.completion_id if said.items else ""
        case feedback_pb2.Retraction():
            return said.completion_id
        case feedback_pb2.Demonstration():
            return ""
        case _:
            return str(said.target.completion_id)


def _tied(place: Any) -> Iterable[Any]:
    """The answers that share a place; most often one."""
    match place:
        case answers.Answer() | answers.Choice() | str() | (str(), int()):
            return (place,)
        case _:
            return cast(Iterable[Any], place)


def _one_of(known: Mapping[str, Any], name: str, field: str) -> Any:
    if name not in known:
        raise errors.invalid_field(field, f"is {name!r}", f"give one of {', '.join(known)}")
    return known[name]
