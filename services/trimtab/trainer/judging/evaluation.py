"""Measures a candidate policy against its reference on held-out prompts. Called by `trainer.job`, judged by
`trainer.judging.gates`.

Both answer every prompt once, each sampled as it would be served. The judge is the evaluation reward model, which never
trained what it judges. The KL is measured on answers drawn from the candidate itself (temperature 1, untruncated): the
sum of log p_candidate - log p_reference over an answer's tokens is an unbiased estimate, in nats per answer.
"""

import dataclasses
import math
import statistics as means
from collections.abc import Sequence

import torch

from trimtab.core import scoring, statistics, text
from trimtab.modeling import decoder, loading, logprobs, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import encoding
from trimtab.trainer.methods import rollouts

# An answer repeats itself when fewer than this share of its runs of three words are different ones.
_DISTINCT = 0.7


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """Means over one policy's answers: tokens, share that repeats itself, evaluation reward of the judged ones."""

    tokens: float
    repetition: float
    reward: float


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """wins: per judged prompt 1, 0.5 (tie) or 0; kl_nats: per answer; unscored: prompts without a verdict."""

    wins: tuple[float, ...]
    kl_nats: tuple[float, ...]
    unscored: int
    candidate: Answers
    reference: Answers

    def figures(self) -> dict[str, float]:
        """Everything, by name; NaN never: what was not measured is left out."""
        figures = {
            "prompts_judged": float(len(self.wins)),
            "prompts_unscored": float(self.unscored),
            "response_tokens": self.candidate.tokens,
            "reference_response_tokens": self.reference.tokens,
            "repetition": self.candidate.repetition,
            "evaluation_reward": self.candidate.reward,
            "reference_evaluation_reward": self.reference.reward,
        }
        if self.wins:
            figures["win_rate"], figures["win_rate_low"], figures["win_rate_high"] = interval(self.wins)
        if self.kl_nats:
            figures["kl_nats"], figures["kl_nats_low"], figures["kl_nats_high"] = interval(self.kl_nats)
        return {name: value for name, value in figures.items() if math.isfinite(value)}


def measure(
    candidate: loading.LoadedPolicy,
    reference: loading.LoadedPolicy,
    judge: rewards.LoadedReward,
    prompts: Sequence[rollouts.Prompt],
    settings: recipes.PolicySettings,
    *,
    seed: int,
) -> Measured:
    """Answers of both to (some of) these prompts, judged."""
    skipped = encoding.Skipped()
    pool = rollouts.encode_prompts(candidate, prompts, skipped)
    chosen = rollouts.choose(pool, min(settings.evaluation_prompts, len(pool)), encoding.seed_of(seed, "prompts"))
    asked = [prompt.messages for prompt in chosen]
    ours = _answer(candidate, asked, settings, encoding.seed_of(seed, "candidate"))
    theirs = _answer(reference, asked, settings, encoding.seed_of(seed, "reference"))
    our_scores, their_scores = _scores(judge, asked, ours), _scores(judge, asked, theirs)
    both = [
        (mine, other)
        for mine, other in zip(our_scores, their_scores, strict=True)
        if isinstance(mine, float) and isinstance(other, float)
    ]
    return Measured(
        wins=tuple(0.5 * (1 + (mine > other) - (mine < other)) for mine, other in both),
        kl_nats=_kl_nats(candidate, reference, chosen, settings, encoding.seed_of(seed, "kl")),
        unscored=len(asked) - len(both),
        candidate=_summary(ours, [mine for mine, _ in both]),
        reference=_summary(theirs, [other for _, other in both]),
    )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval; of a single value the whole line."""
    if len(values) < 2:
        return values[0], -math.inf, math.inf
    return statistics.mean_interval(list(values))


def repeats_itself(answer: str) -> bool:
    """Whether the answer says the same again and again. Fewer than eight words cannot."""
    words = answer.lower().split()
    if len(words) < 8:
        return False
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(runs)) < _DISTINCT * len(runs)


def _answer(
    policy: loading.LoadedPolicy, asked: Sequence[rollouts.Prompt], settings: recipes.PolicySettings, seed: int
) -> list[decoder.Decoded]:
    """One answer to each prompt, sampled as the policy's profile says it is served."""
    profile = policy.profile
    skipped = encoding.Skipped()
    requests = [
        decoder.DecodeRequest(
            prompt.tokens,
            min(profile.max_tokens, settings.evaluation_max_tokens),
            temperature=profile.temperature,
            top_p=profile.top_p,
            top_k=profile.top_k,
            stop=profile.stop,
            seed=encoding.seed_of(seed, number),
        )
        for number, prompt in enumerate(rollouts.encode_prompts(policy, asked, skipped))
    ]
    return decoder.decode_all(policy.model, policy.tokenizer, requests)


def _scores(
    judge: rewards.LoadedReward, asked: Sequence[rollouts.Prompt], decoded: Sequence[decoder.Decoded]
) -> list[float | str]:
    items = [
        scoring.ScoreItem(messages, text.Text(answer.text)) for messages, answer in zip(asked, decoded, strict=True)
    ]
    return [score.outcome for score in judge.score(items)]


@torch.no_grad()
def _kl_nats(
    candidate: loading.LoadedPolicy,
    reference: loading.LoadedPolicy,
    prompts: Sequence[rollouts.EncodedPrompt],
    settings: recipes.PolicySettings,
    seed: int,
) -> tuple[float, ...]:
    limit = min(candidate.profile.max_tokens, settings.evaluation_max_tokens)
    drawn = rollouts.sample(candidate, prompts, 1, limit, seed)
    tokens, responses = [prompt.tokens for prompt in prompts], [one.token_ids for one in drawn]
    rows = logprobs.response_logprobs(reference.model, tokens, responses)
    return tuple(math.fsum(one.logprobs_raw) - row.double().sum().item() for one, row in zip(drawn, rows, strict=True))


def _summary(decoded: Sequence[decoder.Decoded], scores: Sequence[float]) -> Answers:
    return Answers(
        tokens=_mean([len(answer.token_ids) for answer in decoded]),
        repetition=_mean([repeats_itself(answer.text) for answer in decoded]),
        reward=_mean(scores),
    )


def _mean(values: Sequence[float]) -> float:
    return means.fmean(values) if values else math.nan
