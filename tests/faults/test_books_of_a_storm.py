"""What a storm's books call lost and doubled: a harness that could not say so would find nothing."""

import dataclasses

import pytest
from tests.faults.storm import books
from tests.services.trainer import conftest as making

from trimtab.core import clock, examples, feedback, text

VOTES = ("a", "b", "c")


def event(vote: str, up: bool = True) -> feedback.FeedbackEvent:
    return feedback.FeedbackEvent(vote, clock.utc_now(), feedback.Thumb(text.ResponseRef("completion", 0), up))


def example(vote: str, **changes: object) -> examples.Example:
    kind = examples.ThumbExample(text.Text("yes"), up=True)
    return making.example(1, kind, **({"id": f"example-{vote}", "feedback_id": vote} | changes))


CALM = books.Evidence(
    acknowledged=set(VOTES),
    # the second vote was sent again after a crash, as it was
    events=[event("a"), event("b"), event("b"), event("c")],
    examples=[example("a"), example("b"), example("b", revision=2), example("c")],
    members=[("example-a", "trained"), ("example-b", "held out"), ("example-c", "rejected")],
    announced=["data", "policy"],
    labels=["sft first", "ppo cycle 1"],
    steps={"run": [("policy", 1), ("policy", 2), ("critic", 1)]},
)


def test_books_without_a_fault_balance() -> None:
    verdict = books.judge(CALM)
    assert verdict.balance
    assert (verdict.acknowledged, verdict.joined) == (3, 3)
    assert verdict.dispositions == {"trained": 1, "held out": 1, "rejected": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"events": CALM.events[:3]}, "vote c is not in the log"),
        ({"examples": CALM.examples[:3]}, "vote c became no example"),
        ({"examples": [*CALM.examples, example("c", revision=2, withdrawn=True)]}, "vote c became no example"),
        ({"members": CALM.members[:2]}, "vote c is in no data set"),
        ({"steps": {"run": [("policy", 1), ("policy", 3)]}}, "run told of policy only steps [1, 3]"),
    ],
)
def test_what_is_missing_is_lost(changes: dict[str, object], said: str) -> None:
    verdict = books.judge(dataclasses.replace(CALM, **changes))
    assert said in verdict.lost
    assert not verdict.balance


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"examples": [*CALM.examples, example("c", id="example-d")]}, "vote c became 2 examples"),
        ({"events": [*CALM.events, event("c", up=False)]}, "vote c stands in the log with two bodies"),
        ({"members": [*CALM.members, ("example-a", "trained")]}, "example example-a is a member twice"),
        ({"announced": ["data", "data"]}, "model data was announced twice"),
        ({"labels": ["sft first", "sft first"]}, "the run 'sft first' was started twice"),
        ({"steps": {"run": [("policy", 1), ("policy", 1)]}}, "step ('run', 'policy', 1) was told twice"),
    ],
)
def test_what_is_there_twice_is_doubled(changes: dict[str, object], said: str) -> None:
    verdict = books.judge(dataclasses.replace(CALM, **changes))
    assert said in verdict.doubled
    assert not verdict.balance
