"""Which models become releases: once each, passed ones queued, refused ones recorded, the newest wins."""

import dataclasses
import datetime
import math

from trimtab.core import lines, models, releases, text
from trimtab.rollout import intake, line

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
CONFIG = lines.ReleaseConfig()
State = releases.ReleaseState
OLD = "a" * 64


def at(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


def serving() -> line.Line:
    adopted = line.Line("acme", "support").new(OLD, CONFIG, NOW, rule=line.ADOPTED)
    arms = (releases.ArmTarget(line.STABLE, OLD, "old:1", 1.0, "d"),)
    return line.Line("acme", "support").with_record(line.moved(adopted, State.PROMOTED, "Adopted.", NOW, arms=arms))


def model(name: str, seconds: float = 5, *, passed: bool = True, gates=(), kind=models.ModelKind.POLICY):
    return models.PublishedModel(
        name * 64, text.Context("acme", "support"), kind, at(seconds), gates=gates, passed=passed
    )


def take_in(one: line.Line, *published: models.PublishedModel) -> line.Line:
    for release in intake.asked_for(one, published, CONFIG, at(100)):
        one = one.with_record(release)
    return one


def test_a_passed_policy_waits_for_its_turn_with_the_line_s_serving_arms() -> None:
    (release,) = take_in(serving(), model("b")).of_model("b" * 64)
    assert release.state is State.PENDING
    assert release.arms == serving().arms
    assert release.stable_id == OLD


def test_reading_the_models_again_asks_for_nothing() -> None:
    once = take_in(serving(), model("b"), model("c", passed=False))
    assert intake.asked_for(once, [model("b"), model("c", passed=False)], CONFIG, at(200)) == []


def test_a_refused_policy_is_recorded_with_its_figures_and_gets_no_traffic() -> None:
    gates = (
        models.GateFigure("win_rate", 0.31, 0.5, False, "it wins 31 % of held-out prompts, 50 % are needed"),
        models.GateFigure("repetition", 0.01, 0.2, True, "fine"),
        models.GateFigure("length_ratio", 3.2, 2.0, False),
    )
    (release,) = take_in(serving(), model("b", passed=False, gates=gates)).of_model("b" * 64)
    assert release.state is State.FAILED
    reason = release.history[-1].reason
    assert reason == (
        "Refused at the gate: win rate 0.31 (it wins 31 % of held-out prompts, 50 % are needed); "
        "length ratio 3.2 (the threshold is 2)."
    )
    assert release.arms == serving().arms


def test_what_was_published_before_the_first_adoption_waits_for_an_operator() -> None:
    assert take_in(line.Line("acme", "support"), model("b")).by_id == {}
    assert take_in(serving(), model("b", seconds=-5)).of_model("b" * 64) == []


def test_only_policies_are_released_and_never_what_serves_already() -> None:
    published = [model("b", kind=models.ModelKind.REWARD), model("a")]
    assert intake.asked_for(serving(), published, CONFIG, at(100)) == []


def test_the_newest_waiting_release_wins_and_the_others_say_by_whom_they_were_superseded() -> None:
    one = take_in(serving(), model("c", 7), model("b", 6), model("d", 8))
    ended = intake.superseded(one, at(101))
    assert {release.candidate_id[0] for release in ended} == {"b", "c"}
    assert all(release.history[-1].reason == f"Superseded by {'d' * 64}." for release in ended)
    for release in ended:
        one = one.with_record(release)
    assert intake.next_turn(one).candidate_id == "d" * 64


def test_nothing_begins_while_a_release_is_under_way_and_an_adoption_goes_first() -> None:
    one = take_in(serving(), model("b"))
    adoption = line.moved(one.new("c" * 64, CONFIG, at(50), rule=line.ADOPTED), State.PENDING, "Asked.", at(50))
    one = one.with_record(adoption)
    assert intake.superseded(one, at(101)) == []
    assert intake.next_turn(one) is adoption
    busy = one.with_record(line.moved(adoption, State.VERIFYING, "Its turn.", at(60)))
    assert intake.next_turn(busy) is None


def test_a_waiting_release_of_what_serves_by_now_is_ended() -> None:
    one = serving()
    own = line.moved(one.new(OLD, CONFIG, at(50)), State.PENDING, "Published.", at(50))
    (ended,) = intake.superseded(one.with_record(own), at(60))
    assert "serves by now" in ended.history[-1].reason


REWARD = models.ModelKind.REWARD


def test_a_release_is_scored_by_the_line_s_newest_reward_model_that_passed() -> None:
    published = [
        model("d", 1, kind=REWARD),
        model("e", 3, kind=REWARD),
        model("f", 4, kind=REWARD, passed=False),
        model("0", 5, kind=models.ModelKind.EVALUATION_REWARD),
        model("c", 2, kind=REWARD),
    ]
    assert intake.reward_for(serving(), published) == "e" * 64
    assert intake.reward_for(serving(), [published[2], published[3]]) == ""
    assert intake.no_reward(serving()) == ""


def test_a_reward_model_in_quarantine_scores_nothing_until_it_is_released() -> None:
    published = [model("d", 1, kind=REWARD), model("e", 3, kind=REWARD)]
    held = releases.Quarantine(NOW, reward_ids=("e" * 64,))
    worse = dataclasses.replace(serving().new("b" * 64, CONFIG, NOW), quarantine=held)
    assert intake.reward_for(serving().with_record(worse), published) == "d" * 64
    freed = dataclasses.replace(worse, quarantine=dataclasses.replace(held, released_at=NOW))
    assert intake.reward_for(serving().with_record(freed), published) == "e" * 64


def test_a_reward_model_that_went_into_quarantine_while_its_release_waited_gives_way() -> None:
    held = releases.Quarantine(NOW, reward_ids=("e" * 64,))
    worse = dataclasses.replace(serving().new("b" * 64, CONFIG, NOW), quarantine=held)
    waiting = serving().new("f" * 64, CONFIG, NOW, reward_id="e" * 64)
    assert intake.rescored(waiting, serving(), "d" * 64) == waiting
    other = intake.rescored(waiting, serving().with_record(worse), "d" * 64)
    assert (other.reward_id, other.terms) == ("d" * 64, CONFIG)
    none = intake.rescored(waiting, serving().with_record(worse), "")
    assert (none.reward_id, none.terms) == ("", lines.unscored(CONFIG))


def test_the_reward_model_is_fixed_when_the_release_is_made() -> None:
    one = serving()
    (release,) = intake.asked_for(one, [model("b")], CONFIG, at(100), "e" * 64)
    assert (release.reward_id, release.terms) == ("e" * 64, CONFIG)
    assert intake.asked_for(one.with_record(release), [model("b")], CONFIG, at(200), "f" * 64) == []


def test_a_release_that_nothing_scores_says_that_its_reward_is_not_guarded() -> None:
    (release,) = intake.asked_for(serving(), [model("b")], CONFIG, at(100))
    assert release.reward_id == ""
    assert release.terms.guardrails == dataclasses.replace(CONFIG.guardrails, reward=math.inf)
    off = lines.unscored(CONFIG)
    (unguarded,) = intake.asked_for(serving(), [model("b")], off, at(100), "e" * 64)
    assert (unguarded.reward_id, unguarded.terms) == ("", off)
