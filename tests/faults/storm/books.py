"""Whether anything was lost or doubled: what users were told, against what the log, the data sets and the runs hold."""

import collections
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from tests.faults import reading

from trimtab import registry
from trimtab.bus import connect, topics
from trimtab.cli.machine import platform
from trimtab.core import examples, feedback, models
from trimtab.trainer.data import datasets


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """events: feedback as it stands in the log, copies included. members: (example id, disposition) of the last cut."""

    acknowledged: Collection[str]
    events: Sequence[feedback.FeedbackEvent]
    examples: Sequence[examples.Example]
    members: Sequence[tuple[str, str]]
    announced: Sequence[str]
    labels: Sequence[str]
    steps: Mapping[str, Sequence[tuple[str, int]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """acknowledged, joined: votes; dispositions: of their examples in the last cut. lost and doubled in words."""

    acknowledged: int
    joined: int
    dispositions: dict[str, int]
    lost: tuple[str, ...]
    doubled: tuple[str, ...]

    @property
    def balance(self) -> bool:
        same = self.acknowledged == self.joined == sum(self.dispositions.values())
        return same and not self.lost and not self.doubled


def judge(found: Evidence) -> Verdict:
    """Every vote by its id, from the user to its one place in a data set; everything else that may be there once."""
    stored = {event.id for event in found.events}
    standing = reading.standing(found.examples)
    by_vote = collections.Counter(example.feedback_id for example in standing)
    disposition = dict(found.members)
    cut = {example.feedback_id for example in standing if example.id in disposition}
    lost = [f"vote {vote} is not in the log" for vote in sorted(set(found.acknowledged) - stored)]
    lost += [f"vote {vote} became no example" for vote in sorted(set(found.acknowledged) - by_vote.keys())]
    lost += [f"vote {vote} is in no data set" for vote in sorted(set(found.acknowledged) - cut)]
    lost += [
        f"{run} told of {phase} only steps {list(numbers)}"
        for run, told in found.steps.items()
        for phase, numbers in _by_phase(told)
        if sorted(set(numbers)) != list(range(1, len(set(numbers)) + 1))
    ]
    doubled = [f"vote {vote} became {count} examples" for vote, count in by_vote.items() if count > 1]
    doubled += [f"vote {vote} stands in the log with two bodies" for vote in _two_bodies(found.events)]
    for what, names in (
        ("example {} is a member twice", [name for name, _ in found.members]),
        ("model {} was announced twice", found.announced),
        ("the run {!r} was started twice", found.labels),
        ("step {} was told twice", [(run, *step) for run, told in found.steps.items() for step in told]),
    ):
        doubled += [what.format(name) for name, count in collections.Counter(names).items() if count > 1]
    return Verdict(
        acknowledged=len(set(found.acknowledged)),
        joined=len(set(found.acknowledged) & by_vote.keys()),
        dispositions=dict(collections.Counter(disposition[one.id] for one in standing if one.id in disposition)),
        lost=tuple(lost),
        doubled=tuple(doubled),
    )


def _two_bodies(events: Iterable[feedback.FeedbackEvent]) -> list[str]:
    bodies: dict[str, set[bytes]] = collections.defaultdict(set)
    for event in events:
        bodies[event.id].add(feedback.body_digest(event))
    return sorted(vote for vote, digests in bodies.items() if len(digests) > 1)


def _by_phase(told: Iterable[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    steps: dict[str, list[int]] = collections.defaultdict(list)
    for phase, number in told:
        steps[phase].append(number)
    return list(steps.items())


def gather(layout: platform.Layout, acknowledged: Collection[str], labels: Sequence[str], last_cut: str) -> Evidence:
    """Read from the files of a platform that has stopped. last_cut: id of the data set of all votes."""
    with contextlib.closing(connect.open_log(layout.log_url)) as log:
        events = reading.decoded(log, topics.FEEDBACK, feedback.FeedbackEvent)
        made = reading.decoded(log, topics.EXAMPLES, examples.Example)
        announced = reading.decoded(log, topics.MODELS, models.PublishedModel)
    folder = registry.Registry(layout.registry_url, layout.cache).fetch(last_cut)
    return Evidence(
        acknowledged=acknowledged,
        events=events,
        examples=made,
        members=[(member.example_id, member.disposition) for member in datasets.read_members(folder)],
        announced=[model.id for model in announced],
        labels=labels,
        steps={path.parent.name: _steps(path) for path in (layout.state / "trainer" / "runs").glob("*/metrics.jsonl")},
    )


def _steps(path: pathlib.Path) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["phase"], row["step"]) for row in rows]
