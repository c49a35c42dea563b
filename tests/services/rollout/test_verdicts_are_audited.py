"""A verdict follows from the log again, to the last bit, whatever has happened since; a changed one is found out."""

import dataclasses
import xml.etree.ElementTree
from typing import Any

import pytest

from trimtab.cli.operators import auditing, showing
from trimtab.core import control, errors, releases
from trimtab.rollout import evidence

State = releases.ReleaseState
APPROVALS = {State.PROMOTED: (0.3, 0.9), State.ROLLED_BACK: (0.8, 0.1), State.NOT_PROVEN: (0.6, 0.6)}


async def adopted(platform: Any, rollout: Any) -> str:
    model_id = platform.publish_model("old")
    await rollout.adopt(control.AdoptRequest("acme", "support", model_id, "ann", "first"))
    await platform.reach(model_id, State.PROMOTED)
    return model_id


async def decided(platform: Any, rollout: Any, old: str, name: str, ends: State) -> releases.Release:
    new = platform.publish_model(name)
    before, after = APPROVALS[ends]
    approval = {old: before, new: after}
    release = await platform.reach(new, State.SAFETY)
    platform.visit(release, approval, 60)
    release = await platform.reach(new, State.EVIDENCE)
    platform.visit(release, approval, 340)
    return await platform.reach(new, *releases.FINAL_STATES)


@pytest.mark.parametrize("ends", APPROVALS, ids=lambda state: state.value)
async def test_every_verdict_follows_from_the_log_to_the_bit(platform: Any, ends: State) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        release = await decided(platform, rollout, old, "new", ends)
        assert release.state is ends
        # Whoever votes later changes nothing about it.
        platform.visit(release, {release.candidate_id: 0.0, old: 1.0}, 50)
        [found] = auditing.audited(platform.log, [release])
        assert found.computed == found.recorded
        assert found.equal
        assert found.computed.arms[0].voted > 20
        assert {row.segment for row in found.computed.segments} == {"mobile", ""}
        assert sum(row.stable.voted for row in found.computed.segments) == found.computed.arms[0].voted


async def test_a_capped_verdict_follows_from_the_log_to_the_bit(platform: Any) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        new = platform.publish_model("new")
        approval = {old: 0.3, new: 0.9}
        platform.visit(await platform.reach(new, State.SAFETY), approval, 60)
        release = await platform.reach(new, State.EVIDENCE)
        # Four people vote in 15 sessions each, from a network of their own; the rest is as many people as sessions.
        platform.visit(release, {old: 1.0, new: 0.0}, 60, raters=4)
        platform.visit(release, approval, 340)
        release = await platform.reach(new, *releases.FINAL_STATES)
        assert (release.state, release.evidence.capped) == (State.PROMOTED, 60 - 4 * 5)
        assert (release.terms.rater_sessions, release.terms.network_sessions) == (5, 50)
        [found] = auditing.audited(platform.log, [release])
        assert found.equal
        [replayed] = auditing.replayed(platform.log, [release])
        assert sum(one.capped for one in replayed.seen.sessions) == 40
        # Terms of a record older than the limits have none: other figures follow.
        uncapped = dataclasses.replace(release.terms, rater_sessions=0.0, network_sessions=0.0)
        [without] = auditing.audited(platform.log, [dataclasses.replace(release, terms=uncapped)])
        assert (without.computed.capped, without.equal) == (0, False)


async def test_how_a_verdict_came_about_is_a_picture(platform: Any) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        with pytest.raises(errors.WrongState, match="no evidence"):
            showing.drawn(platform.log, platform.head())
        release = await decided(platform, rollout, old, "new", State.PROMOTED)
        [replayed] = auditing.replayed(platform.log, [release])
        course = evidence.course(replayed.seen, replayed.terms)
        assert len(course) == sum(arm.voted for arm in release.evidence.arms)
        assert course[-1][1].lower == release.evidence.lower
        picture = xml.etree.ElementTree.fromstring(showing.drawn(platform.log, release))
        lines = [part for part in picture.iter() if part.tag.endswith("polyline")]
        assert len(lines) == 3
        assert {"candidate minus stable", "upper end", "lower end"} <= {part.text for part in picture.iter()}


async def test_one_reading_of_the_log_serves_several_releases(platform: Any) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        first = await decided(platform, rollout, old, "first", State.NOT_PROVEN)
        second = await decided(platform, rollout, old, "second", State.PROMOTED)
        found = auditing.audited(platform.log, [second, first])
        assert [(one.release.id, one.equal) for one in found] == [(first.id, True), (second.id, True)]


async def test_a_record_that_does_not_follow_is_found_out(platform: Any) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        release = await decided(platform, rollout, old, "new", State.PROMOTED)
        assert release.evidence is not None
        nudged = dataclasses.replace(release.evidence, lower=release.evidence.lower + 1e-15)
        [found] = auditing.audited(platform.log, [dataclasses.replace(release, evidence=nudged)])
        assert not found.equal
        terms = dataclasses.replace(release.terms, alpha=0.04)
        [found] = auditing.audited(platform.log, [dataclasses.replace(release, terms=terms)])
        assert not found.equal


async def test_a_release_keeps_its_terms_when_the_configuration_changes_beside_it(platform: Any) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        first = platform.publish_model("first")
        await platform.reach(first, State.SAFETY)
    text = platform.lines_file.read_text()
    platform.lines_file.write_text(text.replace("minimum_sessions = 20", "minimum_sessions = 140\nalpha = 0.2"))
    async with platform.rollout() as rollout:
        release = await platform.reach(first, State.SAFETY)
        platform.visit(release, {old: 0.3, first: 0.9}, 60)
        release = await platform.reach(first, State.EVIDENCE)
        platform.visit(release, {old: 0.3, first: 0.9}, 260)
        release = await platform.reach(first, *releases.FINAL_STATES)
        assert release.state is State.PROMOTED
        assert (release.terms.minimum_sessions, release.evidence.alpha) == (20, 0.05)
        assert all(found.equal for found in auditing.audited(platform.log, [release]))
        later = await platform.reach(platform.publish_model("later"), State.SAFETY)
        assert (later.terms.minimum_sessions, later.terms.alpha) == (140, 0.2)


async def test_what_has_no_evidence_or_no_terms_is_refused_with_the_reason(platform: Any) -> None:
    async with platform.rollout() as rollout:
        await adopted(platform, rollout)
        first = platform.head()
        with pytest.raises(errors.WrongState, match="has no evidence"):
            auditing.audited(platform.log, [first])
        ancient = dataclasses.replace(first, evidence=releases.Evidence(), terms=None)
        with pytest.raises(errors.WrongState, match="by which terms"):
            auditing.audited(platform.log, [ancient])
