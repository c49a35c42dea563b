"""The line's reward model guards a release: real scores of first answers, on the topic and in the verdict."""

import contextlib
import math
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.services.reward import conftest as rewarding
from tests.services.rollout.test_releases_end_to_end import State, adopted, weights

from trimtab.bus import topics
from trimtab.cli.operators import auditing
from trimtab.core import models, releases, scoring
from trimtab.modeling import rewards
from trimtab.reward import app as reward_app
from trimtab.reward import settings as reward_settings
from trimtab.rpc import ports
from trimtab.wire import schemas

QUESTION = "where is it?"
ANSWERS = [f"{first} {second} and {third}" for first in ("open", "look") for second in "abcdef" for third in "uvwxyz"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return rewarding.build_reward(tmp_path_factory.mktemp("judged") / "reward", seed=3)


@pytest.fixture(scope="module")
def said(judged: pathlib.Path) -> tuple[str, str]:
    """What the reward model likes most and least."""
    given = rewards.load_reward_model(judged).score([rewarding.item(QUESTION, one) for one in ANSWERS])
    order = sorted(zip(given, ANSWERS, strict=True), key=lambda one: one[0].outcome)
    assert order[-1][0].outcome - order[0][0].outcome > 0.5
    return order[-1][1], order[0][1]


@contextlib.asynccontextmanager
async def reward_service(platform: Any) -> AsyncIterator[None]:
    """At the address that the rollout controller asks."""
    config = reward_settings.RewardSettings(**platform.shared, listen=platform.reward_address)
    async with reward_app.build(config).serving():
        yield


def scores(platform: Any) -> list[scoring.AnswerScore]:
    return [schemas.decode(one.value, one.headers, scoring.AnswerScore) for one in platform.read(topics.SCORES)]


def guarded(release: releases.Release) -> releases.Guardrail:
    assert release.evidence is not None
    return next(one for one in release.evidence.guardrails if one.name == "reward")


@pytest.fixture
def addressed(platform: Any) -> Any:
    """With a reward address; votes alone decide late."""
    platform.lines_file.write_text(platform.lines_file.read_text().replace("sessions = 300", "sessions = 3000"))
    platform.reward_address = f"127.0.0.1:{ports.free_port()}"
    return platform


async def test_answers_that_score_less_roll_back_and_quarantine_what_led_to_them(
    addressed: Any, judged: pathlib.Path, said: tuple[str, str]
) -> None:
    platform, (liked, disliked) = addressed, said
    async with reward_service(platform), platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        platform.publish_model("first reward", kind=models.ModelKind.REWARD, weights=judged, method="reward")
        reward = platform.publish_model(
            "reward", kind=models.ModelKind.REWARD, weights=judged, parents=("another",), method="reward"
        )
        new = platform.publish_model("new", parents=(old, reward))
        release = await platform.reach(new, State.SAFETY)
        assert release.reward_id == reward
        assert release.terms.guardrails.reward == 0.05
        # one published later is for later releases
        platform.publish_model("third reward", kind=models.ModelKind.REWARD, parents=("a third",))
        approval, says = {old: 0.5, new: 0.5}, {old: liked, new: disliked}
        platform.visit(release, approval, 60, says)
        release = await platform.reach(new, State.EVIDENCE)
        platform.visit(release, approval, 500, says)
        ended = await platform.reach(new, State.ROLLED_BACK)
        assert ended.reward_id == reward
        assert guarded(ended).standing is releases.Standing.BREACHED
        assert "so the candidate is worse. Quarantined: reward model" in ended.history[-1].reason
        assert ended.quarantine.reward_ids == (reward,)
        assert weights(platform.head()) == {old: 1.0}
        assert {one.reward_id for one in scores(platform)} == {reward}
        [audited] = auditing.audited(platform.log, [ended])
        assert audited.equal
        assert guarded(ended).sessions > 40
        # what is in quarantine scores no release any more
        later = await platform.reach(platform.publish_model("later"), State.SAFETY)
        assert later.reward_id not in ("", reward)


async def test_a_better_policy_whose_answers_score_alike_is_promoted_and_the_audit_says_so_too(
    addressed: Any, judged: pathlib.Path, said: tuple[str, str]
) -> None:
    platform = addressed
    async with reward_service(platform), platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        reward = platform.publish_model("reward", kind=models.ModelKind.REWARD, weights=judged, method="reward")
        new = platform.publish_model("new")
        approval, says = {old: 0.3, new: 0.9}, dict.fromkeys((old, new), said[0])
        release = await platform.reach(new, State.SAFETY)
        platform.visit(release, approval, 60, says)
        release = await platform.reach(new, State.EVIDENCE)
        platform.visit(release, approval, 260, says)
        promoted = await platform.reach(new, State.PROMOTED)
        assert guarded(promoted).standing is releases.Standing.FINE
        assert any(name.startswith("scores/") for name in promoted.evidence.consumed)
        # Scores that come later change nothing about it.
        await platform.until(lambda: len(scores(platform)) >= 100)
        [audited] = auditing.audited(platform.log, [promoted])
        assert audited.computed == audited.recorded
        found = scores(platform)
        assert len({one.completion_id for one in found}) == len(found)
        manifest = platform.artifacts.manifest(reward)
        assert {one.loaded_digest for one in found} == {manifest.loaded_digest}
        expected = rewards.load_reward_model(judged).score([rewarding.item(QUESTION, said[0])])[0].outcome
        assert [one.outcome for one in found] == pytest.approx([expected] * len(found), abs=1e-4)


async def test_while_the_reward_service_is_away_a_better_policy_waits_and_nothing_is_rolled_back(
    addressed: Any, judged: pathlib.Path
) -> None:
    platform = addressed
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        platform.publish_model("reward", kind=models.ModelKind.REWARD, weights=judged, method="reward")
        new = platform.publish_model("new")
        release = await platform.reach(new, State.SAFETY)
        platform.visit(release, {old: 0.3, new: 0.9}, 60)
        release = await platform.reach(new, State.EVIDENCE)
        platform.visit(release, {old: 0.3, new: 0.9}, 260)

        def waits() -> bool:
            evidence = platform.head().evidence
            return evidence is not None and "not known yet to keep within reward" in evidence.reason

        await platform.until(waits)
        held = platform.head()
        assert (held.state, guarded(held).standing, guarded(held).sessions) == (
            State.EVIDENCE,
            releases.Standing.UNKNOWN,
            0,
        )
        assert scores(platform) == []
        async with reward_service(platform):
            promoted = await platform.reach(new, State.PROMOTED)
        assert auditing.audited(platform.log, [promoted])[0].equal


async def test_without_a_reward_service_or_a_reward_model_the_record_says_that_nothing_is_guarded(
    platform: Any,
) -> None:
    async with platform.rollout() as rollout:
        await adopted(platform, rollout)
        platform.publish_model("reward", kind=models.ModelKind.REWARD)
        release = await platform.reach(platform.publish_model("new"), State.SAFETY)
        assert (release.reward_id, release.terms.guardrails.reward) == ("", math.inf)
    platform.reward_address = f"127.0.0.1:{ports.free_port()}"
    async with platform.rollout():
        release = await platform.reach(release.candidate_id, State.SAFETY)
        assert (release.reward_id, release.terms.guardrails.reward) == ("", math.inf)
