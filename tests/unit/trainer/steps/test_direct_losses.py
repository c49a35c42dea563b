"""The losses of DPO, its relatives and KTO: the reference cases (computed independently, float64), their gradients,
what they do at the ends of the range, and where they rest on the reference bandit."""

import itertools
import math

import pytest
import torch

from trimtab.trainer.steps import direct_losses

torch.set_num_threads(1)
EXACT = {"rtol": 0.0, "atol": 1e-9}
# Of the reference cases: a bandit of four arms.
REFERENCE, REWARD, BETA = (0.4, 0.3, 0.2, 0.1), (1.0, 0.0, 2.0, -1.0), 0.5
OPTIMUM = (0.2083069295, 0.0211434580, 0.7695957939, 0.0009538186)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def the_margin() -> tuple[torch.Tensor, torch.Tensor]:
    """The reference case's pair: log pi(chosen), which gradients are asked of, and the margin in nats."""
    chosen = f64(-10.0).requires_grad_()
    return chosen, (chosen - f64(-11.0)) - (f64(-12.0) - f64(-11.5))


def test_dpo_reference_case_value_and_gradient() -> None:
    chosen, margin = the_margin()
    loss = direct_losses.dpo_loss(margin, 0.1)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), f64(0.6209570478), **EXACT)
    torch.testing.assert_close(chosen.grad, f64(-0.0462570155), **EXACT)


def test_conservative_robust_hinge_and_ipo_reference_cases() -> None:
    _, margin = the_margin()
    margin = margin.detach()
    torch.testing.assert_close(direct_losses.dpo_loss(margin, 0.1, 0.1), f64(0.6359570478), **EXACT)
    torch.testing.assert_close(direct_losses.robust_dpo_loss(margin, 0.1, 0.1), f64(0.6022070478), **EXACT)
    torch.testing.assert_close(direct_losses.hinge_loss(margin, 0.1), f64(0.85), **EXACT)
    torch.testing.assert_close(direct_losses.ipo_loss(margin, 0.1), f64(12.25), **EXACT)
    per_token = f64((-10.0 + 11.0) / 8 - (-12.0 + 11.5) / 5)
    torch.testing.assert_close(direct_losses.ipo_loss(per_token, 0.1), f64(22.800625), **EXACT)


def test_kto_reference_cases() -> None:
    loss = direct_losses.kto_loss(f64(1.0, -0.5), torch.tensor([True, False]), kl=0.2, beta=0.1)
    torch.testing.assert_close(loss, f64(0.4800106598, 0.4825071423), **EXACT)


def test_at_the_start_dpo_costs_ln_2_and_kto_one_half_whatever_beta() -> None:
    for beta in (0.01, 0.1, 1.0):
        assert direct_losses.dpo_loss(f64(0.0), beta).item() == pytest.approx(math.log(2), abs=1e-15)
        for desirable in (True, False):
            loss = direct_losses.kto_loss(f64(0.0), torch.tensor([desirable]), kl=0.0, beta=beta)
            assert loss.item() == 0.5


def test_conservative_dpo_is_least_where_the_policy_implies_the_rate_of_right_labels() -> None:
    margin = f64(math.log(0.9 / 0.1) / 0.1).requires_grad_()
    direct_losses.dpo_loss(margin, 0.1, 0.1).sum().backward()
    torch.testing.assert_close(margin.grad, f64(0.0), **EXACT)


def test_robust_dpo_is_in_expectation_the_loss_of_labels_that_nobody_flipped() -> None:
    margins, flip_rate = torch.linspace(-30, 30, 13, dtype=torch.float64), 0.3
    seen = (1 - flip_rate) * direct_losses.robust_dpo_loss(margins, 0.1, flip_rate)
    seen = seen + flip_rate * direct_losses.robust_dpo_loss(-margins, 0.1, flip_rate)
    torch.testing.assert_close(seen, direct_losses.dpo_loss(margins, 0.1), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_loss_and_its_gradient_are_finite_at_log_ratios_of_a_thousand(dtype: torch.dtype) -> None:
    for sign in (-1.0, 1.0):
        margins = torch.tensor([sign * 1000.0, sign * 2000.0], dtype=dtype, requires_grad=True)
        yes = torch.tensor([True, False])
        losses = [
            direct_losses.dpo_loss(margins, 1.0),
            direct_losses.dpo_loss(margins, 1.0, 0.1),
            direct_losses.robust_dpo_loss(margins, 1.0, 0.1),
            direct_losses.hinge_loss(margins, 1.0),
            direct_losses.ipo_loss(margins, 1.0),
            direct_losses.kto_loss(margins, yes, kl=0.0, beta=1.0),
            direct_losses.kto_loss(margins, yes, kl=1000.0, beta=1.0),
        ]
        (gradient,) = torch.autograd.grad(torch.cat(losses).sum(), margins)
        assert torch.isfinite(torch.cat(losses)).all() and torch.isfinite(gradient).all()
    assert direct_losses.dpo_loss(f64(-1000.0), 1.0).item() == 1000.0


def test_kto_raises_desirable_answers_lowers_undesirable_ones_and_weighs_the_classes() -> None:
    ratios, desirable = f64(0.3, 0.3).requires_grad_(), torch.tensor([True, False])
    weights = {"desirable_weight": 2.0, "undesirable_weight": 3.0}
    direct_losses.kto_loss(ratios, desirable, kl=0.0, beta=0.1, **weights).sum().backward()
    assert ratios.grad is not None
    up, down = ratios.grad.tolist()
    assert up < 0 < down and down / -up == pytest.approx(1.5, rel=1e-12)


def test_the_running_kl_weighs_answers_the_same_whatever_the_size_of_the_step() -> None:
    whole = direct_losses.running_kl(1.5, 0.7, 8, 32.0)
    split = 1.5
    for _ in range(8):
        split = direct_losses.running_kl(split, 0.7, 1, 32.0)
    assert whole == pytest.approx(split, abs=1e-14)
    assert direct_losses.running_kl(1.5, 0.7, 8, 1.0) == 0.7
    assert direct_losses.running_kl(1.5, 0.7, 0, 32.0) == 1.5


def implied(logits: torch.Tensor) -> torch.Tensor:
    """The log-ratio of every arm."""
    return torch.log_softmax(logits, 0) - f64(*REFERENCE).log()


def test_the_population_optimum_of_dpo_on_the_reference_bandit_is_the_optimal_policy() -> None:
    """Pairs of arms drawn from the reference, labels from Bradley-Terry; exact gradients of the real loss."""
    first, second = zip(*itertools.combinations(range(4), 2), strict=True)
    drawn = f64(*REFERENCE)[list(first)] * f64(*REFERENCE)[list(second)]
    better = torch.sigmoid(f64(*REWARD)[list(first)] - f64(*REWARD)[list(second)])
    logits = f64(*REFERENCE).log().requires_grad_()
    solver = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        margins = implied(logits)[list(first)] - implied(logits)[list(second)]
        kept, flipped = direct_losses.dpo_loss(margins, BETA), direct_losses.dpo_loss(-margins, BETA)
        total = (drawn * (better * kept + (1 - better) * flipped)).sum()
        total.backward()
        return total

    solver.step(loss)
    torch.testing.assert_close(torch.softmax(logits.detach(), 0), f64(*OPTIMUM), rtol=0, atol=1e-6)


def test_the_population_of_kto_rests_elsewhere_and_ranks_by_what_the_reference_said_often() -> None:
    """Thumbs up with p = sigmoid(reward), z0 the exact KL without a gradient: liked by a majority stays, the rest goes,
    and the arm of reward 1 ends above that of reward 2."""
    up, given, yes = torch.sigmoid(f64(*REWARD)), f64(*REFERENCE), torch.ones(4, dtype=torch.bool)
    logits = given.log().requires_grad_()
    for _ in range(3000):
        ratios = implied(logits)
        kl = (torch.softmax(logits, 0) * ratios).sum().item()
        liked = direct_losses.kto_loss(ratios, yes, kl=kl, beta=BETA)
        disliked = direct_losses.kto_loss(ratios, ~yes, kl=kl, beta=BETA)
        (gradient,) = torch.autograd.grad((given * (up * liked + (1 - up) * disliked)).sum(), logits)
        logits = (logits.detach() - 10.0 * gradient).requires_grad_()
    rests = torch.softmax(logits.detach(), 0)
    torch.testing.assert_close(rests, f64(0.549, 0.0, 0.451, 0.0), rtol=0, atol=5e-4)  # printed with three digits
    assert rests[0] > rests[2] > rests[1] > rests[3] and OPTIMUM[0] < OPTIMUM[2]
