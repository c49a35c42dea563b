"""Questions and answers: what an app gives and gets, and how the wire says it. Pure; `client` and `aio` call it."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypedDict

from trimtab_client import errors, fields
from trimtabapi.completion.v1 import completion_pb2
from trimtabapi.policy.v1 import policy_service_pb2

# What the gateway gives a policy for an answer, too.
TIMEOUT_S = 120.0
_FINISH = "FINISH_REASON_"


class Options(TypedDict, total=False):
    """What may be said beside the messages. What is left out, the policy's serving profile decides."""

    session: str
    """The user's conversation, up to 256 characters: it stays with one policy while a release is proven. Without one,
    each answer is a session of its own."""
    user: str
    """The person, up to 256 characters, so that what is theirs can be erased. The platform keeps a keyed hash."""
    segment: str
    """Which users this is, e.g. "mobile-de": up to 64 letters, digits and _ . : -. Releases are reported by segment."""
    store: bool
    """False: the text is kept nowhere and trains nothing."""
    line: str
    """Another line than the client's, or a pinned policy of one: "line@candidate", "line@<policy id>"."""
    n: int
    """Number of choices, 1 to 128; 1 when left out."""
    temperature: float
    """0 (greedy) to 2."""
    top_p: float
    """Above 0, at most 1."""
    max_tokens: int
    """Tokens per choice, at least 1."""
    stop: str | list[str]
    """Up to 4 strings that end a choice and are not part of it."""
    seed: int
    """The same seed, question and policy give the same text."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One text of an answer.

    finish_reason: "stop" (it is whole), "length" (it was cut at its most tokens) or "unknown" (it ended in a way that
    only a newer client knows).
    """

    answer_id: str
    index: int
    text: str
    finish_reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """id: what feedback names, also days later; policy_id: sha256 of the policy that answered. Tokens are counts."""

    id: str
    policy_id: str
    choices: tuple[Choice, ...]
    prompt_tokens: int
    completion_tokens: int

    @property
    def text(self) -> str:
        """The text of the first choice, the only one unless more were asked for."""
        return self.choices[0].text


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """The next piece of a streamed answer: some text of one choice. The last piece has the finished answer."""

    answer_id: str
    choice: int
    text: str
    answer: Answer | None = None


def request(  # one keyword for each of Options
    default_line: str,
    messages: str | Iterable[Mapping[str, str]],
    *,
    session: str = "",
    user: str = "",
    segment: str = "",
    store: bool | None = None,
    line: str = "",
    n: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    stop: str | Iterable[str] = (),
    seed: int | None = None,
) -> policy_service_pb2.CompleteRequest:
    """The request; InvalidField names what cannot be sent."""
    asked = policy_service_pb2.CompleteRequest()
    fields.put(asked, model=line or default_line, session_id=session, user=user, segment=segment, store=store, n=n)
    fields.put_messages(asked.messages, fields.conversation(messages))
    stops = [stop] if isinstance(stop, str) else list(stop)
    fields.put(asked.sampling, temperature=temperature, top_p=top_p, max_tokens=max_tokens, stop=stops, seed=seed)
    return asked


def read(response: policy_service_pb2.CompleteResponse) -> Answer:
    """The answer in a response."""
    made = response.completion
    choices = [Choice(made.id, said.choice, said.text.plain, _finish(said.finish_reason)) for said in made.responses]
    return _answer(made.id, made.policy_id, choices, response.usage)


def _answer(answer_id: str, policy_id: str, choices: Iterable[Choice], usage: policy_service_pb2.Usage) -> Answer:
    ordered = tuple(sorted(choices, key=lambda choice: choice.index))
    return Answer(answer_id, policy_id, ordered, usage.prompt_tokens, usage.completion_tokens)


def _finish(reason: completion_pb2.FinishReason.ValueType) -> str:
    if reason not in completion_pb2.FinishReason.values():
        return "unknown"
    return completion_pb2.FinishReason.Name(reason).removeprefix(_FINISH).lower()


class Assembly:
    """Makes pieces, and in the end the answer, of the events of one stream."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._finished: dict[int, Choice] = {}
        self._complete = False

    def take(self, event: policy_service_pb2.StreamCompleteResponse) -> Piece | None:
        """The piece of an event; None when the event says nothing to an app."""
        self._texts.setdefault(event.choice, []).append(event.delta)
        if event.HasField("finish_reason"):
            text, reason = "".join(self._texts[event.choice]), _finish(event.finish_reason)
            self._finished[event.choice] = Choice(event.completion_id, event.choice, text, reason)
        made = None
        if event.HasField("usage"):
            self._complete = True
            made = _answer(event.completion_id, event.policy_id, self._finished.values(), event.usage)
        return Piece(event.completion_id, event.choice, event.delta, made) if event.delta or made else None

    def end(self) -> None:
        """The stream is over; ServiceUnavailable when the answer is not complete."""
        if not self._complete:
            raise errors.ServiceUnavailable(
                "The stream ended before its answer was complete; ask again.", reason="SERVICE_UNAVAILABLE"
            )
