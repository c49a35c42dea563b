"""Several heads on one body: their mean is the folder's own head, their disagreement says where examples say little."""

import dataclasses
import pathlib
from collections.abc import Sequence

import pytest
import torch
import transformers
from tests.integration.training import making
from tests.integration.training.test_reward_scores import ITEMS, item

from trimtab.core import errors, scoring
from trimtab.modeling import answers, heads, loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import encoding
from trimtab.trainer.reward import ensembles, fitting, hub, material
from trimtab.trainer.steps import checkpoints, progress

torch.set_num_threads(1)
QUICK = recipes.RewardSettings(epochs=3, batch=8, lr=3e-3, warmup_steps=2, heads=5, pessimism=1.5)


def prepared(policy: loading.LoadedPolicy, pairs: int = 60, thumbs: int = 0) -> material.Feedback:
    encoder = encoding.encoder_of(policy)
    return material.prepare(encoder, making.feedback(pairs, thumbs).of("train"), QUICK, encoding.Skipped())


def fit(
    policy: loading.LoadedPolicy, report: progress.Progress, settings: recipes.RewardSettings = QUICK, seed: int = 3
) -> rewards.LoadedReward:
    return fitting.fit(policy, prepared(policy), settings, seed=seed, report=report)[0]


def outcomes(scores: Sequence[scoring.Score]) -> list[float]:
    return [score.outcome for score in scores if isinstance(score.outcome, float)]


def test_a_score_is_the_mean_less_so_many_deviations_and_says_how_unsure_it_is(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    made = fit(policy, report)
    plain = dataclasses.replace(made, ensemble=None)
    scores, means = made.score(ITEMS), outcomes(plain.score(ITEMS))
    assert made.hub.pessimism == 1.5
    deviations = [score.uncertainty or 0.0 for score in scores]
    assert all(deviation > 0 for deviation in deviations)
    assert outcomes(scores) == pytest.approx([m - 1.5 * d for m, d in zip(means, deviations, strict=True)], abs=1e-6)
    assert all(score.uncertainty is None for score in plain.score(ITEMS))


def test_the_folder_stays_an_ordinary_model_whose_own_head_is_the_mean(
    policy: loading.LoadedPolicy, report: progress.Progress, tmp_path: pathlib.Path
) -> None:
    made = fit(policy, report)
    rewards.save_reward_model(made, tmp_path / "model")
    loaded = rewards.load_reward_model(tmp_path / "model")
    assert loaded.hub == made.hub and loaded.score(ITEMS) == made.score(ITEMS)
    assert made.ensemble is not None
    assert made.ensemble.deviations_K_D.shape == (5, 32)
    assert made.ensemble.deviations_K_D.sum(dim=0).abs().max().item() < 1e-6
    assert made.ensemble.centres_K.sum().abs().item() < 1e-6
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32)
    encoded = [made.encoder.encode(one.prompt, one.response.read()) for one in ITEMS]
    rows = [row for row in encoded if isinstance(row, answers.Answer)]
    with torch.no_grad():
        theirs = [model(torch.tensor([row.tokens])).logits[0, 0].item() for row in rows]
    assert [one.mean for one in made.measure(rows)] == pytest.approx(theirs, abs=1e-5)


def test_before_training_the_mean_is_zero_and_so_is_the_constant_of_no_head(policy: loading.LoadedPolicy) -> None:
    model = rewards.from_policy(policy).model
    ensemble = ensembles.Ensemble(model, 5, 40, seed=1)
    assert ensemble.deviations.sum(dim=0).abs().max().item() < 1e-6
    assert torch.allclose(ensemble.shares_P_K.mean(dim=0), torch.ones(5))
    assert (ensemble.shares_P_K > 0).all() and ensemble.shares_P_K.std().item() == pytest.approx(1.0, abs=0.3)
    again = ensembles.Ensemble(model, 5, 40, seed=1)
    assert torch.equal(again.deviations, ensemble.deviations) and torch.equal(again.shares_P_K, ensemble.shares_P_K)
    features = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
    settled = ensemble.settle(model, features.double().sum(dim=0), 64)
    rewards_K_B = settled.deviations_K_D @ features.T - settled.centres_K.unsqueeze(1)
    assert rewards_K_B.mean(dim=1).abs().max().item() < 1e-6


def test_an_ensemble_learns_as_well_as_one_head_and_doubts_more_what_it_never_saw(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    settings = dataclasses.replace(QUICK, epochs=6)
    (made, judge), _ = fitting.train_both(policy, making.feedback(180, 0), settings, 3, report)
    assert made.figures["pair_accuracy"] > 0.8 and made.figures["pair_nll"] < 0.6
    seen = [item(text.format(colour)) for colour in making.COLOURS for text in (making.KIND, making.RUDE)]
    strange = [item("zq " * n, "0 1 2 3 4 5 6 7 8 9") for n in range(3, 15)]
    known, unknown = (
        sum(score.uncertainty or 0.0 for score in made.reward.score(items)) / 12 for items in (seen, strange)
    )
    assert unknown > 1.3 * known
    assert made.figures["disagreement"] > 0
    assert judge.reward.hub.pessimism == 0.0 and judge.reward.ensemble is not None


def test_one_head_costs_and_changes_nothing(policy: loading.LoadedPolicy, report: progress.Progress) -> None:
    made = fit(policy, report, dataclasses.replace(QUICK, heads=1, pessimism=0.0, epochs=1))
    assert made.ensemble is None and made.hub.pessimism == 0.0


class Killed(Exception):
    pass


class Mortal(progress.Progress):
    """Dies at the end of a step, after its checkpoint."""

    def __init__(self, folder: pathlib.Path, saved: checkpoints.Checkpoints, last: int) -> None:
        super().__init__(folder, saved)
        self._left = last

    def step(self, figures: dict[str, float]) -> None:
        super().step(figures)
        self._left -= 1
        if not self._left:
            raise Killed


def test_interrupted_and_resumed_it_is_bit_equal(
    policy: loading.LoadedPolicy, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()

    def saved(name: str) -> checkpoints.Checkpoints:
        return checkpoints.Checkpoints(tmp_path / name, b"record", {"torch": "2"})

    whole = fit(policy, progress.Progress(tmp_path / "whole", saved("whole")))
    for last in (2, 5):
        with pytest.raises(Killed):
            fit(policy, Mortal(tmp_path / "broken", saved("broken"), last))
    resumed = fit(policy, progress.Progress(tmp_path / "broken", saved("broken")))
    assert whole.ensemble is not None and resumed.ensemble is not None
    assert torch.equal(whole.ensemble.deviations_K_D, resumed.ensemble.deviations_K_D)
    assert torch.equal(whole.ensemble.centres_K, resumed.ensemble.centres_K)
    states = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = fit(policy, progress.Progress(tmp_path), seed=4)
    assert other.ensemble is not None
    assert not torch.equal(whole.ensemble.deviations_K_D, other.ensemble.deviations_K_D)


def test_loss_and_gradient_do_not_depend_on_micro_batches_or_order(policy: loading.LoadedPolicy) -> None:
    """Float64, 1e-10: whatever the split and the order of a step's examples, with one head and with several."""
    feedback = prepared(policy, 30, 30)
    for count in (1, 5):
        found = []
        for positions, turn in ((1, 0), (100, 3), (10**6, 7)):
            settings = dataclasses.replace(QUICK, heads=count, micro_batch_positions=positions)
            reward = rewards.continued(rewards.from_policy(policy))
            torch.manual_seed(0)
            torch.nn.init.normal_(heads.head_of(reward.model).weight, std=0.1)
            reward.model.double()
            ensemble = ensembles.Ensemble(reward.model, count, len(feedback), 5) if count > 1 else None
            terms = hub.RewardTerms(feedback, settings).double()
            learner = fitting.Learner(reward, terms, ensemble, feedback, settings)
            numbers = list(range(len(feedback)))
            loss = learner.accumulate(numbers[turn:] + numbers[:turn])
            weights = [*reward.model.parameters(), *terms.parameters()]
            weights += [] if ensemble is None else list(ensemble.parameters())
            found.append((loss, [weight.grad for weight in weights if weight.grad is not None]))
        (loss, gradients), *others = found
        for other_loss, other_gradients in others:
            assert other_loss == pytest.approx(loss, abs=1e-10)
            for one, other in zip(gradients, other_gradients, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_heads_of_another_model_are_refused(
    policy: loading.LoadedPolicy, report: progress.Progress, tmp_path: pathlib.Path
) -> None:
    made = rewards.from_policy(policy)
    rewards.save_reward_model(
        dataclasses.replace(made, ensemble=heads.Heads(torch.zeros(4, 31), torch.zeros(4))), tmp_path
    )
    with pytest.raises(errors.ArtifactCorrupt, match="shape"):
        rewards.load_reward_model(tmp_path)
    (tmp_path / heads.HEADS_FILE).write_bytes(b"nothing")
    with pytest.raises(errors.ArtifactCorrupt, match="holds no ensemble"):
        rewards.load_reward_model(tmp_path)
