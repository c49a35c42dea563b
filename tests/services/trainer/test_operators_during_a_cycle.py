"""What operators do to a line while a cycle is under way: its policy starts from what serves then."""

import dataclasses
import datetime

from tests.services.trainer.conftest import AT, LINE, TENANT, Installation
from tests.services.trainer.test_cycles import (
    Bench,
    State,
    bench,
    decide,
    release_record,
    steps,
    thumbs,
    train_a_policy,
)

from trimtab.core import completions, releases
from trimtab.trainer.runs import triggers

__all__ = ["bench"]


def operators_act(bench: Bench, policy: str, live: str, *, undo: bool = False, anchor: str = "") -> None:
    """The newest record of the line, of a release that no cycle waits for: what serves from now on, and the anchor."""
    before = bench.topics_say.release_of(TENANT, LINE, policy)
    bench.records += 1
    bench.topics_say.see_release(
        dataclasses.replace(
            before or bench.adopted,
            id=before.id if before else f"release of {policy}",
            candidate_id=policy,
            revision=1 + bench.records,
            state=State.ROLLED_BACK if undo else State.PROMOTED,
            anchor_id=anchor or bench.topics_say.anchor_and_live(TENANT, LINE)[0],
            created_at=before.created_at if before else AT + datetime.timedelta(hours=bench.records),
            arms=(releases.ArmTarget(completions.Arm.STABLE, live, weight=1.0),),
        )
    )


def test_a_policy_that_is_undone_while_the_reward_model_trains_is_not_trained_further(
    bench: Bench, installation: Installation
) -> None:
    bench.add(thumbs(0, 20))
    steps(bench)
    policy = train_a_policy(bench)
    decide(bench, policy, State.PROMOTED)
    bench.add(thumbs(20, 20))
    steps(bench)
    operators_act(bench, policy, installation.policy_id, undo=True)
    train_a_policy(bench)
    spec = bench.book.get(TENANT, bench.cycle().policy_run_id).spec
    assert (spec.parent_id, spec.reference_id) == (installation.policy_id, installation.policy_id)


def test_what_an_operator_puts_in_place_while_the_reward_model_trains_is_what_is_trained_further(
    bench: Bench, installation: Installation
) -> None:
    bench.add(thumbs(0, 20))
    steps(bench)
    operators_act(bench, "b" * 64, live="b" * 64)
    policy = train_a_policy(bench)
    spec = bench.book.get(TENANT, bench.cycle().policy_run_id).spec
    assert (spec.parent_id, spec.reference_id) == ("b" * 64, installation.policy_id)
    decide(bench, policy, State.NOT_PROVEN)
    bench.add(thumbs(20, 20))
    steps(bench)
    operators_act(bench, "c" * 64, live="c" * 64, anchor="c" * 64)
    train_a_policy(bench)
    spec = bench.book.get(TENANT, bench.cycle().policy_run_id).spec
    assert (spec.parent_id, spec.reference_id) == ("c" * 64, "c" * 64)


def test_a_candidate_that_gives_way_to_an_operators_ends_its_cycle(bench: Bench) -> None:
    bench.add(thumbs(0, 20))
    steps(bench)
    policy = train_a_policy(bench)
    release_record(bench, "b" * 64, State.EVIDENCE)
    release_record(bench, policy, State.PENDING)
    release_record(bench, "c" * 64, State.PENDING)
    steps(bench)
    assert bench.cycle().state is triggers.CycleState.RELEASE
    decide(bench, policy, State.FAILED)
    assert bench.cycle().outcome == "failed: users said so"
