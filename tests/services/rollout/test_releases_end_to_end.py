"""The controller with the real log, ledger, registry and supervisor: users' votes promote and roll back."""

import asyncio
from typing import Any

import pytest
from tests import timing

from trimtab.core import completions, control, errors, models, releases

TENANT, LINE = "acme", "support"
State = releases.ReleaseState


def adopt(model_id: str, reason: str = "first") -> control.AdoptRequest:
    return control.AdoptRequest(TENANT, LINE, model_id, "ann", reason)


def asked(reason: str = "because") -> control.LineRequest:
    return control.LineRequest(TENANT, LINE, "ann", reason)


async def adopted(platform: Any, rollout: Any, name: str = "old") -> str:
    model_id = platform.publish_model(name)
    await rollout.adopt(adopt(model_id))
    await platform.reach(model_id, State.PROMOTED)
    return model_id


def weights(release: releases.Release) -> dict[str, float]:
    return {arm.policy_id: round(arm.weight, 6) for arm in release.arms}


async def canary(platform: Any, model_id: str, approval: dict[str, float]) -> releases.Release:
    """Users answer and vote until the release of a model is decided."""
    release = await platform.reach(model_id, State.SAFETY)
    platform.visit(release, approval, 60)
    release = await platform.reach(model_id, State.EVIDENCE)
    platform.visit(release, approval, 260)
    return await platform.reach(model_id, *releases.FINAL_STATES)


async def test_a_first_policy_is_adopted_verified_and_serves_alone(platform) -> None:
    async with platform.rollout() as rollout:
        model_id = platform.publish_model("old")
        pending = await rollout.adopt(adopt(model_id))
        assert pending.state is State.PENDING
        release = await platform.reach(model_id, State.PROMOTED)
        assert release.id == pending.id
        assert (release.stable_id, release.anchor_id) == ("", model_id)
        (arm,) = release.arms
        assert (arm.arm, arm.policy_id, arm.weight) == (completions.Arm.STABLE, model_id, 1.0)
        assert arm.loaded_digest == platform.artifacts.manifest(model_id).loaded_digest
        assert platform.running(model_id)
        again = await rollout.adopt(adopt(model_id))
        assert again.id == release.id
        (entry,) = platform.audited()
        assert (entry.act, entry.actor, entry.target, entry.reason) == ("line.adopt", "ann", model_id, "first")


async def test_a_better_policy_is_promoted_by_votes_and_can_be_undone(platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        new = platform.publish_model("new")
        promoted = await canary(platform, new, {old: 0.3, new: 0.9})
        assert promoted.state is State.PROMOTED
        assert "which proves the candidate" in promoted.history[-1].reason
        assert weights(platform.head()) == {new: 1.0, old: 0.0}
        assert promoted.evidence.consumed
        assert promoted.anchor_id == old
        assert platform.running(old)
        await rollout.undo(asked("users complain"))
        undone = await platform.reach(new, State.ROLLED_BACK)
        assert weights(undone) == {old: 1.0, new: 0.0}
        assert "users complain" in undone.history[-1].reason
        assert undone.quarantine is None
        with pytest.raises(errors.WrongState, match="adopted"):
            await rollout.undo(asked())


async def test_a_refused_policy_gets_no_traffic_until_forced_and_is_rolled_back_by_votes(platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        gates = (models.GateFigure("win_rate", 0.2, 0.5, False, "it wins 20 % of held-out prompts"),)
        bad = platform.publish_model("bad", gates=gates)
        refused = await platform.reach(bad, State.FAILED)
        assert refused.history[-1].reason == "Refused at the gate: win rate 0.2 (it wins 20 % of held-out prompts)."
        assert weights(platform.head()) == {old: 1.0}
        with pytest.raises(errors.InvalidField, match="force_reason") as problem:
            await rollout.start_release(control.StartReleaseRequest(TENANT, LINE, bad, "ann"))
        assert "wins 20 %" in str(problem.value)
        forced = await rollout.start_release(control.StartReleaseRequest(TENANT, LINE, bad, "ann", "a wager"))
        assert forced.forced_reason == "a wager"
        assert forced.id != refused.id
        ended = await canary(platform, bad, {old: 0.8, bad: 0.2})
        assert ended.state is State.ROLLED_BACK
        assert ended.id == forced.id
        assert "worse" in ended.history[-1].reason
        assert ended.history[-1].reason.endswith(ended.quarantine.summary)
        assert not ended.quarantine.in_force and ended.quarantine.summary.startswith("Nothing is quarantined")
        assert weights(platform.head()) == {old: 1.0}
        entry = platform.audited()[-1]
        assert (entry.act, entry.target, entry.reason) == ("release.force", bad, "a wager")


async def test_a_policy_that_is_no_better_is_withdrawn_and_its_process_stopped(platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        new = platform.publish_model("new")
        release = await platform.reach(new, State.SAFETY)
        approval = {old: 0.6, new: 0.6}
        platform.visit(release, approval, 60)
        release = await platform.reach(new, State.EVIDENCE)
        platform.visit(release, approval, 320)
        ended = await platform.reach(new, *releases.FINAL_STATES)
        assert (ended.state, ended.quarantine) == (State.NOT_PROVEN, None)
        await platform.until(lambda: not platform.running(new))
        assert platform.running(old)


@pytest.mark.parametrize(
    ("fault", "words"), [({"lies": True}, "its manifest says"), ({"crashes": True}, "ended 3 times")]
)
async def test_a_process_that_loaded_other_bytes_or_crashes_fails_the_release(platform, fault, words) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        new = platform.publish_model("new", **fault)
        failed = await platform.reach(new, State.FAILED)
        assert words in failed.history[-1].reason
        assert failed.quarantine is None
        assert weights(platform.head()) == {old: 1.0}
        assert not any(weights(record).get(new) for record in platform.records())


async def test_a_newer_model_waits_for_the_release_under_way_and_the_newest_goes_next(platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        first = platform.publish_model("first")
        under_way = await platform.reach(first, State.SAFETY)
        second = platform.publish_model("second")
        await platform.reach(second, State.PENDING)
        third = platform.publish_model("third")
        superseded = await platform.reach(second, State.FAILED)
        assert superseded.history[-1].reason == f"Superseded by {third}."
        # The one under way still routes, by its own salt.
        assert platform.head().id == under_way.id
        assert platform.head().salt == under_way.salt
        await rollout.abort(asked("enough"))
        aborted = await platform.reach(first, State.NOT_PROVEN)
        assert (aborted.history[-1].actor, aborted.quarantine) == ("ann", None)
        begun = await platform.reach(third, State.SAFETY)
        assert begun.stable_id == old


async def test_every_record_routes_and_revisions_rise_by_one(platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        platform.publish_model("bad", gates=(models.GateFigure("win_rate", 0.2, 0.5, False),))
        new = platform.publish_model("new")
        await canary(platform, new, {old: 0.1, new: 0.95})
        records = platform.records()
        assert [record.revision for record in records] == list(range(1, len(records) + 1))
        assert len({record.generation for record in records}) == 1
        after_adoption = records[[record.state for record in records].index(State.PROMOTED) :]
        assert all(sum(arm.weight for arm in record.arms if arm.address) == 1 for record in after_adoption)


async def test_pause_holds_a_proven_candidate_and_resume_lets_it_go_on(platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        new = platform.publish_model("new")
        release = await platform.reach(new, State.SAFETY)
        platform.visit(release, {old: 0.2, new: 0.9}, 60)
        release = await platform.reach(new, State.EVIDENCE)
        assert (await rollout.pause(asked("look first"))).paused
        with pytest.raises(errors.WrongState, match="paused already"):
            await rollout.pause(asked())
        platform.visit(release, {old: 0.2, new: 0.9}, 260)
        await platform.until(lambda: platform.head().evidence.verdict is releases.Verdict.BETTER)
        held = platform.head()
        assert (held.state, held.paused) == (State.EVIDENCE, True)
        await rollout.resume(asked("looked"))
        await platform.reach(new, State.PROMOTED)
        acts = [entry.act for entry in platform.audited()]
        assert acts == ["line.adopt", "release.pause", "release.resume"]


async def test_an_operator_can_promote_without_evidence_and_it_is_marked_forced(platform) -> None:
    async with platform.rollout() as rollout:
        await adopted(platform, rollout)
        with pytest.raises(errors.WrongState, match="no release under way"):
            await rollout.promote(asked())
        new = platform.publish_model("new")
        await platform.reach(new, State.SAFETY)
        with pytest.raises(errors.InvalidField, match="reason"):
            await rollout.promote(asked(" "))
        await rollout.promote(asked("a deadline"))
        promoted = await platform.reach(new, State.PROMOTED)
        assert promoted.forced_reason == "a deadline"
        assert platform.audited()[-1].act == "release.promote.force"


async def test_adopting_another_policy_sets_a_new_anchor_and_keeps_the_old_one_beside_it(platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        other = platform.publish_model("other", announce=False)
        await rollout.adopt(adopt(other, "a new start"))
        release = await platform.reach(other, State.PROMOTED)
        assert release.anchor_id == other
        assert weights(release) == {other: 1.0, old: 0.0}


async def test_wrong_requests_name_the_field_and_change_nothing(platform) -> None:
    async with platform.rollout() as rollout:
        reward = platform.publish_model("reward", kind=models.ModelKind.REWARD)
        policy = platform.publish_model("policy")
        with pytest.raises(errors.InvalidField, match=r"`model_id`.*reward model"):
            await rollout.adopt(adopt(reward))
        with pytest.raises(errors.NotFound):
            await rollout.adopt(adopt("f" * 64))
        with pytest.raises(errors.InvalidField, match=rf"`line` 'sales'.*{LINE}"):
            await rollout.adopt(control.AdoptRequest(TENANT, "sales", policy))
        with pytest.raises(errors.InvalidField, match="`line`"):
            await rollout.adopt(control.AdoptRequest("globex", LINE, policy))
        with pytest.raises(errors.WrongState, match="adopt one first"):
            await rollout.start_release(control.StartReleaseRequest(TENANT, LINE, policy))
        with pytest.raises(errors.NotFound):
            await rollout.get_release(control.GetReleaseRequest(TENANT, "nothing"))
        assert platform.records() == []
        assert platform.audited() == []


async def test_watching_tells_the_newest_first_and_then_every_change(platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        seen: list[tuple[str, State]] = []

        async def watch() -> None:
            async for release in rollout.watch_releases(
                control.ListReleasesRequest(TENANT, LINE), timeout_s=timing.PATIENCE_S
            ):
                seen.append((release.candidate_id, release.state))
                if release.state is State.SAFETY:
                    return

        watching = asyncio.create_task(watch())
        await platform.until(lambda: seen)
        new = platform.publish_model("new")
        await asyncio.wait_for(watching, timing.PATIENCE_S)
        assert seen[0] == (old, State.PROMOTED)
        assert seen[-1] == (new, State.SAFETY)
        listed = await rollout.list_releases(control.ListReleasesRequest(TENANT))
        assert [release.candidate_id for release in listed] == [new, old]
        assert await rollout.list_releases(control.ListReleasesRequest("globex")) == ()
