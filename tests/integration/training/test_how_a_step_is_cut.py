"""What a step of any method gives does not depend on how it is cut into micro-batches, ordered, padded or packed; nor
is it ever no number."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.integration.training import making, stepping

from trimtab.modeling import loading, logprobs, packing
from trimtab.trainer.data import encoding
from trimtab.trainer.methods import sft
from trimtab.trainer.steps import losses

torch.set_num_threads(1)
every_method = pytest.mark.parametrize("name", stepping.METHODS)
Hidden = tuple[torch.Tensor, torch.Tensor]
WHOLE = stepping.Cut()
CUTS = {
    "row by row": stepping.Cut(positions=1),
    "in parts": stepping.Cut(positions=150),
    "in another order": stepping.Cut(in_order=False),
    "in parts of another order": stepping.Cut(positions=150, in_order=False),
}


def padded_on_the(side: str) -> Callable[[Any, Sequence[Sequence[int]]], Hidden]:
    """`packing.hidden_states` by the model's own forward pass; the pad is the token that ends answers."""

    def hidden_states(backbone: Any, rows: Sequence[Sequence[int]]) -> Hidden:
        width = max(map(len, rows))
        before = [width - len(row) if side == "left" else 0 for row in rows]
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
        for number, (row, gap) in enumerate(zip(rows, before, strict=True)):
            ids[number, gap : gap + len(row)] = torch.tensor(row)
            mask[number, gap : gap + len(row)] = 1
        places = (mask.cumsum(1) - 1).clamp(min=0)
        states = backbone(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).last_hidden_state
        index = torch.arange(width).unsqueeze(0) + torch.tensor(before).unsqueeze(1)
        return states.flatten(0, 1), index.clamp(max=width - 1) + width * torch.arange(len(rows)).unsqueeze(1)

    return hidden_states


def each_alone(backbone: Any, rows: Sequence[Sequence[int]]) -> Hidden:
    """Each row in a forward pass of its own: there is nothing to pad and nobody to meet."""
    states = [backbone(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0] for row in rows]
    return torch.cat(states), end_to_end(rows)


def under_one_mask(backbone: Any, rows: Sequence[Sequence[int]]) -> Hidden:
    """A fault: rows laid end to end, and each sees those before it."""
    tokens = [token for row in rows for token in row]
    return backbone(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0], end_to_end(rows)


def end_to_end(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    begins = torch.tensor([0, *itertools.accumulate(map(len, rows))][:-1])
    index = begins.unsqueeze(1) + torch.arange(max(map(len, rows)))
    return index.clamp(max=sum(map(len, rows)) - 1)


LAYOUTS = {
    "padded on the left": padded_on_the("left"),
    "padded on the right": padded_on_the("right"),
    "each row alone": each_alone,
}


class Sharing(packing.Layout):
    """What rows begin with in common is there once, in fp64 too. spared: so many tokens were not read again."""

    spared = 0

    def __init__(self, rows: Sequence[Sequence[int]], device: torch.device, **options: Any) -> None:
        super().__init__(rows, device, **(options | {"share": True}))
        type(self).spared += sum(map(len, rows)) - len(self.ids_N)


def every_way(step: stepping.Step, monkeypatch: pytest.MonkeyPatch) -> dict[str, stepping.Outcome]:
    found = {name: step(cut) for name, cut in CUTS.items()}
    for name, hidden_states in LAYOUTS.items():
        with monkeypatch.context() as laid:
            laid.setattr(packing, "hidden_states", hidden_states)
            found[name] = step(WHOLE)
    with monkeypatch.context() as laid:
        laid.setattr(packing, "Layout", Sharing)
        found["beginnings shared"] = step(WHOLE)
    return found


@every_method
def test_in_fp64_loss_and_gradient_are_the_same_to_ten_digits(
    name: str, policy: loading.LoadedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norms are exact, too: where fp32 is rounded to, sums of gradients are not the gradients of sums."""
    stepping.exact(policy.model)
    step = stepping.METHODS[name](policy, 0.0)
    whole = step(WHOLE)
    assert packing.packs(policy.model.base_model, 96) and whole.gradient.abs().max() > 1e-4
    before = Sharing.spared
    for way, found in every_way(step, monkeypatch).items():
        assert found.loss == pytest.approx(whole.loss, rel=0, abs=1e-10), way
        torch.testing.assert_close(found.gradient, whole.gradient, rtol=0, atol=1e-10, msg=way)
    assert Sharing.spared > before or name == "pretrain"


@every_method
def test_in_fp32_loss_and_gradient_are_the_same_to_a_ten_thousandth(
    name: str, policy: loading.LoadedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = stepping.METHODS[name](policy, 0.0)
    whole = step(WHOLE)
    for way, found in every_way(step, monkeypatch).items():
        assert found.loss == pytest.approx(whole.loss, rel=1e-4, abs=2e-5), way
        assert (found.gradient - whole.gradient).norm() <= 1e-4 * whole.gradient.norm(), way


def test_in_fp32_a_token_s_log_probability_is_the_same_to_two_hundred_thousandths(
    policy: loading.LoadedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = sft.prepare(policy, making.demonstrations(24).examples, encoding.Skipped())
    prompts, said = [one.answer.prompt for one in shown], [one.answer.response for one in shown]
    with torch.no_grad():
        together = logprobs.flat_logprobs(policy.model, prompts, said)
        for hidden_states in LAYOUTS.values():
            monkeypatch.setattr(packing, "hidden_states", hidden_states)
            other = logprobs.flat_logprobs(policy.model, prompts, said)
            torch.testing.assert_close(other, together, rtol=0, atol=2e-5)


def test_a_mean_of_the_parts_means_is_told_apart(policy: loading.LoadedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every micro-batch divides by its own tokens."""
    stepping.exact(policy.model)
    step = stepping.METHODS["pretrain"](policy, 0.0)
    whole = step(WHOLE).loss
    monkeypatch.setattr(losses, "token_mean", lambda terms_N, total: terms_N.mean())
    assert step(WHOLE).loss == pytest.approx(whole, abs=1e-10) and abs(step(CUTS["in parts"]).loss - whole) > 1e-3


def test_rows_that_see_each_other_are_told_apart(policy: loading.LoadedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    stepping.exact(policy.model)
    step = stepping.METHODS["sft"](policy, 0.0)
    whole = step(WHOLE).loss
    monkeypatch.setattr(packing, "hidden_states", under_one_mask)
    assert abs(step(WHOLE).loss - whole) > 1e-3


# Of each method what is a log-ratio, or a difference of rewards, is a thousand nats, in both directions.
@pytest.mark.parametrize("far", [1000.0, -1000.0])
@every_method
def test_loss_and_gradient_are_finite_at_log_ratios_of_a_thousand(
    name: str, far: float, policy: loading.LoadedPolicy
) -> None:
    if name in ("sft", "pretrain"):
        with torch.no_grad():  # an answer that has next to no probability
            policy.model.get_output_embeddings().weight.mul_(far)
    found = stepping.METHODS[name](policy, far)(WHOLE)
    assert math.isfinite(found.loss) and torch.isfinite(found.gradient).all()
