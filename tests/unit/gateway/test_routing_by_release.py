"""Arms by weight, the same for a session each time; pinned requests are never randomised."""

import datetime

import pytest

from trimtab.core import completions, errors, releases, text
from trimtab.gateway import routing

STABLE_ID, CANDIDATE_ID = "a" * 64, "a" * 11 + "b" * 53


def release(
    *,
    candidate: float = 0.25,
    stable: float = 0.75,
    revision: int = 1,
    candidate_address: str = "127.0.0.1:2",
    line: str = "support",
) -> releases.Release:
    return releases.Release(
        id=f"r-{line}",
        context=text.Context("acme", line),
        revision=revision,
        candidate_id=CANDIDATE_ID,
        stable_id=STABLE_ID,
        anchor_id=STABLE_ID,
        state=releases.ReleaseState.EVIDENCE,
        salt=b"salt",
        created_at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        arms=(
            releases.ArmTarget(completions.Arm.STABLE, STABLE_ID, "127.0.0.1:1", stable),
            releases.ArmTarget(completions.Arm.CANDIDATE, CANDIDATE_ID, candidate_address, candidate),
        ),
    )


def table(*known: releases.Release) -> routing.Routes:
    routes = routing.Routes()
    for item in known:
        routes.apply(item)
    routes.caught_up.set()
    return routes


def test_sessions_are_shared_out_by_weight_and_say_their_propensity() -> None:
    selection = table(release()).select("acme", "support")
    routed = [selection.route(f"{session:016}".encode()) for session in range(4000)]
    to_candidate = [route for route in routed if route.exposure.arm is completions.Arm.CANDIDATE]
    assert 0.22 < len(to_candidate) / len(routed) < 0.28
    assert all(route.exposure.randomised and route.exposure.stage == "evidence" for route in routed)
    assert {(route.policy_id, route.exposure.propensity) for route in routed} == {
        (CANDIDATE_ID, 0.25),
        (STABLE_ID, 0.75),
    }


def test_a_session_keeps_its_arm_while_the_release_stands() -> None:
    routes = table(release())
    first = [routes.select("acme", "support").route(bytes([session] * 16)) for session in range(64)]
    routes.apply(release(revision=2))
    assert [routes.select("acme", "support").route(bytes([session] * 16)) for session in range(64)] == first


@pytest.mark.parametrize("given", [{"candidate": 0.0, "stable": 1.0}, {"candidate_address": ""}])
def test_one_usable_arm_takes_all_and_nothing_is_randomised(given: dict[str, float]) -> None:
    route = table(release(**given)).select("acme", "support").route(b"s" * 16)  # type: ignore[arg-type]
    assert (route.policy_id, route.exposure.propensity, route.exposure.randomised) == (STABLE_ID, 1.0, False)


@pytest.mark.parametrize(
    ("pin", "policy_id"),
    [
        ("candidate", CANDIDATE_ID),
        ("stable", STABLE_ID),
        (CANDIDATE_ID, CANDIDATE_ID),
        (CANDIDATE_ID[:12], CANDIDATE_ID),
    ],
)
def test_a_pinned_request_goes_where_it_says_and_is_no_evidence(pin: str, policy_id: str) -> None:
    selection = table(release()).select("acme", f"support@{pin}")
    for session in range(16):
        route = selection.route(bytes([session] * 16))
        assert (route.policy_id, route.exposure.randomised, route.exposure.propensity) == (policy_id, False, 1.0)


@pytest.mark.parametrize(
    "model",
    ["nothing", "support@", "support@newest", "support@aaaaaaaaaaa", "support@" + "c" * 64, "support@AAAAAAAAAAAA"],
)
def test_an_unknown_model_is_told_which_are_known(model: str) -> None:
    with pytest.raises(errors.UnknownModel) as refused:
        table(release()).select("acme", model)
    assert "support@candidate" in str(refused.value)


def test_another_tenants_line_is_not_there() -> None:
    routes = table(release())
    with pytest.raises(errors.UnknownModel) as refused:
        routes.select("rival", "support")
    assert "support@" not in str(refused.value)
    assert routes.models("rival") == {}


def test_an_older_revision_that_comes_late_changes_nothing() -> None:
    routes = table(release(revision=5, candidate=0.0, stable=1.0), release(revision=4))
    assert not routes.select("acme", "support").route(b"s" * 16).exposure.randomised


def test_models_list_lines_and_pinned_forms() -> None:
    assert list(table(release(), release(line="sales")).models("acme")) == [
        "sales", "sales@stable", f"sales@{STABLE_ID}", "sales@candidate", f"sales@{CANDIDATE_ID}",
        "support", "support@stable", f"support@{STABLE_ID}", "support@candidate", f"support@{CANDIDATE_ID}",
    ]  # fmt: skip


def test_before_the_log_was_read_nothing_is_called_unknown() -> None:
    with pytest.raises(errors.ServiceUnavailable):
        routing.Routes().select("acme", "support")


def test_a_line_without_a_ready_policy_says_so() -> None:
    with pytest.raises(errors.ServiceUnavailable, match="support"):
        table(release(candidate_address="", stable=0.0)).select("acme", "support").route(b"s" * 16)
