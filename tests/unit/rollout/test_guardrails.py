"""A guardrail is fine or breached when it is known, else unknown, and unknown blocks a promotion."""

import dataclasses
import datetime
import math
import random
import statistics

import pytest

from trimtab.core import completions, ledger, lines, releases
from trimtab.rollout import evidence, guardrails

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
STABLE, CANDIDATE = completions.Arm.STABLE, completions.Arm.CANDIDATE
Standing = releases.Standing
LIMITS = lines.Guardrails()
USUAL = {"latency_s": 0.8, "tokens": 40.0, "refused": 0.02, "repeats": 0.02, "failed": 0.002, "reward": 3.0}
SPREAD = 0.5


def sessions(
    count: int, *, weight: float = 0.5, seed: str = "1", stage: str = "evidence", **candidate: float
) -> list[ledger.SessionOutcome]:
    """First answers around USUAL: latency and length spread as in life (lognormal), shares by chance, rewards normal.
    candidate: what is otherwise in its arm."""
    rng, judge = random.Random(seed), random.Random(f"reward {seed}")
    found = []
    for _ in range(count):
        arm = CANDIDATE if rng.random() < weight else STABLE
        mean = USUAL | (candidate if arm is CANDIDATE else {})
        first = ledger.FirstAnswer(
            latency_s=mean["latency_s"] * rng.lognormvariate(-0.18, 0.6),
            tokens=mean["tokens"] * rng.lognormvariate(-0.18, 0.6),
            refused=float(rng.random() < mean["refused"]),
            repeats=float(rng.random() < mean["repeats"]),
            failed=rng.random() < mean["failed"],
            reward=judge.gauss(mean["reward"], SPREAD),
        )
        propensity = weight if arm is CANDIDATE else 1 - weight
        found.append(ledger.SessionOutcome(arm, propensity, NOW, 0, False, None, stage, first))
    return found


def standings(seen: list[ledger.SessionOutcome], limits: lines.Guardrails = LIMITS) -> dict[str, Standing]:
    return {one.name: one.standing for one in guardrails.judge(seen, limits, 0.0025)}


def test_equal_policies_are_fine_once_enough_has_been_seen_and_unknown_before() -> None:
    assert set(standings(sessions(30)).values()) == {Standing.UNKNOWN}
    assert set(standings(sessions(1500)).values()) == {Standing.FINE}


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("errors", {"failed": 0.2}),
        ("latency", {"latency_s": 2.4}),
        ("length", {"tokens": 120.0}),
        ("refusals", {"refused": 0.3}),
        ("repetition", {"repeats": 0.3}),
        ("reward", {"reward": 1.0}),
    ],
)
def test_what_became_much_worse_is_breached_and_the_rest_is_not(name, worse) -> None:
    found = standings(sessions(1500, **worse))
    assert found.pop(name) is Standing.BREACHED
    assert Standing.BREACHED not in found.values()


def loss_of(reward: float, weight: float) -> float:
    """How much more often an average earlier answer is preferred when the candidate's rewards are around this."""
    steps = [statistics.NormalDist(0, SPREAD).inv_cdf((step + 0.5) / 2000) for step in range(2000)]
    earlier = weight * reward + (1 - weight) * USUAL["reward"]
    lost = [
        statistics.fmean(1 / (1 + math.exp(mean + step - earlier)) for step in steps)
        for mean in (USUAL["reward"], reward)
    ]
    return lost[1] - lost[0]


@pytest.mark.parametrize("weight", [0.5, 0.1])
def test_a_reward_exactly_at_its_limit_is_hardly_ever_called_breached_or_fine(weight) -> None:
    limits = dataclasses.replace(LIMITS, reward=loss_of(2.5, weight))
    assert 0.08 < limits.reward < 0.13
    found = [
        guardrails.judge(sessions(600, weight=weight, seed=str(run), reward=2.5), limits, 0.05)[-1]
        for run in range(100)
    ]
    assert sum(one.standing is Standing.BREACHED for one in found) <= 5
    assert sum(one.standing is Standing.FINE for one in found) <= 8
    within = dataclasses.replace(limits, reward=2 * limits.reward)
    assert guardrails.judge(sessions(3000, weight=weight, reward=2.5), within, 0.05)[-1].standing is Standing.FINE


def scored(*rewards: float | None) -> releases.Guardrail:
    """The guardrail on answers with these rewards, the arms in turn, the stable policy first."""
    usual = ledger.FirstAnswer(0.8, 40.0, 0.0, 0.0, failed=False)
    seen = [
        ledger.SessionOutcome(
            (STABLE, CANDIDATE)[number % 2], 0.5, NOW, 0, False, first=dataclasses.replace(usual, reward=reward)
        )
        for number, reward in enumerate(rewards)
    ]
    [found] = [one for one in guardrails.judge(seen, LIMITS, 0.05) if one.name == "reward"]
    return found


def test_a_reward_counts_as_the_chance_that_the_mean_of_those_before_it_is_preferred() -> None:
    found = scored(2.0, 1.0, 4.0, 0.5)
    stable = 1 / (1 + math.exp(4.0 - 1.5))
    candidate = [1 / (1 + math.exp(1.0 - 2.0)), 1 / (1 + math.exp(0.5 - 7 / 3))]
    assert found.sessions == 3
    assert (found.stable, found.candidate) == pytest.approx((stable, statistics.fmean(candidate)))


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_an_unscored_answer_is_left_out_and_no_zero(nothing) -> None:
    with_it = scored(2.0, 1.0, nothing, nothing, 4.0, 0.5)
    assert with_it == scored(2.0, 1.0, 4.0, 0.5)
    assert scored(*[nothing] * 90).standing is Standing.UNKNOWN
    assert scored(*[nothing] * 90).sessions == 0


def test_rewards_of_any_size_are_a_chance() -> None:
    found = scored(*[1e308, -1e308] * 60)
    assert (found.stable, found.candidate) == (0.0, 1.0)
    assert found.standing is Standing.BREACHED


def test_terms_older_than_the_guardrail_are_judged_without_it() -> None:
    seen = sessions(300)
    older = guardrails.judge(seen, dataclasses.replace(LIMITS, reward=0.0), 0.05)
    assert [one.name for one in older] == ["errors", "latency", "length", "refusals", "repetition"]
    # with the shares of the error that they had then
    assert guardrails.judge(seen, LIMITS, 0.05 * 6 / 5)[:-1] == older


def test_the_reward_is_told_before_what_else_is_breached_and_alone_says_worse() -> None:
    found = guardrails.judge(sessions(900, tokens=120.0, reward=0.0), LIMITS, 0.0025)
    assert [one.name for one in found if one.standing is Standing.BREACHED] == ["length", "reward"]
    told = guardrails.breached(found)
    assert told is not None and told.name == "reward"
    assert [one.name for one in found if guardrails.says_worse(one)] == ["reward"]
    said = f"preferred to {told.candidate:.1%} of its answers against {told.stable:.1%}"
    assert guardrails.in_words(told) == f"reward (an average earlier answer {said}), at most 5.0% more"


@pytest.mark.parametrize("worse", [{"tokens": 60.0}, {"refused": 0.07}, {"failed": 0.022}])
@pytest.mark.parametrize("weight", [0.5, 0.1])
def test_exactly_at_the_limit_hardly_ever_breaches(worse, weight) -> None:
    breached = sum(
        guardrails.breached(guardrails.judge(sessions(600, weight=weight, seed=str(run), **worse), LIMITS, 0.05))
        is not None
        for run in range(100)
    )
    assert breached <= 5


@pytest.mark.parametrize("worse", [{"tokens": 60.0}, {"refused": 0.07}, {"failed": 0.022}])
def test_exactly_at_the_limit_is_hardly_ever_called_fine(worse) -> None:
    found = [standings(sessions(600, seed=str(run), **worse)) for run in range(100)]
    name = {"tokens": "length", "refused": "refusals", "failed": "errors"}[next(iter(worse))]
    assert sum(one[name] is Standing.FINE for one in found) <= 5


def test_one_endless_answer_decides_nothing() -> None:
    seen = sessions(200)
    first = next(one for one in seen if one.arm is CANDIDATE)
    assert first.first is not None
    endless = dataclasses.replace(first, first=dataclasses.replace(first.first, tokens=10.0**6))
    assert standings([*seen, endless])["length"] is standings(seen)["length"]


def test_an_answer_that_failed_has_no_length() -> None:
    [judged] = [
        one for one in guardrails.judge(sessions(300, failed=0.5, tokens=0.0), LIMITS, 0.05) if one.name == "length"
    ]
    assert judged.sessions < 300


def test_an_infinite_limit_guards_nothing() -> None:
    limits = dataclasses.replace(LIMITS, length=math.inf)
    assert standings(sessions(5, tokens=900.0), limits)["length"] is Standing.FINE


def test_policies_that_measure_nothing_leave_everything_unknown() -> None:
    seen = [dataclasses.replace(one, first=None) for one in sessions(900)]
    assert set(standings(seen).values()) == {Standing.UNKNOWN}


def test_better_waits_for_every_guardrail_and_ends_as_not_proven_when_none_comes() -> None:
    config = lines.ReleaseConfig(maximum_sessions=2000)
    rng = random.Random(3)
    known = [
        dataclasses.replace(
            one, votes=1, mature=True, outcome=float(rng.random() < (0.8 if one.arm is CANDIDATE else 0.5))
        )
        for one in sessions(600)
    ]
    assert evidence.judge(ledger.EvidenceResponse(tuple(known)), config).verdict is releases.Verdict.BETTER
    unmeasured = [dataclasses.replace(one, first=None) for one in known]
    waits = evidence.judge(ledger.EvidenceResponse(tuple(unmeasured)), config)
    assert waits.verdict is releases.Verdict.UNDECIDED
    assert "errors" in waits.reason
    assert "so it waits" in waits.reason
    over = evidence.judge(ledger.EvidenceResponse(tuple(unmeasured * 4)), config)
    assert over.verdict is releases.Verdict.NOT_PROVEN


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("length = 0.0", r"guardrails\.length"),
        ("length = nan", r"guardrails\.length"),
        ("reward = 0", r"guardrails\.reward"),
        ('errors = "few"', r"guardrails\.errors"),
        ("speed = 1.0", r"guardrails\.speed"),
    ],
)
def test_a_limit_that_is_none_is_refused_by_name(given, named, tmp_path) -> None:
    from trimtab.core import errors

    file = tmp_path / "lines.toml"
    file.write_text(f'[lines.support]\ntenant = "acme"\n[lines.support.release.guardrails]\n{given}\n')
    with pytest.raises(errors.InvalidField, match=named):
        lines.load_lines(file)


def test_limits_are_read_from_the_line_s_table(tmp_path) -> None:
    file = tmp_path / "lines.toml"
    file.write_text(
        '[lines.support]\ntenant = "acme"\n[lines.support.release.guardrails]\nlength = inf\nerrors = 0.1\n'
    )
    found = lines.load_lines(file)["support"].release.guardrails
    assert found == dataclasses.replace(LIMITS, length=math.inf, errors=0.1)
