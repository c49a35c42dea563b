"""On the reference bandit the clipped loss with the KL in the reward reaches the optimum; k3 in the loss does not."""

import math

import torch

from trimtab.trainer.steps import kl, losses

torch.set_num_threads(1)
REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)
BETA, OPTIMUM = 0.5, 1.3262259663
OPTIMAL_POLICY = torch.tensor([0.2083069295, 0.0211434580, 0.7695957939, 0.0009538186], dtype=torch.float64)


def objective(logprobs: torch.Tensor) -> float:
    policy = logprobs.exp()
    return (policy * (REWARDS - BETA * (logprobs - REFERENCE.log()))).sum().item()


def trained(kl_in_loss: bool, steps: int = 4000) -> torch.Tensor:
    """Log-probs after exact-gradient steps: every arm weighted by its probability instead of sampled."""
    logits = REFERENCE.log().clone().requires_grad_()
    for _ in range(steps):
        logprobs = torch.log_softmax(logits, dim=0)
        old, policy = logprobs.detach(), logprobs.detach().exp()
        rewards = REWARDS if kl_in_loss else REWARDS - BETA * kl.k1(old, REFERENCE.log())
        advantages = rewards - (policy * rewards).sum()
        loss = (policy * losses.clipped_policy_loss(logprobs, old, advantages, clip=0.2).loss_N).sum()
        if kl_in_loss:
            loss = loss + BETA * (policy * kl.k3(logprobs, REFERENCE.log())).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= 0.5 * gradient
    return torch.log_softmax(logits, dim=0).detach()


def test_the_reference_numbers_are_those_of_this_bandit() -> None:
    partition = (REFERENCE * (REWARDS / BETA).exp()).sum()
    assert math.isclose(BETA * partition.log().item(), OPTIMUM, abs_tol=1e-9)
    torch.testing.assert_close(REFERENCE * (REWARDS / BETA).exp() / partition, OPTIMAL_POLICY, rtol=0, atol=1e-9)
    assert math.isclose(objective(REFERENCE.log()), 0.7, abs_tol=1e-12)


def test_with_the_kl_in_the_reward_the_optimum_is_reached() -> None:
    logprobs = trained(kl_in_loss=False)
    assert OPTIMUM - objective(logprobs) < 2e-4
    torch.testing.assert_close(logprobs.exp(), OPTIMAL_POLICY, rtol=0, atol=2e-3)


def test_with_k3_in_the_loss_training_rests_elsewhere() -> None:
    assert OPTIMUM - objective(trained(kl_in_loss=True)) > 5e-3
