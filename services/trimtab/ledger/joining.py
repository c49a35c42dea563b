"""Folds feedback events and completions into what counts: a pure function of two sets, whatever the order of arrival.

Called by `settling` (on the sessions a batch touched) and by the tests (on everything at once). How a head becomes an
example is in `assembling`.

- Identity is (tenant, completion, feedback id), as `core.feedback.identity` says. The first in partition order counts,
  another body under the same identity is a conflict. Copies of the same body are one event here.
- An event is judged: it waits for its completion, is rejected for good, or stands. What was said of an empty answer
  stands: it is evidence like any other, and the cut of a data set decides what trains.
- Standing events link into chains: by `supersedes`, and a rater's votes on the same answer by themselves. An event that
  names one which has not arrived waits for it.
- Of a chain one event counts: among those nobody supersedes, a retraction before all others, then the greatest
  (occurred_at, id).
- What was read from other feedback (a thumb that a model made of critiques) counts as long as one of those does.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from trimtab.core import feedback, ids, ledger, text
from trimtab.ledger import answers, events

NO_COMPLETION = "completion has not arrived"
NO_SUPERSEDED = "superseded feedback has not arrived"


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """What became of an event. example_id: of the chain it belongs to, once it stands."""

    status: ledger.FeedbackStatus
    reason: str = ""
    example_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The event of a chain that counts, and the chain in partition order. A retraction means: nothing counts.

    baseless: all that it was read from has been taken back.
    """

    example_id: str
    counts: events.Received
    chain: tuple[events.Received, ...]
    baseless: bool = False

    @property
    def withdrawn(self) -> bool:
        return self.baseless or isinstance(self.counts.event.kind, feedback.Retraction)

    @property
    def about(self) -> events.Received:
        """The event whose answers the example is about: of a retraction, one that it takes back."""
        if not self.withdrawn:
            return self.counts
        kept = (item for item in self.chain if not isinstance(item.event.kind, feedback.Retraction))
        return next(kept, self.counts)


@dataclasses.dataclass(frozen=True, slots=True)
class Folded:
    """standings: by `Received.key`; heads: one a chain."""

    standings: Mapping[int, Standing]
    heads: tuple[Head, ...]


Scope = tuple[str, bytes]


def scope_of(received: events.Received, known: answers.Answers) -> Scope:
    """What is folded together: a tenant's session, or what stands for it until the session is known."""
    for target in received.targets:
        answer = known.get(target.uuid, {}).get(received.tenant)
        if answer is not None and target.uuid.bytes == received.subject:
            return received.tenant, answer.context.session_hash
    return received.tenant, received.context.session_hash or received.subject


def fold(received: Iterable[events.Received], known: answers.Answers) -> Folded:
    """Everything that can be said about these events; complete for the scopes whose events are all given."""
    scopes: dict[Scope, list[events.Received]] = collections.defaultdict(list)
    for item in received:
        scopes[scope_of(item, known)].append(item)
    standings: dict[int, Standing] = {}
    heads: list[Head] = []
    for members in scopes.values():
        counted = _first_of_each_identity(members, standings)
        judged = {item.key: judge(item, known) for item in counted}
        standing = _with_superseded_at_hand(counted, judged)
        for head in _with_what_they_were_read_from([_head(chain) for chain in _chains(standing)]):
            heads.append(head)
            for item in head.chain:
                status = ledger.FeedbackStatus.JOINED if item is head.counts else ledger.FeedbackStatus.SUPERSEDED
                judged[item.key] = Standing(status, example_id=head.example_id)
        standings.update((key, verdict) for key, verdict in judged.items() if verdict is not None)
    return Folded(standings, tuple(heads))


def _first_of_each_identity(
    members: Sequence[events.Received], standings: dict[int, Standing]
) -> list[events.Received]:
    first: dict[tuple[bytes, str], events.Received] = {}
    for item in sorted(members, key=lambda item: item.order):
        if first.setdefault((item.subject, item.event.id), item) is not item:
            standings[item.key] = Standing(ledger.FeedbackStatus.CONFLICT, "another body came first under this id")
    return list(first.values())


def judge(received: events.Received, known: answers.Answers) -> Standing | None:
    """Why an event cannot join (yet), looking at nothing but its completions; None when it can."""
    tenant = received.tenant
    found: list[tuple[events.Target, answers.Answer]] = []
    for target in received.targets:
        by_tenant = known.get(target.uuid, {})
        if tenant in by_tenant:
            found.append((target, by_tenant[tenant]))
        elif by_tenant:
            return _rejected("completion of another tenant")
    rejection = _broken_rule(received.event.kind, found)
    if rejection:
        return _rejected(rejection)
    if len(found) < len(received.targets):
        return Standing(ledger.FeedbackStatus.WAITING, NO_COMPLETION)
    return None


def _rejected(reason: str) -> Standing:
    return Standing(ledger.FeedbackStatus.REJECTED, reason)


def _broken_rule(kind: feedback.Kind, found: Sequence[tuple[events.Target, answers.Answer]]) -> str:
    contexts = [answer.context for _, answer in found]
    texts = [answer.texts.get(target.choice) for target, answer in found]
    rules = (
        ("no consent to keep the completion", any(not context.store for context in contexts)),
        ("choice out of range", None in texts),
        ("sessions differ", len({context.session_hash for context in contexts}) > 1),
        ("lines differ", len({context.line for context in contexts}) > 1),
        ("prompts differ", any(answer.prompt != found[0][1].prompt for _, answer in found)),
        ("span outside the answer", any(not _spans(kind, said) for said in texts)),
    )
    return next((reason for reason, broken in rules if broken), "")


def _spans(kind: feedback.Kind, said: text.Text | None) -> bool:
    """Whether a critique's span lies in the answer, as far as that can be read."""
    if not isinstance(kind, feedback.Critique) or kind.span is None or said is None:
        return True
    return not isinstance(said.body, str) or kind.span.end <= len(said.body)


def _with_superseded_at_hand(
    counted: Sequence[events.Received], judged: dict[int, Standing | None]
) -> list[events.Received]:
    """The events that stand. One that names an event which is not here, or waits itself, waits."""
    standing = [item for item in counted if judged[item.key] is None]
    settled = {
        item.event.id
        for item in counted
        if (verdict := judged[item.key]) and verdict.status is ledger.FeedbackStatus.REJECTED
    }
    while True:
        at_hand = settled | {item.event.id for item in standing}
        held = [item for item in standing if not at_hand.issuperset(item.event.supersedes)]
        if not held:
            return standing
        for item in held:
            judged[item.key] = Standing(ledger.FeedbackStatus.WAITING, NO_SUPERSEDED)
        standing = [item for item in standing if judged[item.key] is None]


def _superseded(item: events.Received, standing: Iterable[events.Received]) -> list[events.Received]:
    """The events this one names. Ids are unique per completion: of several, those that share one with it are meant."""
    named = [other for other in standing if other.event.id in item.event.supersedes and other is not item]
    subjects = {target.uuid for target in item.targets}
    near = [other for other in named if subjects.intersection(target.uuid for target in other.targets)]
    return near or named


def _chains(standing: Sequence[events.Received]) -> list[tuple[events.Received, ...]]:
    """Connected groups, each in partition order."""
    leader = {item.key: item.key for item in standing}

    def find(key: int) -> int:
        while leader[key] != key:
            leader[key] = key = leader[leader[key]]
        return key

    slots: dict[str, int] = {}
    for item in standing:
        leader[find(item.key)] = find(slots.setdefault(_root_name(item), item.key))
        if item.event.supersedes:
            for other in _superseded(item, standing):
                leader[find(item.key)] = find(other.key)
    ordered = sorted(standing, key=lambda item: (find(item.key), item.order))
    return [tuple(group) for _, group in itertools.groupby(ordered, key=lambda item: find(item.key))]


def _head(chain: tuple[events.Received, ...]) -> Head:
    replaced = {other.key for item in chain if item.event.supersedes for other in _superseded(item, chain)}
    heads = [item for item in chain if item.key not in replaced] or list(chain)
    counts = max(heads, key=lambda item: (isinstance(item.event.kind, feedback.Retraction), item.recency))
    # The first of a chain names it; whatever arrives later, of the events that supersede nothing the least name stands.
    roots = [item for item in chain if not item.event.supersedes] or list(chain)
    return Head(min(_example_id(item) for item in roots), counts, chain)


def _with_what_they_were_read_from(heads: Sequence[Head]) -> Sequence[Head]:
    """Heads as they are, those baseless that were read from nothing that still counts."""
    if not any(head.counts.event.read_from for head in heads):
        return heads
    gone = {
        (target.uuid, item.event.id)
        for head in heads
        if head.withdrawn
        for item in head.chain
        for target in item.targets
    }

    def is_gone(read: str, by: events.Received) -> bool:
        return any((target.uuid, read) in gone for target in by.targets)

    return [
        dataclasses.replace(head, baseless=bool(read) and all(is_gone(one, head.counts) for one in read))
        for head in heads
        for read in [head.counts.event.read_from]
    ]


def _example_id(root: events.Received) -> str:
    return str(ids.content_uuid("example", root.tenant, _root_name(root)))


def _root_name(item: events.Received) -> str:
    """Votes of one rater on the same answers share a name: the later amends the earlier. Others have their identity."""
    votes = feedback.Thumb | feedback.Rating | feedback.Comparison | feedback.Ranking
    if not isinstance(item.event.kind, votes):
        return f"{item.subject.hex()} {item.event.id}"
    about = sorted(f"{target.uuid.hex}/{target.choice}" for target in item.targets)
    rater = item.event.rater
    return "\x1e".join((type(item.event.kind).__name__, *about, rater.kind.value, rater.id, item.event.criterion))
