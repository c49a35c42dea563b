"""Faults that RLHF code is known for, planted one by one: each check here holds for the trainer and fails for them.

A check is a function of what is tested, so that it can be shown to tell the difference.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import pytest
import torch
from tests.integration.training.on_policy.bench import METHODS, PPO, Bench

from trimtab.modeling import logprobs
from trimtab.trainer import recipes
from trimtab.trainer.methods import actor_critic, grouped, learner, rollouts
from trimtab.trainer.steps import advantages, checkpoints, kl, losses

torch.set_num_threads(1)


class Caught(AssertionError):
    """A check has found what it looks for."""


# --- the score is read at, and paid to, the last response token, the end of sequence included


def check_the_score_is_paid_at_the_end(method: learner.Learner, batch: Sequence[rollouts.Rollout]) -> None:
    """Without KL and with gamma = lambda = 1 the return of every response token is the answer's score."""
    steps, _ = method.judge(batch)
    for rollout, step in zip(batch, steps, strict=True):
        expected = torch.full((len(rollout.response),), rollout.score + (0.0 if rollout.ended else -1.0))
        if step.returns.shape != expected.shape or not torch.allclose(step.returns, expected, atol=1e-4):
            raise Caught


class _PaysElsewhere(actor_critic.PPO):
    """Moves the reward of each answer's last token."""

    def _place(self, rewarded: learner.Rewarded, i: int) -> int:
        raise NotImplementedError

    def _rewarded(self, batch: Sequence[rollouts.Rollout]) -> learner.Rewarded:
        rewarded = super()._rewarded(batch)
        moved_B_T = torch.zeros_like(rewarded.rewards_B_T)
        for i, answer in enumerate(rewarded.answers):
            place = self._place(rewarded, i)
            if place < moved_B_T.shape[1]:
                moved_B_T[i, place] = rewarded.rewards_B_T[i, len(answer.response) - 1]
        return dataclasses.replace(rewarded, rewards_B_T=moved_B_T)


class PaidAtLastTokenThatIsNoPad(_PaysElsewhere):
    """Pad is the end of sequence: the token before it is taken for the last."""

    pad: int

    def _place(self, rewarded: learner.Rewarded, i: int) -> int:
        return max(place for place, token in enumerate(rewarded.answers[i].response) if token != self.pad)


class PaidAfterTheEnd(_PaysElsewhere):
    def _place(self, rewarded: learner.Rewarded, i: int) -> int:
        return len(rewarded.answers[i].response)


class PaidAtTheRowsEnd(_PaysElsewhere):
    """In a padded row that is a pad."""

    def _place(self, rewarded: learner.Rewarded, i: int) -> int:
        return rewarded.rewards_B_T.shape[1] - 1


class WithoutTheEnd(actor_critic.PPO):
    """Trains on answers whose end-of-sequence token was cut off."""

    def _rewarded(self, batch: Sequence[rollouts.Rollout]) -> learner.Rewarded:
        cut = [dataclasses.replace(one, response=one.response[:-1], logprobs=one.logprobs[:-1]) for one in batch]
        return super()._rewarded(cut)


UNPENALISED = dataclasses.replace(PPO, beta=0.0, lam=1.0)


def test_the_score_is_paid_at_the_last_response_token(bench: Bench) -> None:
    check_the_score_is_paid_at_the_end(bench.learner(UNPENALISED), bench.rollouts().kept)


@pytest.mark.parametrize("fault", [PaidAtLastTokenThatIsNoPad, PaidAfterTheEnd, PaidAtTheRowsEnd, WithoutTheEnd])
def test_a_score_that_is_paid_elsewhere_is_caught(fault: type[actor_critic.PPO], bench: Bench) -> None:
    PaidAtLastTokenThatIsNoPad.pad = bench.policy.tokenizer.eos_token_id
    ended = [one for one in bench.rollouts().kept if one.ended]
    with pytest.raises(Caught):
        check_the_score_is_paid_at_the_end(fault(bench.models, UNPENALISED), ended)


# --- the log-probabilities of an answer are those of its own tokens


def check_the_ratio_starts_at_one(method: learner.Learner, batch: Sequence[rollouts.Rollout]) -> None:
    """And so nothing is clipped, whatever the reference is."""
    steps, _ = method.judge(batch)
    learned = method.learn(steps[:1], seed=0)
    if learned["clip_fraction"] != 0.0 or abs(learned["approximate_kl"]) > 1e-6:
        raise Caught


class ReadOnePlaceOff(grouped.RLOO):
    """The logits at a token, and not those before it, are taken for that token's."""

    def _policy_loss(
        self,
        logprobs_N: torch.Tensor,
        part: Sequence[learner.Step],
        whole: losses.Whole,
        totals: dict[str, float],
    ) -> torch.Tensor:
        return super()._policy_loss(logprobs_N.roll(-1), part, whole, totals)


def test_the_ratio_starts_at_one(bench: Bench) -> None:
    check_the_ratio_starts_at_one(bench.learner(METHODS["rloo"]), bench.rollouts().kept)


def test_log_probabilities_that_are_read_one_place_off_are_caught(bench: Bench) -> None:
    settings = METHODS["rloo"]
    assert isinstance(settings, recipes.RLOOSettings)
    with pytest.raises(Caught):
        check_the_ratio_starts_at_one(ReadOnePlaceOff(bench.models, settings), bench.rollouts().kept)


# --- the KL is in the reward and in no loss


def check_nothing_moves_without_advantages(bench: Bench, method: learner.Learner) -> None:
    steps, _ = method.judge(bench.rollouts().kept)
    still = [dataclasses.replace(step, advantages=torch.zeros_like(step.advantages)) for step in steps]
    with torch.no_grad():
        for weight in bench.reference.model.parameters():
            weight.mul_(1.5)
    before = bench.weights()
    method.learn(still, seed=0)
    if not all(torch.equal(a, b) for a, b in zip(before, bench.policy.model.parameters(), strict=True)):
        raise Caught


class _KlInTheLoss(grouped.GRPO):
    estimator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def _policy_loss(
        self,
        logprobs_N: torch.Tensor,
        part: Sequence[learner.Step],
        whole: losses.Whole,
        totals: dict[str, float],
    ) -> torch.Tensor:
        prompts, responses = [step.prompt for step in part], [step.response for step in part]
        with torch.no_grad():
            reference_N = logprobs.flat_logprobs(self._reference.model, prompts, responses)
        loss = super()._policy_loss(logprobs_N, part, whole, totals)
        return loss + 0.05 * losses.token_mean(type(self).estimator(logprobs_N, reference_N), whole.tokens)


class K1InTheLoss(_KlInTheLoss):
    estimator = staticmethod(kl.k1)


class K3InTheLoss(_KlInTheLoss):
    estimator = staticmethod(kl.k3)


@pytest.mark.parametrize("fault", [K1InTheLoss, K3InTheLoss])
def test_a_kl_in_the_loss_is_caught(fault: type[grouped.GRPO], bench: Bench) -> None:
    settings = METHODS["grpo"]
    assert isinstance(settings, recipes.GRPOSettings)
    with pytest.raises(Caught):
        check_nothing_moves_without_advantages(bench, fault(bench.models, settings))


def test_without_one_the_same_check_holds(bench: Bench) -> None:
    check_nothing_moves_without_advantages(bench, bench.learner(METHODS["grpo"]))


# --- GAE skips what is masked

Gae = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, float], advantages.Advantages]


def check_a_gap_is_skipped(generalised: Gae) -> None:
    """The reference case: what stands in a gap is nothing, and credit passes over it whole."""
    rewards, values = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.4, 0.9, 0.3]])
    found = generalised(rewards, values, torch.tensor([[True, True, False, True]]), 1.0, 0.95).advantages_B_T
    if not torch.allclose(found, torch.tensor([[0.43675, 0.565, 0.0, 0.7]]), atol=1e-6):
        raise Caught


def multiplied_by_the_mask(
    rewards_B_T: torch.Tensor, values_B_T: torch.Tensor, mask_B_T: torch.Tensor, gamma: float, lam: float
) -> advantages.Advantages:
    """The rule of several libraries: a masked place ends the credit of everything before it."""
    values_B_T, rewards_B_T = values_B_T * mask_B_T, rewards_B_T * mask_B_T
    everywhere = torch.ones_like(mask_B_T)
    found = advantages.generalised(rewards_B_T, values_B_T, everywhere, gamma, lam)
    return advantages.Advantages(found.advantages_B_T * mask_B_T, found.returns_B_T * mask_B_T)


def test_the_rule_that_multiplies_gives_what_the_reference_case_says_of_it() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.4, 0.9, 0.3]])
    found = multiplied_by_the_mask(rewards, values, torch.tensor([[True, True, False, True]]), 1.0, 0.95)
    torch.testing.assert_close(found.advantages_B_T, torch.tensor([[0.3909125, 0.51675, 0.0, 0.7]]))


def over_the_gap(
    rewards_B_T: torch.Tensor, values_B_T: torch.Tensor, mask_B_T: torch.Tensor, gamma: float, lam: float
) -> advantages.Advantages:
    """As if the gap had been the policy's own tokens."""
    return advantages.generalised(rewards_B_T, values_B_T, torch.ones_like(mask_B_T), gamma, lam)


def test_gae_skips_a_gap() -> None:
    check_a_gap_is_skipped(advantages.generalised)


@pytest.mark.parametrize("fault", [multiplied_by_the_mask, over_the_gap])
def test_gae_over_a_gap_is_caught(fault: Gae) -> None:
    with pytest.raises(Caught):
        check_a_gap_is_skipped(fault)


# --- a resumed run is the run it was

SHORT: recipes.OnPolicySettings = dataclasses.replace(METHODS["rloo"], iterations=4)
Resume = Callable[[Bench], None]


class _Killed(Exception):
    pass


@dataclasses.dataclass
class _DiesAt:
    """A sampler in whose hands the process dies."""

    iteration: int
    inner: rollouts.Sampler

    def draw(
        self, prompts: Sequence[rollouts.EncodedPrompt], samples: int, max_tokens: int, *, iteration: int, seed: int
    ) -> list[rollouts.Drawn]:
        if iteration == self.iteration:
            raise _Killed
        return self.inner.draw(prompts, samples, max_tokens, iteration=iteration, seed=seed)


def check_a_resumed_run_is_the_uninterrupted_one(
    trained: dict[str, pathlib.Path], folder: pathlib.Path, on_resume: Resume
) -> None:
    (folder / "whole").mkdir()
    (folder / "killed").mkdir()
    whole, killed = Bench(trained, folder / "whole"), Bench(trained, folder / "killed")
    whole.train(SHORT)
    with pytest.raises(_Killed):
        killed.train(SHORT, saved=eager(folder), sampler=_DiesAt(2, rollouts.InProcess(killed.policy)))
    resumed = Bench(trained, folder / "killed")
    on_resume(resumed)
    resumed.train(SHORT, saved=eager(folder))
    same = all(
        torch.equal(a, b)
        for a, b in zip(whole.policy.model.parameters(), resumed.policy.model.parameters(), strict=True)
    )
    if not same or whole.steps() != resumed.steps():
        raise Caught


class _Eager(checkpoints.Checkpoints):
    """One after every step."""

    def due(self) -> bool:
        return True


def eager(folder: pathlib.Path) -> checkpoints.Checkpoints:
    return _Eager(folder / "killed", b"record", {})


def recapture_the_reference(bench: Bench) -> None:
    """The reference becomes what the policy was when the run died: the KL that was paid for is forgotten."""
    tensors = next((bench.folder / checkpoints.FOLDER).glob("1-*.safetensors"))
    saved = checkpoints.tensor_files.load_file(tensors)
    names = dict(bench.reference.model.named_parameters())
    with torch.no_grad():
        for name, weight in names.items():
            weight.copy_(saved[f"module/policy/{name}"])


def start_with_a_fresh_coefficient(bench: Bench) -> None:
    document = bench.folder / checkpoints.FOLDER / "1.json"
    document.write_text(document.read_text().replace('"beta": 0.05', '"beta": 0.06'))


def skip_the_iteration_under_way(bench: Bench) -> None:
    _resume_at(bench, 3)


def take_an_iteration_again(bench: Bench) -> None:
    _resume_at(bench, 1)


def _resume_at(bench: Bench, step: int) -> None:
    path = bench.folder / checkpoints.FOLDER / "1.json"
    document = json.loads(path.read_text())
    assert document["step"] == 2
    path.write_text(json.dumps({**document, "step": step}))


def test_a_resumed_run_keeps_its_reference(trained: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    check_a_resumed_run_is_the_uninterrupted_one(trained, tmp_path, lambda bench: None)


@pytest.mark.parametrize(
    "fault",
    [
        recapture_the_reference,
        start_with_a_fresh_coefficient,
        skip_the_iteration_under_way,
        take_an_iteration_again,
    ],
)
def test_what_is_captured_anew_dropped_or_taken_twice_on_resume_is_caught(
    fault: Resume, trained: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(Caught):
        check_a_resumed_run_is_the_uninterrupted_one(trained, tmp_path, fault)
