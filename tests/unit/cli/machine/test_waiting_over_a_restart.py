"""Starting a platform goes on when one of its processes restarts meanwhile."""

import dataclasses
import datetime

import pytest

from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.cli.operators import acts, serving
from trimtab.core import completions, control, errors, releases, text

POLICY = "a" * 64
AWAY = errors.ServiceUnavailable("The service cannot be reached.")


class Rollout:
    """A rollout controller that restarts after every answer it gives: the next two questions find nobody."""

    def __init__(self) -> None:
        self.asked = 0
        self._release = releases.Release(
            id="release",
            context=text.Context("local", "main"),
            revision=1,
            candidate_id=POLICY,
            stable_id="",
            anchor_id=POLICY,
            state=releases.ReleaseState.VERIFYING,
            salt=b"salt",
            created_at=datetime.datetime.now(datetime.UTC),
            arms=(releases.ArmTarget(completions.Arm.STABLE, POLICY, weight=1.0),),
        )

    async def list_releases(
        self, request: control.ListReleasesRequest, *, timeout_s: float
    ) -> tuple[releases.Release, ...]:
        return (self._answered(),)

    async def adopt(self, request: control.AdoptRequest, *, timeout_s: float) -> releases.Release:
        return self._answered()

    async def get_release(self, request: control.GetReleaseRequest, *, timeout_s: float) -> releases.Release:
        return dataclasses.replace(self._answered(), state=releases.ReleaseState.PROMOTED)

    def _answered(self) -> releases.Release:
        self.asked += 1
        if self.asked % 3:
            raise AWAY
        return self._release


@pytest.fixture
def doors() -> platform.Doors:
    facts = platform.Facts("local", "main", "", {})
    nobody = dict.fromkeys(("ledger", "trainer", "feedback", "reward"))
    return platform.Doors(facts=facts, api_key="", rollout=Rollout(), **nobody)  # type: ignore[arg-type]


async def test_what_is_live_is_asked_again_until_the_controller_is_back(doors: platform.Doors) -> None:
    assert [arm.policy_id for arm in await serving._serving(doors)] == [POLICY]
    assert doors.rollout.asked == 3


async def test_an_adoption_is_waited_for_over_restarts(doors: platform.Doors) -> None:
    adopted = await acts.adopt_and_wait(doors, POLICY, "first", show.Screen())
    assert adopted.state is releases.ReleaseState.PROMOTED
    assert doors.rollout.asked == 6


async def test_what_stays_away_is_said(doors: platform.Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "_AWAY_LIMIT_S", 0.0)
    with pytest.raises(errors.ServiceUnavailable, match="cannot be reached"):
        await serving._serving(doors)
