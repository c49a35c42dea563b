"""What there is to judge: pairs of answers that the platform knows, with what people said of them."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Sequence

from trimtab.cli.feedback import importing
from trimtab.cli.feedback.rlaif import questions, texts, verdicts
from trimtab.cli.machine import platform
from trimtab.core import completions, errors, feedback, ids, ledger, text

_ROW = (
    'give {"completion": ID}, {"first": "ID:0", "second": "ID:1"}, {"prompt": TEXT, "answers": [TEXT, TEXT]} or '
    '{"chosen": DIALOGUE, "rejected": DIALOGUE}'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """people: their comparisons of the two. given: ids of all feedback on them."""

    prompt: tuple[text.Message, ...]
    refs: tuple[text.ResponseRef, text.ResponseRef]
    shown: tuple[questions.Shown, questions.Shown]
    people: questions.Preference | None
    given: frozenset[str]

    def feedback_id(self, rater: str, criterion: str) -> str:
        """The same for the same judge and the same two answers, whichever comes first."""
        names = sorted(f"{ref.completion_id}:{ref.choice}" for ref in self.refs)
        return str(ids.content_uuid("feedback.judge", rater, criterion, *names))


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """refs: two answers, or none: every pair of the completion's choices; or texts that the platform may not know.

    where: for people, who may have mistyped.
    """

    where: str
    completion_id: str = ""
    refs: tuple[text.ResponseRef, ...] = ()
    plain: texts.Texts | None = None


def read_file(file: pathlib.Path) -> tuple[list[Wanted], int]:
    """Of JSON lines, and how many of them are dialogues that differ in more than one answer.

    InvalidField names the first line that is of no form.
    """
    wanted = []
    left_out = 0
    for number, line in enumerate(importing.content_of(file).decode("utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file.name} line {number}"
        try:
            row = json.loads(line)
            keys = set(row)
            if keys == {"completion"} and isinstance(row["completion"], str):
                wanted.append(Wanted(where, row["completion"]))
            elif keys == {"first", "second"}:
                wanted.append(Wanted(where, refs=(_ref(row["first"]), _ref(row["second"]))))
            elif keys in ({"prompt", "answers"}, {"chosen", "rejected"}):
                wanted.append(Wanted(where, plain=texts.read(row)))
            else:
                raise ValueError(f"it has the keys {', '.join(sorted(keys))}")
        except importing.NotOneAnswer:
            left_out += 1
        except (ValueError, TypeError, AttributeError, KeyError) as problem:
            raise errors.InvalidField(where, f"names no answers ({problem})", _ROW) from problem
    return wanted, left_out


def _ref(given: str) -> text.ResponseRef:
    completion_id, colon, choice = given.rpartition(":")
    return text.ResponseRef(completion_id, int(choice)) if colon else text.ResponseRef(given)


async def collect(doors: platform.Doors, wanted: Sequence[Wanted]) -> list[Pair]:
    """The pairs of answers that the platform knows, each once. InvalidField or NotFound names what cannot be judged."""
    traced: dict[str, ledger.TraceResponse] = {}
    found: dict[frozenset[text.ResponseRef], Pair] = {}
    for one in wanted:
        names = {ref.completion_id for ref in one.refs} or {one.completion_id}
        for name in names - traced.keys():
            traced[name] = await doors.ledger.trace(ledger.TraceRequest(doors.facts.tenant, name), timeout_s=30)
        answers = [completion_of(traced[name], name, one.where) for name in sorted(names)]
        refs = [one.refs] if one.refs else _combinations(answers[0])
        for first, second in refs:
            pair = _pair(answers, first, second, [traced[name] for name in sorted(names)], one.where)
            if pair is not None:
                found.setdefault(frozenset((first, second)), pair)
    return list(found.values())


def completion_of(trace: ledger.TraceResponse, completion_id: str, where: str) -> completions.Completion:
    for one in trace.completions:
        if one.id == completion_id:
            return one
    raise errors.InvalidField(where, f"{completion_id!r} is no completion that the ledger knows", "name one")


def _combinations(completion: completions.Completion) -> list[tuple[text.ResponseRef, ...]]:
    refs = [text.ResponseRef(completion.id, response.choice) for response in completion.responses]
    return list(itertools.combinations(refs, 2))


def _pair(
    answers: Sequence[completions.Completion],
    first: text.ResponseRef,
    second: text.ResponseRef,
    traces: Iterable[ledger.TraceResponse],
    where: str,
) -> Pair | None:
    """None where the two texts are the same or one is empty: there is nothing to prefer."""
    if len({(one.prompt, one.context.session_hash) for one in answers}) > 1:
        raise errors.InvalidField(where, "names answers to different questions", "name two answers to one question")
    texts = {
        text.ResponseRef(one.id, response.choice): response.text.read() for one in answers for response in one.responses
    }
    for ref in (first, second):
        if ref not in texts:
            raise errors.InvalidField(
                where, f"{ref.completion_id} has no choice {ref.choice}", "count its choices from 0"
            )
    if texts[first] == texts[second] or not texts[first].strip() or not texts[second].strip():
        return None
    events = {one.event.id: one for trace in traces for one in trace.feedback}
    said = [one.event for one in events.values() if one.status is ledger.FeedbackStatus.JOINED]
    by_people = [event for event in said if event.rater.kind is not feedback.RaterKind.MODEL]
    votes = [vote for event in by_people if (vote := verdicts.vote_of(event.kind, first, second)) is not None]
    shown = [questions.Shown(texts[ref], _notes(by_people, ref)) for ref in (first, second)]
    return Pair(answers[0].prompt, (first, second), (shown[0], shown[1]), verdicts.of_people(votes), frozenset(events))


def _notes(events: Sequence[feedback.FeedbackEvent], ref: text.ResponseRef) -> tuple[str, ...]:
    kinds = (event.kind for event in events)
    return tuple(kind.comment.read() for kind in kinds if isinstance(kind, feedback.Critique) and kind.target == ref)
