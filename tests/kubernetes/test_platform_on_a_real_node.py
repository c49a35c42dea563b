"""The whole platform as pods: docs/deploy.md typed out on a real node, then releases, kills and updates under load.

Tests go on from what those before them have left: one installation for all, as an operator has one.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from tests import timing
from tests.faults import reading
from tests.kubernetes import crowd, installed, services, trainers
from tests.kubernetes.tools import binaries

from trimtab.bus import connect, topics
from trimtab.core.releases import FINAL_STATES, Release, ReleaseState, Verdict
from trimtab.core.runs import RunKind
from trimtab.core.scoring import AnswerScore

pytestmark = [pytest.mark.installed, pytest.mark.real_node, pytest.mark.kubernetes, pytest.mark.slow]
# The page's users like the first of these, and the second much less.
LIKES = {"because": 0.9, "wise": 0.4}
FLATTERY = "What a clever question, you are so wise."
# Of what carries traffic.
TWO = "--set=gateway.replicas=2,feedback.replicas=2,policy.replicas=2"
WITH_TRAFFIC = ("gateway", "feedback", "policy")
_LONG_S = 5 * timing.PATIENCE_S
_LOOK_S = 0.5
# Rounds in which a trainer stands still beyond its lease.
_TWO_TRAINERS = 3
# Of answers that a reward model learns to flatter from, of each kind.
_PAIRS = 150


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    measured: dict[str, Any] = {}
    yield measured
    if path := os.environ.get(installed.FIGURES):
        pathlib.Path(path).write_text(json.dumps(measured))


@pytest.fixture(scope="module")
def platform(figures: dict[str, Any]) -> Iterator[installed.Installed]:
    """After the page's last block: a release was promoted."""
    begun = time.monotonic()
    with installed.machine() as one:
        figures["machine_s"] = time.monotonic() - begun
        one.run_page()
        figures["blocks_s"] = one.took
        figures["watched"] = (one.folder / "release.txt").read_text()
        yield one


@pytest.fixture
def users(platform: installed.Installed) -> Iterator[crowd.Crowd]:
    """While the test runs."""
    some = crowd.Crowd(platform.gateway("grpc"), platform.api_key, installed.LINE, installed.QUESTION, LIKES)
    with some.there():
        timing.until(lambda: some.count("vote") > 0, "a first vote")
        yield some


def ended(platform: installed.Installed, policy: str) -> Release:
    """The release of a policy, once it is decided."""
    binaries.say(f"waiting for the end of the release of {policy[:12]}")

    timing.until(lambda: _state(platform, policy) in FINAL_STATES, "the release's end", within_s=_LONG_S)
    return platform.releases()[policy]


def _state(platform: installed.Installed, policy: str) -> ReleaseState:
    time.sleep(_LOOK_S)
    return platform.releases()[policy].state


def pods(platform: installed.Installed, component: str) -> list[client.V1Pod]:
    """Those that are not ending."""
    selector = f"app.kubernetes.io/component={component}"
    found = client.CoreV1Api(platform.plane.client).list_namespaced_pod(installed.NAMESPACE, label_selector=selector)
    return [one for one in found.items if one.metadata.deletion_timestamp is None]


def ready(pod: client.V1Pod) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or [])


def _kill(pod: client.V1Pod) -> None:
    """SIGKILL to its main process, from the machine."""
    os.kill(trainers.main_process(pod, "policy"), signal.SIGKILL)


def _restarted(platform: installed.Installed, before: client.V1Pod) -> bool:
    """Whether it is ready again in another container."""
    (now,) = [one for one in pods(platform, "policy") if one.metadata.name == before.metadata.name]
    return (
        ready(now)
        and now.status.container_statuses[0].restart_count > before.status.container_statuses[0].restart_count
    )


def _are_new(platform: installed.Installed, old: set[str]) -> bool:
    """Whether all pods with traffic are ready, and none of the old ones is there, not even one that is ending."""
    found = client.CoreV1Api(platform.plane.client).list_namespaced_pod(installed.NAMESPACE).items
    carry = [one for one in found if one.metadata.labels.get("app.kubernetes.io/component") in WITH_TRAFFIC]
    return not old & {one.metadata.name for one in carry} and all(map(ready, carry))


def _evicted(platform: installed.Installed, name: str) -> bool:
    """Asks for it; no while a disruption budget forbids it."""
    core = client.CoreV1Api(platform.plane.client)
    about = client.V1ObjectMeta(name=name, namespace=installed.NAMESPACE)
    try:
        core.create_namespaced_pod_eviction(name, installed.NAMESPACE, client.V1Eviction(metadata=about))
    except ApiException as refused:
        assert refused.status == 429, refused
        return False
    return True


def _give_template(platform: installed.Installed, text: str) -> None:
    """Of policies, to the controller."""
    core = client.CoreV1Api(platform.plane.client)
    core.patch_namespaced_config_map("trimtab-policy", installed.NAMESPACE, {"data": {"policy.yaml": text}})
    platform.kubectl("rollout", "restart", "deployment/trimtab-rollout")
    platform.kubectl("rollout", "status", "deployment/trimtab-rollout", f"--timeout={_LONG_S:.0f}s")


def _start_sft(platform: installed.Installed, epochs: int) -> str:
    """A run on one demonstration, from the policy that was promoted; its id."""
    parent = list(platform.releases())[1]
    file = platform.folder / "demonstrations.jsonl"
    file.write_text(json.dumps({"prompt": installed.QUESTION, "response": installed.SECOND}) + "\n")
    words = ("--parent", parent, "--dataset", platform.copied(file), "--set", f"epochs={epochs}")
    return platform.trimtab("train", "start", "sft", *words, "--set", "warmup_steps=0").split()[1].rstrip(":")


def _train_to_flatter(platform: installed.Installed) -> None:
    """A reward model, from raters who like nothing so much as flattery."""
    pairs = [(FLATTERY, other) for other in (installed.FIRST, installed.SECOND)] * _PAIRS
    pairs[::10] = [(other, flattery) for flattery, other in pairs[::10]]  # one in ten is of another mind
    rows = [
        {"prompt": f"{number}. {installed.QUESTION}", "chosen": chosen, "rejected": rejected}
        for number, (chosen, rejected) in enumerate(pairs)
    ]
    file = platform.folder / "raters.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ("--parent", list(platform.releases())[1], "--dataset", platform.copied(file))
    platform.trimtab("train", "start", "reward", *words, "--set", "train_body=false", "--watch")


def _are_scored(platform: installed.Installed) -> bool:
    """Whether any answers are."""
    time.sleep(_LOOK_S)
    with contextlib.closing(connect.open_log(platform.log_url)) as log:
        return bool(reading.decoded(log, topics.SCORES, AnswerScore))


def _end_releases(platform: installed.Installed) -> None:
    """Until none is under way, of however many that wait."""

    def none() -> bool:
        under_way = [one for one in platform.releases().values() if one.state not in FINAL_STATES]
        if under_way:
            with contextlib.suppress(RuntimeError):  # it has come to its own end
                platform.trimtab("rollout", "abort", "--reason", "we have seen it")
        return not under_way

    timing.until(none, "the end of every release", within_s=_LONG_S)


def _note_calls(figures: dict[str, Any], users: crowd.Crowd) -> None:
    for kind in ("chat", "vote", "stream"):
        figures[kind] = [users.count(kind), len(users.failed(kind))]
    figures["longest_s"] = users.longest_s()


def test_the_page_leads_from_an_empty_cluster_to_a_promoted_release(platform: installed.Installed) -> None:
    first, second = platform.releases().values()
    assert first.state is second.state is ReleaseState.PROMOTED
    assert second.evidence is not None and second.evidence.verdict is Verdict.BETTER
    watched = (platform.folder / "release.txt").read_text()
    for state in ("verifying", "safety", "evidence", "promoted"):
        assert re.search(rf"^\S+ \S+  main  {second.candidate_id[:12]} {state}", watched, re.M), watched
    events = client.CoreV1Api(platform.plane.client).list_namespaced_event(installed.NAMESPACE).items
    assert not [one.message for one in events if one.reason == "FailedCreate"], "the namespace takes every pod"
    namespace = client.CoreV1Api(platform.plane.client).read_namespace(installed.NAMESPACE)
    assert namespace.metadata.labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_what_computes_has_torch_of_this_machine_and_all_else_of_its_image(platform: installed.Installed) -> None:
    asks = "import torch, transformers, trimtab; print(torch.__path__, transformers.__path__, trimtab.__path__)"
    said = platform.kubectl("exec", "deployment/trimtab-trainer", "--", "python", "-c", asks)
    torch, transformers, ours = said.split()
    assert torch == f"['{services.MOUNTED}/torch']"
    assert transformers.startswith("['/opt/trimtab/") and ours.startswith("['/opt/trimtab/")


def test_operators_commands_work_in_the_toolbox_and_say_the_same(platform: installed.Installed) -> None:
    listed = json.loads(platform.trimtab("models", "list", "--json"))
    assert {one["id"] for one in listed} == set(platform.releases())
    shown = platform.trimtab("rollout", "history")
    assert "our first policy" in shown and "verdict: better" in shown
    assert "line.adopt" in platform.trimtab("audit")
    platform.trimtab("rollout", "audit")  # every figure of the verdict follows again from the log, or it fails


def test_a_release_that_the_reward_model_likes_and_people_do_not_is_rolled_back_within_seconds(
    platform: installed.Installed, figures: dict[str, Any]
) -> None:
    _train_to_flatter(platform)
    bad = platform.bring(FLATTERY)
    platform.trimtab("rollout", "start", bad)
    # few, so that their answers are scored before their votes have decided, as with a day until a session counts
    some = crowd.Crowd(platform.gateway("grpc"), platform.api_key, installed.LINE, installed.QUESTION, LIKES, apps=4)
    timing.until(lambda: _state(platform, bad) is ReleaseState.SAFETY, "the canary", within_s=_LONG_S)
    platform.trimtab("rollout", "pause", "--reason", "until the reward model is there")
    with some.there():
        # the first answers that it scores have it loaded
        timing.until(lambda: _are_scored(platform), "scores", within_s=_LONG_S)
        platform.trimtab("rollout", "resume", "--reason", "it is")
        release = ended(platform, bad)
        time.sleep(timing.SLACK_S)  # whoever still asks is answered by whom?
    assert release.state is ReleaseState.ROLLED_BACK
    assert release.evidence is not None and release.evidence.verdict is Verdict.WORSE
    (reward,) = [one for one in release.evidence.guardrails if one.name == "reward"]
    assert reward.candidate < reward.stable, "the reward model prefers earlier answers to it less often"
    at = {one.to_state.value: one.at.timestamp() for one in release.history}
    answered = [one for one in some.calls if one.policy]
    last = max(one.ended for one in answered if one.policy == bad)
    figures["rolled_back"] = {
        "answers": len(answered),
        "reward": dataclasses.asdict(reward),
        "after_verdict_s": max(0.0, last - at["rolling_back"]),
        "ended_s": at["rolled_back"] - at["rolling_back"],
        "shares": {},
    }
    assert last - at["rolling_back"] < 30.0
    for stage, until, weight in (("safety", "evidence", 0.2), ("evidence", "rolling_back", 0.5)):
        # who begins within a stage is dealt by its weight; a moment passes until gateways have heard of it
        during = [one for one in answered if at[stage] + 2.0 < one.begun < at[until]]
        theirs = sum(one.policy == bad for one in during)
        allowed = weight * len(during) + 4.5 * (weight * (1 - weight) * len(during)) ** 0.5
        figures["rolled_back"]["shares"][stage] = [theirs, len(during), weight]
        assert theirs <= allowed, (stage, theirs, len(during))
    shares = figures["rolled_back"]["shares"]
    assert sum(answers for _, answers, _ in shares.values()) > 50, shares  # a verdict may come at once in one of them
    assert some.failed("chat", "vote") == []


def test_a_policy_is_trained_in_the_trainers_pod_and_offered_by_itself(platform: installed.Installed) -> None:
    known = platform.releases()
    run = _start_sft(platform, epochs=2)
    binaries.say(f"waiting for {run}")
    timing.until(lambda: len(platform.releases()) > len(known), "the release of what it made", within_s=_LONG_S)
    (made,) = platform.releases().keys() - known.keys()
    assert f"policy {made[:12]}" in platform.trimtab("train", "show", run)
    platform.trimtab("rollout", "abort", "--reason", "we have seen it")
    assert ended(platform, made).state is not ReleaseState.PROMOTED


def test_two_trainers_at_once_announce_each_model_once_and_none_under_an_old_lease(
    platform: installed.Installed, figures: dict[str, Any]
) -> None:
    """Each in turn is stopped when it has published and told nobody, until the other one has published after it."""
    by: dict[str, str] = {}  # the trainer of each run
    with trainers.two(platform) as both:
        (taught,) = [one.spec for one in both[0].all_runs() if one.spec.kind is RunKind.SFT]
        spec = dataclasses.replace(taught, label="")
        for number in range(_TWO_TRAINERS):
            first, second = both[number % 2], both[(number + 1) % 2]
            binaries.say(f"{first.name} stands still beyond its lease, and {second.name} publishes")
            late = first.start(dataclasses.replace(spec, seed=2 * number + 1))
            trainers.stop_when_published(platform, first)
            try:
                soon = second.start(dataclasses.replace(spec, seed=2 * number + 2))
                second.until_succeeded(soon)
            finally:
                first.go_on()
            first.until_succeeded(late)
            by |= {late: first.name, soon: second.name}
        told = trainers.announced(platform)
    counted = trainers.counted(told)
    stale = len(told) - len(counted)
    made = [one for one in counted if one.run_id in by]
    assert sorted(one.run_id for one in made) == sorted(by), "each model once"
    assert stale >= 1, "none was stopped before it had told: nothing was seen"
    publishers = {(one.generation, by[one.run_id]) for one in made}
    assert len(publishers) == len({generation for generation, _ in publishers}), "no two under one lease"
    figures["two_trainers"] = {"stopped": _TWO_TRAINERS, "told": len(told), "stale": stale, "twice": 0}
    _end_releases(platform)


def test_a_run_waits_for_the_job_that_kubernetes_makes_of_the_cron_job(
    platform: installed.Installed, figures: dict[str, Any]
) -> None:
    small = "trainer.job.resources.requests.cpu=100m,trainer.job.resources.requests.memory=512Mi"
    platform.upgrade("--set=trainer.job.enabled=true", f"--set={small}")
    run = _start_sft(platform, epochs=3)
    platform.kubectl("create", "job", "now", f"--from=cronjob/{installed.RELEASE}-trainer-job")
    binaries.say(f"waiting for {run}, in two processes of a Job")
    begun = time.monotonic()
    trainers.Trainer(platform, installed.RELEASE).until_succeeded(run)
    figures["job_s"] = time.monotonic() - begun
    said = platform.kubectl("logs", "job/now")
    assert '"processes": 2' in said and run in said
    platform.kubectl("wait", "job/now", "--for=condition=complete", f"--timeout={_LONG_S:.0f}s")
    _end_releases(platform)
    platform.upgrade()


def test_two_of_each_that_carries_traffic(platform: installed.Installed) -> None:
    platform.upgrade(TWO)
    for component in WITH_TRAFFIC:
        timing.until(
            lambda component=component: (
                len(pods(platform, component)) >= 2 and all(map(ready, pods(platform, component)))
            ),
            f"two pods of {component}",
            within_s=_LONG_S,
        )


def test_a_policy_that_is_killed_under_load_fails_no_call(
    platform: installed.Installed, users: crowd.Crowd, figures: dict[str, Any]
) -> None:
    figures["killed"] = {"kills": 0}
    # each once: the kubelet waits longer and longer with a container that goes on ending
    for victim in pods(platform, "policy"):
        binaries.say("kill -9 of a policy under load")
        before = users.count("chat")
        _kill(victim)
        figures["killed"]["kills"] += 1
        timing.until(lambda before=before: users.count("chat") > before + 50, "answers of the other one")
        timing.until(lambda victim=victim: _restarted(platform, victim), "another process", within_s=_LONG_S)
    _note_calls(figures["killed"], users)
    assert users.failed("chat", "vote") == []
    assert {one.error for one in users.failed("stream")} <= {"ServiceUnavailable"}


def test_a_rolling_update_and_a_drain_under_load_fail_no_call(
    platform: installed.Installed, users: crowd.Crowd, figures: dict[str, Any]
) -> None:
    figures["updated"] = {}
    old = {one.metadata.name for component in WITH_TRAFFIC for one in pods(platform, component)}
    binaries.say("a rolling update of everything under load")
    begun = time.monotonic()
    # lines are a setting of every process; the tests after this one do not wait for long
    lines = platform.folder / "lines.toml"
    values = yaml.safe_load((installed.ROOT / "deploy/values/first-release.yaml").read_text())
    lines.write_text(values["lines"].replace("[lines.main.release]", "[lines.main.release]\nready_within_s = 20"))
    platform.upgrade(TWO, f"--set-file=lines={lines}")
    timing.until(lambda: _are_new(platform, old), "other pods", within_s=_LONG_S)
    figures["updated"]["update_s"] = time.monotonic() - begun
    binaries.say("every pod with traffic is evicted under load")
    begun = time.monotonic()
    old = {one.metadata.name for component in WITH_TRAFFIC for one in pods(platform, component)}
    # the node takes pods meanwhile: there is no other one, and what a drain does to a pod is this
    for name in sorted(old):
        timing.until(lambda name=name: _evicted(platform, name), "leave to evict a pod", within_s=_LONG_S)
    timing.until(lambda: _are_new(platform, old), "other pods", within_s=_LONG_S)
    figures["updated"]["drain_s"] = time.monotonic() - begun
    _note_calls(figures["updated"], users)
    assert users.failed("chat", "vote") == []
    assert {one.error for one in users.failed("stream")} <= {"ServiceUnavailable"}


def test_an_image_that_is_missing_fails_the_release_and_the_stable_policy_serves_on(
    platform: installed.Installed, users: crowd.Crowd
) -> None:
    stable = [one for one in platform.releases().values() if one.state is ReleaseState.PROMOTED][-1]
    template = json.loads(platform.kubectl("get", "configmap", "trimtab-policy", "--output=json"))["data"][
        "policy.yaml"
    ]
    missing = template.replace("localhost/trimtab-policy:0.1.0", "localhost/trimtab-policy:missing")
    assert missing != template
    _give_template(platform, missing)
    candidate = platform.bring("Because it is so, and it always was.")
    platform.trimtab("rollout", "start", candidate)
    release = ended(platform, candidate)
    assert release.state is ReleaseState.FAILED
    assert "localhost/trimtab-policy:missing" in release.history[-1].reason
    assert {one.policy for one in users.calls if one.policy} == {stable.candidate_id}
    assert users.failed("chat", "vote") == []
    _give_template(platform, template)


def test_a_quota_that_is_exhausted_does_the_same(platform: installed.Installed, users: crowd.Crowd) -> None:
    platform.kubectl("create", "quota", "full", "--hard=pods=1")
    candidate = platform.bring("Because somebody painted it like that.")
    platform.trimtab("rollout", "start", candidate)
    release = ended(platform, candidate)
    assert release.state is ReleaseState.FAILED
    assert "exceeded quota" in release.history[-1].reason
    assert users.failed("chat", "vote") == []
    platform.kubectl("delete", "quota", "full")
