"""Answers of the policy in training, with their scores: what on-policy methods learn from. Called by
`trainer.methods.ppo`.

Drawn in process at temperature 1 from the whole distribution, so that the log-probabilities the sampler reports are
those of the policy itself and need not be computed again. Every answer has a generator of its own, seeded by (run seed,
iteration, prompt, sample): what is drawn depends on nothing else. An answer without a score is dropped and counted; no
reward is invented for it.
"""

import dataclasses
import random
import statistics
from collections.abc import Sequence
from typing import TypeVar

from trimtab.core import completions, scoring, text
from trimtab.modeling import decoder, loading, rewards
from trimtab.trainer.data import encoding

Prompt = tuple[text.Message, ...]
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedPrompt:
    messages: Prompt
    tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Rollout:
    """response: with the end-of-sequence token if it was generated (`ended`); logprobs: of each response token."""

    prompt: EncodedPrompt
    response: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    ended: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Rollouts:
    """The scored answers of an iteration; unscored: how many others there were."""

    kept: tuple[Rollout, ...]
    unscored: int

    def figures(self) -> dict[str, float]:
        """Means over the answers. Entropy is estimated from the tokens drawn, in nats per token."""
        tokens = [value for one in self.kept for value in one.logprobs]
        return {
            "score": statistics.fmean(one.score for one in self.kept),
            "response_tokens": statistics.fmean(len(one.response) for one in self.kept),
            "missing_eos_share": statistics.fmean(not one.ended for one in self.kept),
            "entropy_nats_per_token": -statistics.fmean(tokens),
            "unscored": float(self.unscored),
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


def collect(
    policy: loading.LoadedPolicy,
    reward: rewards.LoadedReward,
    prompts: Sequence[EncodedPrompt],
    *,
    samples: int,
    max_tokens: int,
    seed: int,
) -> Rollouts:
    """Answers to the prompts, scored."""
    decoded = sample(policy, prompts, samples, max_tokens, seed)
    asked = [prompt for prompt in prompts for _ in range(samples)]
    items = [scoring.ScoreItem(p.messages, text.Text(d.text)) for p, d in zip(asked, decoded, strict=True)]
    kept = [
        Rollout(
            prompt=prompt,
            response=answer.token_ids,
            logprobs=answer.logprobs_raw,
            score=score.outcome,
            ended=answer.finish_reason is completions.FinishReason.STOP,
        )
        for prompt, answer, score in zip(asked, decoded, reward.score(items), strict=True)
        if isinstance(score.outcome, float)
    ]
    return Rollouts(tuple(kept), unscored=len(asked) - len(kept))
