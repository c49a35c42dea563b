"""Argo Rollouts reads a verdict, Flagger's hooks go by a status: both of the record that the controller wrote."""

import dataclasses
from typing import Any

import pytest
from tests.services.gateway.conftest import eventually

from trimtab.bus import publish, topics
from trimtab.core import completions, releases
from trimtab.gateway import analysis

LINE = "support"
REASON = "Approval 0.31 against 0.52."
State, Verdict = releases.ReleaseState, releases.Verdict


async def decided(platform: Any, state: State, verdict: Verdict | None, revision: int = 2) -> None:
    """A newer record of the line's release."""
    [before] = [one for one in platform.records(topics.ROLLOUTS, releases.Release) if one.revision == 1]
    move = releases.Transition(state, before.created_at, REASON, "controller")
    arms = (
        releases.ArmEvidence(completions.Arm.STABLE, voted=70),
        releases.ArmEvidence(completions.Arm.CANDIDATE, voted=66),
    )
    found = None if verdict is None else releases.Evidence(arms, -0.21, -0.3, -0.1, verdict=verdict)
    after = dataclasses.replace(before, state=state, revision=revision, evidence=found, history=(move,))
    publish.publish(platform.log, topics.ROLLOUTS, after.id.encode(), after).result()

    async def known() -> bool:
        told = await platform.http.get(f"/v1/analysis/{LINE}", headers=key(platform))
        return bool(told.json()["reason"] == REASON)

    await eventually(known)


def key(platform: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {platform.api_key}"}


def hook(platform: Any, **metadata: str) -> dict[str, Any]:
    """What Flagger sends."""
    told = {"name": "podinfo", "namespace": "test", "phase": "Progressing", "checksum": "85d557f47b"}
    return {**told, "metadata": {"api_key": platform.api_key, **metadata}}


async def test_a_web_metric_reads_figures_and_verdict(platform: Any) -> None:
    before = (await platform.http.get(f"/v1/analysis/{LINE}", headers=key(platform))).json()
    assert (before["state"], before["verdict"], before["withdrawn"]) == ("evidence", "undecided", False)
    assert before["difference"] is None
    await decided(platform, State.ROLLING_BACK, Verdict.WORSE)
    answer = await platform.http.get(f"/v1/analysis/{LINE}", headers=key(platform), params={"policy": "b" * 12})
    assert answer.json() == {
        "line": LINE,
        "release": "release-0.5",
        "policy": "b" * 64,
        "state": "rolling_back",
        "paused": False,
        "verdict": "worse",
        "withdrawn": True,
        "difference": -0.21,
        "lower": -0.3,
        "upper": -0.1,
        "sessions": {"stable": 70, "candidate": 66},
        "reason": REASON,
    }


@pytest.mark.parametrize(
    ("state", "verdict", "confirms", "rolls_back"),
    [
        (State.SAFETY, None, False, False),
        (State.EVIDENCE, Verdict.UNDECIDED, False, False),
        (State.PROMOTING, Verdict.BETTER, True, False),
        (State.PROMOTED, Verdict.UNDECIDED, True, False),  # an operator's word
        (State.ROLLING_BACK, Verdict.WORSE, False, True),
        (State.ROLLING_BACK, Verdict.BETTER, False, True),  # a guardrail, or an undo
        (State.NOT_PROVEN, Verdict.NOT_PROVEN, False, True),
        (State.FAILED, None, False, True),
    ],
)
async def test_hooks_say_yes_where_the_verdict_does(
    platform: Any, state: State, verdict: Verdict | None, confirms: bool, rolls_back: bool
) -> None:
    await decided(platform, state, verdict)
    for name, yes in ((analysis.Hook.CONFIRM_PROMOTION, confirms), (analysis.Hook.ROLLBACK, rolls_back)):
        answer = await platform.http.post(f"/v1/analysis/{LINE}/{name.value}", json=hook(platform))
        assert answer.status_code == (200 if yes else 409)
        assert REASON in str(answer.json())


async def test_what_is_wrong_with_a_hook_is_said(platform: Any) -> None:
    path = f"/v1/analysis/{LINE}/rollback"
    for body, status, words in (
        ({"name": "podinfo"}, 400, "give the hook `metadata` with an `api_key`"),
        (hook(platform) | {"metadata": {"api_key": "nobody's"}}, 401, "no valid API key"),
        (hook(platform, policy="c" * 12), 404, "There is no release of line 'support' for policy 'cccccccccccc'."),
    ):
        answer = await platform.http.post(path, json=body)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
    for path in (f"/v1/analysis/{LINE}/promote", "/v1/analysis/another/rollback"):
        assert (await platform.http.post(path, json=hook(platform))).status_code == 404
    nobody = await platform.http.get(f"/v1/analysis/{LINE}", headers={"authorization": ""})
    assert nobody.status_code == 401
