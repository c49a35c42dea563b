"""Pairs of plain text that a judge compares: of a JSON-lines file, brought in with the verdict.

What is judged comes in as an imported preference does, by the public door: the two texts become a completion with two
choices, the same whoever compares them, and the verdict a comparison of the rater that gave it. Of dialogues in the
form of hh-rlhf, which of the two was chosen is not looked at.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from trimtab.cli.feedback import importing
from trimtab.cli.feedback.rlaif import questions, verdicts
from trimtab.cli.machine import platform
from trimtab.core import errors, feedback, ids, ledger, text

SOURCE = "texts"


@dataclasses.dataclass(frozen=True, slots=True)
class Texts:
    """A prompt and two answers, in an order that follows from them. item: what they are called in their source."""

    source: str
    item: str
    prompt: tuple[text.Message, ...]
    answers: tuple[str, str]

    def feedback_id(self, rater: str, criterion: str) -> str:
        """The same for the same judge and the same two texts."""
        return str(ids.content_uuid("feedback.judge.texts", rater, criterion, self.source, self.item))

    def verdict(self, preference: questions.Preference, feedback_id: str) -> feedback.ImportedPreference:
        """As it is sent."""
        first, second = (text.Text(answer) for answer in self.answers)
        better, worse = (second, first) if preference is questions.Preference.SECOND else (first, second)
        tie = preference is questions.Preference.TIE
        return feedback.ImportedPreference(self.prompt, better, worse, self.item, tie=tie, feedback_id=feedback_id)


@dataclasses.dataclass(frozen=True, slots=True)
class TextPair:
    """people: who compared the same two texts, where somebody did. given: ids of all feedback on them that is known."""

    texts: Texts
    people: questions.Preference | None = None
    given: frozenset[str] = frozenset()

    @property
    def prompt(self) -> tuple[text.Message, ...]:
        return self.texts.prompt

    @property
    def shown(self) -> tuple[questions.Shown, questions.Shown]:
        first, second = self.texts.answers
        return questions.Shown(first), questions.Shown(second)

    def feedback_id(self, rater: str, criterion: str) -> str:
        return self.texts.feedback_id(rater, criterion)


def read(row: dict[str, Any]) -> Texts:
    """Of {"prompt", "answers"} or {"chosen", "rejected"}; ValueError or TypeError says what is wrong with it."""
    if "chosen" in row:
        item = importing.preference_of(row["chosen"], row["rejected"])
        answers = _sorted([item.preferred.read(), item.rejected.read()])
        return Texts(importing.HH_RLHF, item.item, item.prompt, answers)
    prompt, given = _prompt(row["prompt"]), row["answers"]
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(one, str) for one in given):
        raise ValueError("`answers` is not two texts")
    answers = _sorted(given)
    said = "\x1f".join((*(f"{turn.role.value}\x1e{turn.content.read()}" for turn in prompt), *answers))
    return Texts(SOURCE, hashlib.sha256(said.encode()).hexdigest()[:32], prompt, answers)


async def collect(doors: platform.Doors, wanted: Sequence[Texts], rater: str, criterion: str) -> list[TextPair]:
    """Each once, with what is known of it; those whose texts are the same or empty are none."""
    found: dict[tuple[str, str], TextPair] = {}
    for one in wanted:
        first, second = one.answers
        if first == second or not first.strip() or not second.strip() or (one.source, one.item) in found:
            continue
        by_people = ids.content_uuid("feedback", doors.facts.tenant, doors.facts.line, one.source, one.item)
        traces = [await _traced(doors, name) for name in (one.feedback_id(rater, criterion), str(by_people))]
        found[one.source, one.item] = _pair(one, traces)
    return list(found.values())


def _pair(one: Texts, traces: Sequence[ledger.TraceResponse]) -> TextPair:
    events = {each.event.id: each.event for trace in traces for each in trace.feedback}
    completions = {completion.id: completion for trace in traces for completion in trace.completions}
    votes = []
    for completion in completions.values():
        refs = {
            response.text.read(): text.ResponseRef(completion.id, response.choice) for response in completion.responses
        }
        if refs.keys() != set(one.answers):
            continue
        first, second = (refs[answer] for answer in one.answers)
        people = [event for event in events.values() if event.rater.kind is not feedback.RaterKind.MODEL]
        votes += [vote for event in people if (vote := verdicts.vote_of(event.kind, first, second)) is not None]
    return TextPair(one, verdicts.of_people(votes), frozenset(events))


async def _traced(doors: platform.Doors, name: str) -> ledger.TraceResponse:
    try:
        return await doors.ledger.trace(ledger.TraceRequest(doors.facts.tenant, name), timeout_s=30)
    except errors.NotFound:
        return ledger.TraceResponse()


def _prompt(given: Any) -> tuple[text.Message, ...]:
    """Of a question alone, or of {"role", "content"} messages."""
    turns = [{"role": text.Role.USER, "content": given}] if isinstance(given, str) else given
    if not turns or not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns):
        raise ValueError("`prompt` is neither a text nor a list of messages")
    return tuple(text.Message(text.Role(turn["role"]), text.Text(turn["content"])) for turn in turns)


def _sorted(answers: Sequence[str]) -> tuple[str, str]:
    """In an order that tells nothing of which was preferred."""
    first, second = sorted(answers, key=lambda answer: hashlib.sha256(answer.encode()).digest())
    return first, second
