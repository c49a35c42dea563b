"""Answers with what people wrote about them (critiques), for a judge that reads it as a thumb up or down.

Each comment is read by itself. An answer has one verdict of one reader, as any rater has one thumb on it: what all the
comments say that say something. It names the comments it was read from; when another comes in, the new verdict amends
the old one.
"""

import dataclasses
from collections.abc import Sequence

from trimtab.cli.feedback.rlaif import pairs, questions, verdicts
from trimtab.cli.machine import platform
from trimtab.core import errors, feedback, ids, ledger, text

# As many as a verdict may name, the latest of them.
MOST = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Comment:
    """part: of the answer, where the comment is about one."""

    id: str
    words: str
    part: str


@dataclasses.dataclass(frozen=True, slots=True)
class Commented:
    """An answer. people: their thumbs on it. given: ids of all feedback on the completion."""

    prompt: tuple[text.Message, ...]
    ref: text.ResponseRef
    answer: str
    comments: tuple[Comment, ...]
    people: questions.Opinion | None
    given: frozenset[str]

    def feedback_id(self, rater: str, criterion: str) -> str:
        """The same for the same reader and the same comments on the same answer."""
        names = (f"{self.ref.completion_id}:{self.ref.choice}", *sorted(comment.id for comment in self.comments))
        return str(ids.content_uuid("feedback.judge.comments", rater, criterion, *names))


async def collect(doors: platform.Doors, wanted: Sequence[pairs.Wanted]) -> list[Commented]:
    """The answers among these that somebody wrote about, each once. InvalidField or NotFound names what is unknown."""
    found: dict[text.ResponseRef, Commented] = {}
    for one in wanted:
        if one.plain is not None:
            raise errors.InvalidField(
                one.where, "is texts that nobody wrote about", "name completions with --critiques"
            )
        for name in {ref.completion_id for ref in one.refs} or {one.completion_id}:
            trace = await doors.ledger.trace(ledger.TraceRequest(doors.facts.tenant, name), timeout_s=30)
            completion = pairs.completion_of(trace, name, one.where)
            for response in completion.responses:
                ref = text.ResponseRef(name, response.choice)
                if not one.refs or ref in one.refs:
                    said = _commented(completion.prompt, ref, response.text.read(), trace)
                    found |= {ref: said} if said.comments and said.answer.strip() else {}
    return list(found.values())


def _commented(
    prompt: tuple[text.Message, ...], ref: text.ResponseRef, answer: str, trace: ledger.TraceResponse
) -> Commented:
    standing = [one.event for one in trace.feedback if one.status is ledger.FeedbackStatus.JOINED]
    people = [event for event in standing if event.rater.kind is not feedback.RaterKind.MODEL]
    comments = [
        (event.occurred_at, Comment(event.id, event.kind.comment.read(), _part(answer, event.kind.span)))
        for event in people
        if isinstance(event.kind, feedback.Critique) and event.kind.target == ref
    ]
    latest = sorted(comments, key=lambda one: (one[0], one[1].id))[-MOST:]
    thumbs = [e.kind.up for e in people if isinstance(e.kind, feedback.Thumb) and e.kind.target == ref]
    known = frozenset(one.event.id for one in trace.feedback)
    return Commented(prompt, ref, answer, tuple(one for _, one in latest), verdicts.of_thumbs(thumbs), known)


def _part(answer: str, span: feedback.Span | None) -> str:
    return "" if span is None else answer[span.start : span.end]
