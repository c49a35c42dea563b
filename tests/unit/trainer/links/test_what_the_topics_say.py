"""Anchor, live policy and releases of a line follow from the newest record of each release, in whatever order read."""

import datetime
import itertools

from trimtab.core import completions, releases, text
from trimtab.trainer.links import known

AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
State = releases.ReleaseState
LINE = ("acme", "support")


def record(
    revision: int, candidate: str, state: State, live: str, *, anchor: str = "first", begun: int = 0
) -> releases.Release:
    arms = [releases.ArmTarget(completions.Arm.STABLE, live, weight=1.0)] if live else []
    if candidate != live:
        arms.append(releases.ArmTarget(completions.Arm.CANDIDATE, candidate))
    return releases.Release(
        id=f"release {begun}",
        context=text.Context(*LINE),
        revision=revision,
        candidate_id=candidate,
        stable_id=live,
        anchor_id=anchor,
        state=state,
        salt=b"",
        created_at=AT + datetime.timedelta(hours=begun),
        arms=tuple(arms),
    )


ADOPTED = [record(1, "first", State.VERIFYING, "", anchor=""), record(2, "first", State.PROMOTED, "first")]
HISTORY = [
    *ADOPTED,
    record(3, "second", State.EVIDENCE, "first", begun=1),
    record(4, "second", State.PROMOTED, "second", begun=1),
    record(5, "third", State.NOT_PROVEN, "second", begun=2),
]


def told(records: list[releases.Release]) -> known.Known:
    topics_say = known.Known()
    for one in records:
        topics_say.see_release(one)
    return topics_say


def test_a_line_without_an_adopted_policy_has_neither_anchor_nor_live_policy() -> None:
    for records in ([], ADOPTED[:1], [record(1, "first", State.FAILED, "", anchor="")]):
        assert told(records).anchor_and_live(*LINE) == ("", "")
    assert told(HISTORY).anchor_and_live("acme", "other") == ("", "")


def test_every_order_of_reading_comes_to_the_same() -> None:
    for records in itertools.permutations(HISTORY):
        topics_say = told(list(records))
        assert topics_say.anchor_and_live(*LINE) == ("first", "second")
        promoted = topics_say.release_of(*LINE, "second")
        assert promoted is not None and promoted.state is State.PROMOTED


def test_what_serves_is_what_users_have_not_what_is_being_tried() -> None:
    assert told(HISTORY[:3]).anchor_and_live(*LINE) == ("first", "first")
    assert told(HISTORY[:4]).anchor_and_live(*LINE) == ("first", "second")
    undone = record(6, "second", State.ROLLED_BACK, "first", begun=1)
    assert told([*HISTORY, undone]).anchor_and_live(*LINE) == ("first", "first")


def test_a_policy_s_newest_release_is_the_one_that_began_last() -> None:
    again = record(6, "third", State.EVIDENCE, "second", begun=3)
    # a quarantine that is let go writes an old release anew
    old = record(7, "third", State.NOT_PROVEN, "second", begun=2)
    found = told([*HISTORY, again, old]).release_of(*LINE, "third")
    assert found == again
    assert told(HISTORY).release_of(*LINE, "fourth") is None
