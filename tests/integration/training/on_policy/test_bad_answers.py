"""Answers that no method can learn from, drawn in every iteration of a run: counted by their reasons, never a NaN."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.integration.training import making
from tests.integration.training.on_policy.bench import METHODS, Bench

from trimtab.trainer.data import datasets
from trimtab.trainer.methods import rollouts

torch.set_num_threads(1)
LONG = "red " * 200
# A token whose embedding in the reward model is no number.
SNOWMAN = "\u2603"


@dataclasses.dataclass(frozen=True, slots=True)
class Spoiling:
    """Draws six answers of each iteration that cannot be learned from."""

    inner: rollouts.Sampler

    def draw(
        self, prompts: Sequence[rollouts.EncodedPrompt], samples: int, max_tokens: int, *, iteration: int, seed: int
    ) -> list[rollouts.Drawn]:
        drawn = self.inner.draw(prompts, samples, max_tokens, iteration=iteration, seed=seed)
        first = drawn[0]
        spoilt: list[dict[str, Any]] = [
            {"token_ids": (), "logprobs": (), "text": ""},
            {"logprobs": (*first.logprobs[1:], math.nan)},
            {"logprobs": first.logprobs[1:]},
            {"text": f"It is {SNOWMAN}."},
            {"text": LONG},
            {"refused": "no answer from the policy process"},
        ]
        return [*(dataclasses.replace(first, **changes) for changes in spoilt), *drawn[len(spoilt) :]]


@pytest.mark.parametrize("name", METHODS)
def test_answers_that_cannot_be_learned_from_are_counted_and_spoil_no_weight(name: str, bench: Bench) -> None:
    token = bench.reward.tokenizer.encode(SNOWMAN, add_special_tokens=False)[-1]
    with torch.no_grad():
        bench.reward.model.get_input_embeddings().weight[token] = math.nan
    rows = making.feedback().examples
    rows.append(dataclasses.replace(rows[0], id="long", split="train", prompt=making.prompt(LONG)))
    settings = dataclasses.replace(METHODS[name], iterations=2)
    figures = bench.train(settings, datasets.Dataset(rows), sampler=Spoiling(rollouts.InProcess(bench.policy)))
    left_out = {name: value for name, value in figures.items() if name.startswith(("skipped: ", "dropped: "))}
    assert left_out == {
        "skipped: prompt too long": 1.0,
        **{
            f"dropped: {reason}": 2.0
            for reason in (
                "empty response",
                "log-probability that is no number",
                "response without the log-probability of each token",
                "unscored, no number",
                "unscored, too long",
                "no answer from the policy process",
            )
        },
    }
    assert figures["unscored"] == 4.0 and figures["steps_skipped"] == 0.0
    assert all(map(math.isfinite, figures.values()))
    assert all(torch.isfinite(weight).all() for weight in bench.policy.model.parameters())
