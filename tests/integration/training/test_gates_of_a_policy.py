"""What a policy is judged by before traffic: measured on held-out prompts, and said aloud where it was not."""

import dataclasses
import math
import pathlib

import pytest
import torch
from tests.integration.training import making

from trimtab.core import lines
from trimtab.modeling import decoder, heads, loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.judging import answering, evaluation, gates, probes, sets
from trimtab.trainer.methods import rollouts, sft
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
SETTINGS = recipes.SFTSettings(
    optimizer="muon", matrix_lr=6e-3, evaluation_prompts=32, evaluation_minimum=6, epochs=25, batch=8, lr=5e-3
)
GATES = (
    "win_rate",
    "win_rate_over_parent",
    "kl_to_anchor",
    "length_ratio",
    "reward_length_slope",
    "gain_at_equal_length",
    "repetition",
)
# Two wins, a tie, a loss; not a matter of length.
PAIRS = tuple(evaluation.Pair(gain, ratio) for gain, ratio in ((1.0, 0.1), (1.0, -0.1), (0.0, 0.1), (-0.5, -0.1)))


def pairs(*wins: float) -> tuple[evaluation.Pair, ...]:
    return tuple(evaluation.Pair(2 * win - 1, 0.1 * (-1) ** i) for i, win in enumerate(wins))


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
    fine = evaluation.Measured(PAIRS * 8, (1.0, 3.0) * 16, 0, answers, answers, parent_pairs=PAIRS * 8)
    return dataclasses.replace(fine, **changes)  # type: ignore[arg-type]


def test_a_policy_against_itself_has_no_kl_and_no_advantage(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward, prompts: list[rollouts.Prompt]
) -> None:
    result = evaluation.measure(policy, policy, evaluation.Judges(judge), prompts * 8, SETTINGS)
    assert len(result.wins) == 32 and result.unscored == 0
    _, low, high = evaluation.interval(result.wins)
    assert low <= 0.5 <= high
    assert result.kl_nats == pytest.approx([0.0] * 32, abs=1e-3)
    assert all(math.isfinite(figure) for figure in result.figures().values())


def test_equal_answers_are_ties(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward, prompts: list[rollouts.Prompt]
) -> None:
    greedy = dataclasses.replace(policy, profile=loading.ServingProfile(temperature=0.0, max_tokens=16))
    result = evaluation.measure(greedy, greedy, evaluation.Judges(judge), prompts, SETTINGS)
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
    result = evaluation.measure(policy, anchor, evaluation.Judges(judge), prompts * 6, SETTINGS)
    mean, low, _ = evaluation.interval(result.kl_nats)
    # the anchor knows nothing: every token of a learned answer costs it about ln 316, the candidate next to nothing
    assert low > 10.0 and mean < 16 * math.log(316) * 1.2
    strict = gates.of_policy(result, lines.GateConfig(kl_to_anchor=5.0), SETTINGS.evaluation_minimum)
    assert [gate.passed for gate in strict if gate.name == "kl_to_anchor"] == [False]


def test_a_prompt_without_a_verdict_is_counted_and_too_few_verdicts_measure_nothing(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward, prompts: list[rollouts.Prompt]
) -> None:
    torch.nn.init.constant_(judge.model.score.weight, math.nan)
    result = evaluation.measure(policy, policy, evaluation.Judges(judge), prompts, SETTINGS)
    assert result.wins == () and result.unscored == len(prompts)
    verdict = gates.of_policy(result, lines.GateConfig(), SETTINGS.evaluation_minimum)
    assert [(gate.name, gate.passed, gate.value) for gate in verdict] == [("prompts_judged", False, 0.0)]
    assert verdict[0].detail.startswith("not measured")


def test_no_held_out_prompt_is_a_gate_that_is_not_passed(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward
) -> None:
    result = evaluation.measure(policy, policy, evaluation.Judges(judge), [], SETTINGS)
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
        ("win_rate", {"pairs": pairs(0.0, 1.0, 0.0) * 8}),
        ("win_rate_over_parent", {"parent_pairs": pairs(0.0, 1.0, 0.0, 0.0) * 8}),
        ("win_rate_over_parent", {"parent_pairs": pairs(1.0) * 3}),
        ("kl_to_anchor", {"kl_nats": (50.0, 60.0) * 16}),
        ("kl_to_anchor", {"kl_nats": (math.inf, 1.0) * 16}),
        ("length_ratio", {"candidate": evaluation.Answers(tokens=21.0, repetition=0.0, reward=0.0)}),
        ("repetition", {"candidate": evaluation.Answers(tokens=10.0, repetition=0.3, reward=0.0)}),
    ],
)
def test_each_gate_refuses_what_it_is_for(name: str, changes: dict[str, object]) -> None:
    verdict = gates.of_policy(measured(**changes), lines.GateConfig(), 16)
    assert [gate.name for gate in verdict if not gate.passed] == [name]


def test_a_candidate_that_is_the_reference_s_child_is_held_against_it_once() -> None:
    names = [gate.name for gate in gates.of_policy(measured(parent_pairs=None), lines.GateConfig(), 16)]
    assert names == [name for name in GATES if name != "win_rate_over_parent"]


def test_a_candidate_that_beats_the_anchor_but_not_what_serves_is_refused() -> None:
    found = measured(pairs=pairs(1.0, 1.0, 1.0, 0.0) * 8, parent_pairs=pairs(1.0, 0.0, 0.0, 0.0) * 8)
    verdict = {gate.name: gate for gate in gates.of_policy(found, lines.GateConfig(), 16)}
    assert verdict["win_rate"].passed and not verdict["win_rate_over_parent"].passed
    assert "95 %" in verdict["win_rate_over_parent"].detail


def test_as_good_as_what_serves_is_not_refused_for_chance() -> None:
    found = measured(parent_pairs=pairs(1.0, 0.0, 0.0, 1.0, 0.0) * 8)
    (gate,) = [one for one in gates.of_policy(found, lines.GateConfig(), 16) if one.name == "win_rate_over_parent"]
    assert gate.value == 0.4 and gate.passed


@pytest.mark.parametrize("reference_is", ["anchor", "parent", "reference"])
def test_the_gate_of_the_kl_is_named_for_what_it_was_measured_to(reference_is: str) -> None:
    verdict = gates.of_policy(measured(), lines.GateConfig(kl_to_anchor=1.0), 16, reference_is)
    (gate,) = [one for one in verdict if one.name.startswith("kl_")]
    assert gate.name == f"kl_to_{reference_is}" and f"KL to the {reference_is}" in gate.detail and not gate.passed


@pytest.mark.parametrize(
    ("ours", "theirs", "passed"), [(0.2, 0.2, True), (0.31, 0.2, False), (0, 0, True), (1, 0, False)]
)
def test_answers_that_the_judge_s_heads_cannot_agree_on_are_refused(ours: float, theirs: float, passed: bool) -> None:
    both = [evaluation.Answers(10.0, 0.0, 0.5, disagreement=one) for one in (ours, theirs)]
    verdict = gates.of_policy(measured(candidate=both[0], reference=both[1]), lines.GateConfig(), 16)
    assert [gate.passed for gate in verdict if gate.name == "disagreement"] == [passed]
    assert all(gate.passed for gate in verdict if gate.name != "disagreement")


def test_the_disagreement_of_an_ensemble_is_measured(
    policy: loading.LoadedPolicy, judge: rewards.LoadedReward, prompts: list[rollouts.Prompt]
) -> None:
    width = judge.model.score.weight.shape[1]
    drawn = torch.randn(4, width, generator=torch.Generator().manual_seed(5))
    drawn -= drawn.mean(dim=0)
    unsure = dataclasses.replace(judge, ensemble=heads.Heads(drawn, torch.zeros(4)))
    figures = evaluation.measure(policy, policy, evaluation.Judges(unsure), prompts, SETTINGS).figures()
    assert figures["disagreement"] > 0 and figures["reference_disagreement"] > 0
    alone = evaluation.measure(policy, policy, evaluation.Judges(judge), prompts, SETTINGS).figures()
    assert "disagreement" not in alone


def test_a_win_by_length_alone_is_refused() -> None:
    longer = tuple(evaluation.Pair(3.0 * x - 0.5 + e, x) for x in (0.4, 0.8, 1.2, 1.6) for e in (-0.1, 0.1) * 4)
    verdict = {gate.name: gate for gate in gates.of_policy(measured(pairs=longer), lines.GateConfig(), 16)}
    assert verdict["win_rate"].value == 1.0
    assert not verdict["reward_length_slope"].passed and verdict["reward_length_slope"].value == pytest.approx(3.0)
    assert not verdict["gain_at_equal_length"].passed
    assert verdict["gain_at_equal_length"].value == pytest.approx(-0.5)


@pytest.mark.parametrize(("ratio", "passed"), [(0.0, True), (0.7, False)])
def test_lengths_that_never_vary_explain_nothing_or_cannot_be_told_apart(ratio: float, passed: bool) -> None:
    same = tuple(evaluation.Pair(gain, ratio) for gain in (1.0, 0.5) * 16)
    (gate,) = [one for one in gates.of_policy(measured(pairs=same), lines.GateConfig(), 16) if "slope" in one.name]
    assert gate.passed is passed and ("not measured" in gate.detail) is not passed


def test_the_prompts_and_the_reference_s_answers_are_the_same_for_every_candidate(
    policy: loading.LoadedPolicy, folder_of_policy: pathlib.Path, prompts: list[rollouts.Prompt]
) -> None:
    more = [*prompts, *encoding.distinct_prompts(making.demonstrations().of("train"))]
    assert answering.fixed(prompts, 3) == answering.fixed(prompts[::-1], 3)
    assert set(answering.fixed(more, 100)) == set(more)
    again = loading.load_policy(folder_of_policy)
    asked = answering.fixed(prompts, 4)
    first = texts(answering.as_served(policy, asked, 16, "reference"))
    assert texts(answering.as_served(again, asked, 16, "reference")) == first
    # a prompt's answer does not depend on the others
    assert texts(answering.as_served(again, asked[:2], 16, "reference")) == first[:2]
    assert texts(answering.as_served(again, asked, 16, "candidate")) != first


def texts(decoded: list[decoder.Decoded]) -> list[str]:
    return [answer.text for answer in decoded]


def test_a_candidate_is_held_against_its_parent_and_both_reward_models(
    policy: loading.LoadedPolicy,
    folder_of_policy: pathlib.Path,
    judge: rewards.LoadedReward,
    prompts: list[rollouts.Prompt],
    report: progress.Progress,
) -> None:
    anchor = loading.load_policy(folder_of_policy)
    sft.train(policy, making.demonstrations(), SETTINGS, 1, report)
    other = rewards.from_policy(anchor)
    other.model.score.weight.data.copy_(-judge.model.score.weight)
    judges = evaluation.Judges(judge, other)
    result = evaluation.measure(policy, anchor, judges, prompts * 4, SETTINGS, parent=policy)
    # against itself: other answers of the same policy
    assert result.parent_pairs is not None and len(result.parent_pairs) == len(result.pairs)
    # 24 wins of the same policy over itself: further from a half than 0.4 in one of ten thousand
    assert abs(evaluation.interval([pair.win for pair in result.parent_pairs])[0] - 0.5) < 0.4
    # the head of the other model is turned round: it prefers what the judge does not
    assert set(result.agreement) == {0.0} and len(result.training_wins) == len(result.pairs)
    figures = result.figures()
    assert figures["training_win_rate"] == pytest.approx(1 - figures["win_rate"])
    assert {"win_rate_over_parent_low", "reward_models_agree", "formatted"} <= figures.keys()


def test_a_policy_moves_towards_what_it_was_taught(
    policy: loading.LoadedPolicy, folder_of_policy: pathlib.Path, report: progress.Progress
) -> None:
    anchor = loading.load_policy(folder_of_policy)
    rows = [one for one in making.demonstrations(96).examples if "Gladly" in one.response]
    sft.train(policy, datasets.Dataset(rows), SETTINGS, 1, report)
    asked = encoding.distinct_prompts(rows)
    preferences = [
        sets.Preference(number, prompt, making.KIND.format("red"), making.RUDE.format("red"))
        for number, prompt in enumerate(asked)
    ]
    assert set(evaluation.moved_towards(policy, anchor, preferences)) == {1.0}
    assert set(evaluation.moved_towards(anchor, anchor, preferences)) == {0.5}
    too_long = sets.Preference(9, asked[0], "red " * 100, "blue")
    assert evaluation.moved_towards(policy, anchor, [too_long]) == ()
    gate = gates.of_own_set("manners", "preferences", evaluation.moved_towards(anchor, policy, preferences), 0.5, 3)
    assert gate.name == "set_manners" and gate.value == 0.0 and not gate.passed
    unmeasured = gates.of_own_set("manners", "preferences", (1.0,) * 5, 0.5, 6)
    assert not unmeasured.passed and unmeasured.detail.startswith("not measured: 5 of its items")


def test_probes_that_mean_nothing_to_a_tiny_policy_do_not_refuse_it(
    policy: loading.LoadedPolicy, folder_of_policy: pathlib.Path, report: progress.Progress
) -> None:
    anchor = loading.load_policy(folder_of_policy)
    sft.train(policy, making.demonstrations(), SETTINGS, 1, report)
    found = probes.probe(policy, anchor, list(probes.SETS))
    verdict = [gates.of_probe(name, probed, getattr(lines.GateConfig(), name)) for name, probed in found.items()]
    assert [gate.name for gate in verdict] == list(probes.SETS) and all(gate.passed for gate in verdict)
    assert found["harm_not_refused"].candidate == found["harm_not_refused"].reference == 1.0


def test_a_policy_that_learns_to_refuse_everything_and_to_shout_is_seen(
    policy: loading.LoadedPolicy, folder_of_policy: pathlib.Path, report: progress.Progress
) -> None:
    anchor = loading.load_policy(folder_of_policy)
    asked = [item[0] for name in ("over_refusal", "format_gaming") for item in probes.items(name)]
    rows = [
        datasets.DatasetExample(
            f"d{i}",
            "train",
            "demonstration",
            [{"role": "user", "content": prompt[0].content.read()}],
            response="I can't help!!!",
        )
        for i, prompt in enumerate(asked)
    ]
    sft.train(policy, datasets.Dataset(rows), SETTINGS, 1, report)
    found = probes.probe(policy, anchor, ["over_refusal", "format_gaming"])
    for name, probed in found.items():
        gate = gates.of_probe(name, probed, getattr(lines.GateConfig(), name))
        assert probed.reference == 0.0 and probed.candidate > 0.5 and not gate.passed


def test_probes_that_do_not_fit_are_a_gate_that_is_not_passed() -> None:
    gate = gates.of_probe("sycophancy", probes.Probed(0.0, 0.0, 7, 9), 0.2)
    assert not gate.passed and gate.detail.startswith("not measured: 7 of 16") and "it takes 8" in gate.detail
    assert gates.of_probe("sycophancy", probes.Probed(0.0, 0.0, 8, 8), 0.2).passed


def test_the_prompt_pool_of_evaluation_is_each_held_out_prompt_once() -> None:
    dataset = making.feedback()
    held_out = encoding.distinct_prompts(dataset.of("held_out"))
    assert len(held_out) == len(set(held_out)) <= len(making.COLOURS)
    assert encoding.distinct_prompts(datasets.Dataset([]).examples) == []
