"""What a policy is judged by before traffic: measured on held-out prompts, and said aloud where it was not."""

import dataclasses
import math
import pathlib

import pytest
import torch
from tests.integration.training import making

from trimtab.core import lines
from trimtab.modeling import loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.judging import evaluation, gates
from trimtab.trainer.methods import rollouts, sft
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
SETTINGS = recipes.SFTSettings(evaluation_prompts=32, evaluation_minimum=6, epochs=25, batch=8, lr=5e-3)
GATES = ("win_rate", "kl_to_anchor", "length_ratio", "repetition")


@pytest.fixture
def prompts() -> list[rollouts.Prompt]:
    return encoding.distinct_prompts(making.feedback().of("held_out"))


@pytest.fixture
def judge(policy: loading.LoadedPolicy) -> rewards.LoadedReward:
    """Likes whatever its random head likes: enough to tell answers apart."""
    made = rewards.from_policy(policy)
    torch.nn.init.normal_(made.model.score.weight, generator=torch.Generator().manual_seed(3))
    return made


def measured(**changes: object) -> evaluation.Measured:
    """A fine candidate, with changes."""
    answers = evaluation.Answers(tokens=10.0, repetition=0.0, reward=0.5)
    fine = evaluation.Measured((1.0, 1.0, 0.5, 0.0) * 8, (1.0, 3.0) * 16, 0, answers, answers)
    return dataclasses.replace(fine, **changes)  # type: ignore[arg-type]


def test_a_policy_against_itself_has_no_kl_and_no_advantage(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward, prompts: list[rollouts.Prompt]
) -> None:
    result = evaluation.measure(policy, policy, judge, prompts * 8, SETTINGS, seed=1)
    assert len(result.wins) == 32 and result.unscored == 0
    _, low, high = evaluation.interval(result.wins)
    assert low <= 0.5 <= high
    assert result.kl_nats == pytest.approx([0.0] * 32, abs=1e-3)
    assert all(math.isfinite(figure) for figure in result.figures().values())


def test_equal_answers_are_ties(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward, prompts: list[rollouts.Prompt]
) -> None:
    greedy = dataclasses.replace(policy, profile=loading.ServingProfile(temperature=0.0, max_tokens=16))
    result = evaluation.measure(greedy, greedy, judge, prompts, SETTINGS, seed=1)
    assert set(result.wins) == {0.5}


def test_the_kl_of_a_trained_policy_to_its_anchor_is_seen(
    policy: loading.LoadedPolicy,
    folder_of_policy: pathlib.Path,
    judge: rewards.LoadedReward,
    prompts: list[rollouts.Prompt],
    report: progress.Progress,
) -> None:
    anchor = loading.load_policy(folder_of_policy)
    sft.train(policy, making.demonstrations(), SETTINGS, 1, report)
    result = evaluation.measure(policy, anchor, judge, prompts * 6, SETTINGS, seed=1)
    mean, low, _ = evaluation.interval(result.kl_nats)
    # the anchor knows nothing: every token of a learned answer costs it about ln 316, the candidate next to nothing
    assert low > 10.0 and mean < 16 * math.log(316) * 1.2
    strict = gates.of_policy(result, lines.GateConfig(kl_to_anchor=5.0), SETTINGS.evaluation_minimum)
    assert [gate.passed for gate in strict if gate.name == "kl_to_anchor"] == [False]


def test_a_prompt_without_a_verdict_is_counted_and_too_few_verdicts_measure_nothing(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward, prompts: list[rollouts.Prompt]
) -> None:
    torch.nn.init.constant_(judge.model.score.weight, math.nan)
    result = evaluation.measure(policy, policy, judge, prompts, SETTINGS, seed=1)
    assert result.wins == () and result.unscored == len(prompts)
    verdict = gates.of_policy(result, lines.GateConfig(), SETTINGS.evaluation_minimum)
    assert [(gate.name, gate.passed, gate.value) for gate in verdict] == [("prompts_judged", False, 0.0)]
    assert verdict[0].detail.startswith("not measured")


def test_no_held_out_prompt_is_a_gate_that_is_not_passed(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward
) -> None:
    result = evaluation.measure(policy, policy, judge, [], SETTINGS, seed=1)
    verdict = gates.of_policy(result, lines.GateConfig(), SETTINGS.evaluation_minimum)
    assert [gate.passed for gate in verdict] == [False]
    assert all(math.isfinite(figure) for figure in result.figures().values())


def test_a_fine_candidate_passes_every_gate() -> None:
    verdict = gates.of_policy(measured(), lines.GateConfig(), 16)
    assert tuple(gate.name for gate in verdict) == GATES
    assert all(gate.passed for gate in verdict)
    assert verdict[0].value == 0.625 and "95 %" in verdict[0].detail


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("win_rate", {"wins": (0.0, 1.0, 0.0) * 8}),
        ("kl_to_anchor", {"kl_nats": (50.0, 60.0) * 16}),
        ("kl_to_anchor", {"kl_nats": (math.inf, 1.0) * 16}),
        ("length_ratio", {"candidate": evaluation.Answers(tokens=21.0, repetition=0.0, reward=0.0)}),
        ("repetition", {"candidate": evaluation.Answers(tokens=10.0, repetition=0.3, reward=0.0)}),
    ],
)
def test_each_gate_refuses_what_it_is_for(name: str, changes: dict[str, object]) -> None:
    verdict = gates.of_policy(measured(**changes), lines.GateConfig(), 16)
    assert [gate.name for gate in verdict if not gate.passed] == [name]


@pytest.mark.parametrize(
    ("answer", "repeats"),
    [
        ("it is red it is red it is red it is red", True),
        ("so very very very very very very very good", True),
        ("open the menu, choose a colour, then go back and look at it", False),
        ("no no no no", False),
        ("", False),
    ],
)
def test_saying_the_same_again_and_again_is_seen(answer: str, repeats: bool) -> None:
    assert evaluation.repeats_itself(answer) is repeats


def test_the_prompt_pool_of_evaluation_is_each_held_out_prompt_once() -> None:
    dataset = making.feedback()
    held_out = encoding.distinct_prompts(dataset.of("held_out"))
    assert len(held_out) == len(set(held_out)) <= len(making.COLOURS)
    assert encoding.distinct_prompts(datasets.Dataset([]).examples) == []
