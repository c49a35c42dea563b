"""Makes the example of a head: everything a data set needs, so that the record is self-contained.

Called by `settling`. The place in the outbox (partition, sequence) and the revision are given; the rest follows from
the head and its completions alone, so a rebuild makes the same bytes.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

from trimtab.core import examples, feedback, ids, text
from trimtab.ledger import answers, events, joining


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where an example stands in its topic and how often it was revised."""

    partition: int
    sequence: int
    revision: int


About = Sequence[answers.Answer]


def about(head: joining.Head, known: answers.Answers) -> About:
    """The answers a head is about; none of a demonstration."""
    event = head.about
    tenant = event.tenant
    return [known[target.uuid][tenant] for target in event.targets]


def context_of(head: joining.Head, said: About) -> text.Context:
    """The context of the answers; of the event itself where it is about none (a demonstration)."""
    return said[0].context if said else head.about.context


def state_of(head: joining.Head) -> bytes:
    """Names what the example is made from: the same state, the same example."""
    parts = [head.counts.digest, head.counts.event.occurred_at.isoformat().encode()]
    parts += [item.digest + item.subject + item.event.id.encode() for item in head.chain]
    parts += [b"baseless"] if head.baseless else []
    return hashlib.sha256(b"\x1f".join(parts)).digest()


def assemble(head: joining.Head, said: About, place: Place) -> examples.Example:
    """The example of a head. said: what `about` gives, so all its completions are known."""
    context = context_of(head, said)
    event = head.counts.event
    prompt = said[0].prompt if said else event.kind.prompt if isinstance(event.kind, feedback.Demonstration) else ()
    return examples.Example(
        id=head.example_id,
        context=context,
        partition=place.partition,
        sequence=place.sequence,
        revision=place.revision,
        fold=ids.fold_of(context.session_hash),
        occurred_at=event.occurred_at,
        feedback_id=event.id,
        kind=None if head.withdrawn else _kind(head.counts, said),
        withdrawn=head.withdrawn,
        # where it was said from limits what is evidence, and teaches nothing
        rater=dataclasses.replace(event.rater, network=""),
        surface=event.surface,
        criterion=event.criterion,
        propensity=said[0].propensity if said else 1.0,
        prompt=() if head.withdrawn else prompt,
        feedback_chain=tuple(item.event.id for item in head.chain),
        responses=tuple(
            text.ResponseRef(answer.completion_id, target.choice)
            for answer, target in zip(said, head.about.targets, strict=True)
        ),
        policy_ids=tuple(dict.fromkeys(answer.policy_id for answer in said if answer.policy_id)),
    )


def _kind(counts: events.Received, said: About) -> examples.Kind:
    kind = counts.event.kind
    bodies = [answer.texts[target.choice] for answer, target in zip(said, counts.targets, strict=True)]
    match kind:
        case feedback.Thumb():
            return examples.ThumbExample(bodies[0], kind.up)
        case feedback.Comparison():
            return examples.PairExample(bodies[0], bodies[1], kind.strength, kind.tie)
        case feedback.Rating():
            return examples.RatingExample(bodies[0], kind.stars, kind.scale)
        case feedback.Ranking():
            ranked = zip(bodies, kind.items, strict=True)
            return examples.RankingExample(tuple(examples.RankedText(body, item.rank) for body, item in ranked))
        case feedback.Edit():
            return examples.EditExample(bodies[0], kind.corrected)
        case feedback.Critique():
            return examples.CritiqueExample(bodies[0], kind.comment, kind.span)
        case feedback.Signal():
            return examples.SignalExample(bodies[0], kind.signal)
        case feedback.Demonstration():
            return examples.DemonstrationExample(kind.response)
        case feedback.Retraction():
            raise ValueError("a retraction is no example")
