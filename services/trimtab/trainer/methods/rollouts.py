"""Answers of the policy in training, with their scores: what on-policy methods learn from. Called by
`trainer.methods.on_policy`; `trainer.judging.evaluation` asks policies through the same functions.

Drawn in process (`InProcess`) at temperature 1 from the whole distribution, so that the log-probabilities the sampler
reports are those of the policy itself and need not be computed again. Every answer has a generator of its own, seeded
by (run seed, iteration, prompt, sample): what is drawn depends on nothing else. `trainer.methods.remote_rollouts`
asks a policy process instead. An answer without a score is dropped and counted; no reward is invented for it.
"""

import collections
import dataclasses
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from trimtab.core import completions, scoring, text
from trimtab.modeling import decoder, loading
from trimtab.trainer.data import encoding

Prompt = tuple[text.Message, ...]
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedPrompt:
    messages: Prompt
    tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """An answer as its sampler gives it; refused: why it cannot be used, if so.

    token_ids: with the end-of-sequence token if it was generated (`ended`). logprobs: of each of them, under the
    weights that drew them. staleness: iterations that those weights are behind the ones in training; None: the weights
    are the ones in training, to the last bit. digest: of the bytes of those weights, where another process drew.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool
    staleness: int | None = None
    digest: str = ""
    refused: str = ""


class Sampler(Protocol):
    """Where answers come from."""

    def draw(
        self, prompts: Sequence[EncodedPrompt], samples: int, max_tokens: int, *, iteration: int, seed: int
    ) -> list[Drawn]:
        """`samples` answers to each prompt, those of one prompt next to each other."""


class Scorer(Protocol):
    """Who says how good answers are: a reward model in this process, or `trainer.methods.remote_scores`."""

    def score(self, items: Sequence[scoring.ScoreItem]) -> list[scoring.Score]:
        """A finite score for every item, or why there is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class InProcess:
    """Draws from the weights in training themselves."""

    policy: loading.LoadedPolicy

    def draw(
        self, prompts: Sequence[EncodedPrompt], samples: int, max_tokens: int, *, iteration: int, seed: int
    ) -> list[Drawn]:
        return [
            Drawn(one.text, one.token_ids, one.logprobs_raw, one.finish_reason is completions.FinishReason.STOP)
            for one in sample(self.policy, prompts, samples, max_tokens, seed)
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class Rollout:
    """A scored answer. group: the place of its prompt in the iteration; the rest as in `Drawn`."""

    prompt: EncodedPrompt
    response: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    ended: bool
    group: int = 0
    staleness: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Rollouts:
    """The usable answers of an iteration; dropped: how many others there were, by reason. unscored: of those, the ones
    that the reward model gave no number for.
    """

    kept: tuple[Rollout, ...]
    dropped: Mapping[str, int]
    unscored: int = 0

    def figures(self) -> dict[str, float]:
        """Means over the answers. Entropy is estimated from the tokens drawn, in nats per token."""
        tokens = [value for one in self.kept for value in one.logprobs]
        scores = [one.score for one in self.kept]
        return {
            "score": statistics.fmean(scores),
            "score_deviation": statistics.pstdev(scores),
            "response_tokens": statistics.fmean(len(one.response) for one in self.kept),
            "missing_eos_share": statistics.fmean(not one.ended for one in self.kept),
            "entropy_nats_per_token": -statistics.fmean(tokens),
            "staleness": statistics.fmean(one.staleness or 0 for one in self.kept),
            "unscored": float(self.unscored),
            "dropped": float(sum(self.dropped.values())),
        }


def encode_prompts(
    policy: loading.LoadedPolicy, prompts: Sequence[Prompt], skipped: encoding.Skipped
) -> list[EncodedPrompt]:
    """The prompts that leave room for an answer."""
    encoder = encoding.encoder_of(policy)
    kept = []
    for messages in prompts:
        answer = encoder.encode(messages, "")  # the end-of-sequence token alone: the shortest answer
        if isinstance(answer, str):
            skipped.count(f"prompt {answer}")
        else:
            kept.append(EncodedPrompt(messages, answer.prompt))
    return kept


def choose(pool: Sequence[_Item], count: int, seed: int) -> list[_Item]:
    """Different ones while the pool lasts, then the same again."""
    chosen: list[_Item] = []
    rng = random.Random(seed)
    while len(chosen) < count:
        chosen += rng.sample(pool, min(len(pool), count - len(chosen)))
    return chosen


def sample(
    policy: loading.LoadedPolicy, prompts: Sequence[EncodedPrompt], samples: int, max_tokens: int, seed: int
) -> list[decoder.Decoded]:
    """`samples` answers to each prompt, those of one prompt next to each other."""
    requests = [
        decoder.DecodeRequest(prompt.tokens, max_tokens, seed=encoding.seed_of(seed, number, k))
        for number, prompt in enumerate(prompts)
        for k in range(samples)
    ]
    return decoder.decode_all(policy.model, policy.tokenizer, requests)


def scored(drawn: Sequence[Drawn], prompts: Sequence[EncodedPrompt], samples: int, scorer: Scorer) -> Rollouts:
    """The answers of a draw that can be learned from, with their scores; the others by reason."""
    dropped: collections.Counter[str] = collections.Counter()
    usable: list[tuple[int, Drawn]] = []
    for place, one in enumerate(drawn):
        if reason := _unusable(one):
            dropped[reason] += 1
        else:
            usable.append((place // samples, one))
    items = [scoring.ScoreItem(prompts[group].messages, text.Text(one.text)) for group, one in usable]
    kept = []
    unscored = 0
    for (group, one), score in zip(usable, scorer.score(items), strict=True):
        if isinstance(score.outcome, float):
            kept.append(
                Rollout(prompts[group], one.token_ids, one.logprobs, score.outcome, one.ended, group, one.staleness)
            )
        else:
            dropped[f"unscored, {score.outcome.partition(':')[0]}"] += 1
            unscored += 1
    return Rollouts(tuple(kept), dict(dropped), unscored)


def _unusable(one: Drawn) -> str:
    if one.refused:
        return one.refused
    if not one.token_ids:
        return "empty response"
    if len(one.logprobs) != len(one.token_ids):
        return "response without the log-probability of each token"
    if not all(math.isfinite(value) for value in one.logprobs):
        return "log-probability that is no number"
    return ""
