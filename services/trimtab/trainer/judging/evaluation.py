"""Measures a candidate policy against its reference, and against the policy it came from, on fixed held-out prompts.
Called by `trainer.building`, judged by `trainer.judging.gates`.

Each answers every prompt once, sampled as it would be served. The judge is the evaluation reward model, which never
trained what it judges. The KL is measured on answers drawn from the candidate itself, at temperature 1 and untruncated
(where it is served so, on those same answers): the sum of log p_candidate - log p_reference over an answer's tokens is
an unbiased estimate, in nats per answer.
"""

import dataclasses
import math
import statistics as means
from collections.abc import Sequence

import torch

from trimtab.core import scoring, statistics, text, wording
from trimtab.modeling import decoder, loading, logprobs, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import encoding
from trimtab.trainer.judging import answering, lengths, sets


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """Means over one policy's answers: tokens, share that repeats itself, evaluation reward of the judged ones, share
    that is laid out or emphasised.

    disagreement: standard deviation of the judge's heads, units of reward; NaN where it has one head.
    """

    tokens: float
    repetition: float
    reward: float
    formatted: float = 0.0
    disagreement: float = math.nan


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Two policies' answers to one prompt. gain: evaluation reward of the candidate's minus the other's.

    log_length_ratio: log of the candidate's tokens over the other's.
    """

    gain: float
    log_length_ratio: float = 0.0

    @property
    def win(self) -> float:
        """1, 0.5 (tie) or 0."""
        return 0.5 * (1 + (self.gain > 0) - (self.gain < 0))


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """By judged prompt. parent_pairs: against the policy the candidate came from; None where that is the reference.

    kl_nats: per answer. unscored: prompts without a verdict. training_wins: as the wins, by the reward model that
    trained the candidate; agreement: whether the two models prefer the same answer. Both empty where none did.
    """

    pairs: tuple[Pair, ...]
    kl_nats: tuple[float, ...]
    unscored: int
    candidate: Answers
    reference: Answers
    parent_pairs: tuple[Pair, ...] | None = None
    training_wins: tuple[float, ...] = ()
    agreement: tuple[float, ...] = ()

    @property
    def wins(self) -> tuple[float, ...]:
        return tuple(pair.win for pair in self.pairs)

    @property
    def length_effect(self) -> lengths.LengthEffect | None:
        return lengths.effect([one.gain for one in self.pairs], [one.log_length_ratio for one in self.pairs])

    def figures(self) -> dict[str, float]:
        """Everything, by name; NaN never: what was not measured is left out."""
        figures = {
            "prompts_judged": float(len(self.pairs)),
            "prompts_unscored": float(self.unscored),
            "response_tokens": self.candidate.tokens,
            "reference_response_tokens": self.reference.tokens,
            "repetition": self.candidate.repetition,
            "formatted": self.candidate.formatted,
            "reference_formatted": self.reference.formatted,
            "disagreement": self.candidate.disagreement,
            "reference_disagreement": self.reference.disagreement,
            "evaluation_reward": self.candidate.reward,
            "reference_evaluation_reward": self.reference.reward,
        }
        shares: dict[str, Sequence[float]] = {
            "win_rate": self.wins,
            "kl_nats": self.kl_nats,
            "win_rate_over_parent": [pair.win for pair in self.parent_pairs or ()],
            "training_win_rate": self.training_wins,
            "reward_models_agree": self.agreement,
        }
        for name, values in shares.items():
            if values:
                figures[name], figures[f"{name}_low"], figures[f"{name}_high"] = interval(values)
        if (effect := self.length_effect) is not None:
            figures |= {
                "reward_length_slope": effect.slope,
                "reward_length_slope_low": effect.slope_low,
                "reward_length_slope_high": effect.slope_high,
                "gain_at_equal_length": effect.gain,
                "gain_at_equal_length_low": effect.gain_low,
                "gain_at_equal_length_high": effect.gain_high,
            }
        return {name: value for name, value in figures.items() if math.isfinite(value)}


@dataclasses.dataclass(frozen=True, slots=True)
class Judges:
    """evaluation: decides. training: the reward model that trained the candidate, whose opinion is a figure."""

    evaluation: rewards.LoadedReward
    training: rewards.LoadedReward | None = None


def measure(
    candidate: loading.LoadedPolicy,
    reference: loading.LoadedPolicy,
    judges: Judges,
    prompts: Sequence[answering.Prompt],
    settings: recipes.PolicySettings,
    *,
    parent: loading.LoadedPolicy | None = None,
) -> Measured:
    """Answers of all to the first of these prompts, judged. parent: None where it is the reference."""
    policies = [candidate, reference, *([parent] if parent else [])]
    asked = answering.fixed(answering.fitting(policies, prompts), settings.evaluation_prompts)
    limit = settings.evaluation_max_tokens
    turns = ("candidate", "reference", "parent")
    said = [answering.as_served(policy, asked, limit, turn) for policy, turn in zip(policies, turns, strict=False)]
    plain = answering.is_untruncated(candidate.profile)
    drawn = said[0] if plain else answering.untruncated(candidate, asked, limit, "candidate")
    scores = [_scores(judges.evaluation, asked, one) for one in said]
    pairs, by_parent = (_pairs(said[0], said[i], scores[0], scores[i]) if i < len(said) else None for i in (1, 2))
    judged = [number for number, pair in enumerate(pairs or ()) if pair is not None]
    opinion = _opinion(judges, asked, said, pairs or [])
    return Measured(
        pairs=tuple(pair for pair in pairs or () if pair is not None),
        kl_nats=_kl_nats(candidate, reference, asked, drawn),
        unscored=len(asked) - len(judged),
        candidate=_summary(said[0], [scores[0][i] for i in judged]),
        reference=_summary(said[1], [scores[1][i] for i in judged]),
        parent_pairs=None if by_parent is None else tuple(pair for pair in by_parent if pair is not None),
        training_wins=tuple(theirs for theirs, _ in opinion),
        agreement=tuple(0.5 * (1 + (2 * theirs - 1) * (2 * ours - 1)) for theirs, ours in opinion),
    )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval; of a single value the whole line."""
    if len(values) < 2:
        return values[0], -math.inf, math.inf
    return statistics.mean_interval(list(values))


@torch.no_grad()
def _kl_nats(
    candidate: loading.LoadedPolicy,
    reference: loading.LoadedPolicy,
    asked: Sequence[answering.Prompt],
    drawn: Sequence[decoder.Decoded],
) -> tuple[float, ...]:
    """Each prompt's estimate, of answers drawn untruncated. The reference is given the prompt as it would be served."""
    tokens, responses = answering.rendered(reference, asked), [one.token_ids for one in drawn]
    rows = logprobs.response_logprobs(reference.model, tokens, responses)
    return tuple(math.fsum(one.logprobs_raw) - row.double().sum().item() for one, row in zip(drawn, rows, strict=True))


def win_rate_on(
    candidate: loading.LoadedPolicy,
    reference: loading.LoadedPolicy,
    judge: rewards.LoadedReward,
    prompts: Sequence[answering.Prompt],
    limit: int,
) -> tuple[float, ...]:
    """The wins of the candidate over the reference on prompts of one's own; those without a verdict are left out."""
    asked = answering.fitting((candidate, reference), prompts)
    ours = answering.as_served(candidate, asked, limit, "candidate")
    theirs = answering.as_served(reference, asked, limit, "reference")
    pairs = _pairs(ours, theirs, _scores(judge, asked, ours), _scores(judge, asked, theirs))
    return tuple(pair.win for pair in pairs if pair is not None)


@torch.no_grad()
def moved_towards(
    candidate: loading.LoadedPolicy, reference: loading.LoadedPolicy, preferences: Sequence[sets.Preference]
) -> tuple[float, ...]:
    """For each preference 1 if the candidate makes the chosen answer likelier against the rejected one than the
    reference does, 0.5 if neither, 0 if less likely; those that fit both only.

    The sign of log pi(c) / pi_ref(c) - log pi(r) / pi_ref(r), which for the optimum of KL-regularised reward is that of
    the reward's difference (Rafailov et al. 2023, arXiv:2305.18290, equation 5).
    """
    encoded = [
        [[encoder.encode(one.turns, answer) for answer in (one.chosen, one.rejected)] for one in preferences]
        for encoder in (encoding.encoder_of(candidate), encoding.encoder_of(reference))
    ]
    fit = [i for i in range(len(preferences)) if not any(isinstance(one, str) for both in encoded for one in both[i])]
    margins = []
    for policy, answers in zip((candidate, reference), encoded, strict=True):
        kept = [one for i in fit for one in answers[i] if not isinstance(one, str)]
        rows = logprobs.response_logprobs(policy.model, [one.prompt for one in kept], [one.response for one in kept])
        sums = [row.double().sum().item() for row in rows]
        margins.append([chosen - rejected for chosen, rejected in zip(sums[::2], sums[1::2], strict=True)])
    return tuple(Pair(ours - theirs).win for ours, theirs in zip(*margins, strict=True))


def _scores(
    judge: rewards.LoadedReward, asked: Sequence[answering.Prompt], decoded: Sequence[decoder.Decoded]
) -> list[scoring.Score]:
    items = [
        scoring.ScoreItem(messages, text.Text(answer.text)) for messages, answer in zip(asked, decoded, strict=True)
    ]
    return judge.score(items)


def _pairs(
    ours: Sequence[decoder.Decoded],
    theirs: Sequence[decoder.Decoded],
    our_scores: Sequence[scoring.Score],
    their_scores: Sequence[scoring.Score],
) -> list[Pair | None]:
    """By prompt; None where one of the two has no score."""
    return [
        Pair(mine.outcome - other.outcome, math.log(len(one.token_ids) / len(two.token_ids)))
        if isinstance(mine.outcome, float) and isinstance(other.outcome, float)
        else None
        for one, two, mine, other in zip(ours, theirs, our_scores, their_scores, strict=True)
    ]


def _opinion(
    judges: Judges,
    asked: Sequence[answering.Prompt],
    said: Sequence[Sequence[decoder.Decoded]],
    pairs: Sequence[Pair | None],
) -> list[tuple[float, float]]:
    """(win by the reward model that trained the candidate, win by the judge) of the prompts that both could score."""
    if judges.training is None:
        return []
    ours, theirs = (_scores(judges.training, asked, one) for one in said[:2])
    trained = _pairs(said[0], said[1], ours, theirs)
    return [(one.win, pair.win) for one, pair in zip(trained, pairs, strict=True) if one and pair]


def _summary(decoded: Sequence[decoder.Decoded], scores: Sequence[scoring.Score]) -> Answers:
    return Answers(
        tokens=_mean([len(answer.token_ids) for answer in decoded]),
        repetition=_mean([wording.repeats_itself(answer.text) for answer in decoded]),
        reward=_mean([score.outcome for score in scores if isinstance(score.outcome, float)]),
        formatted=_mean([wording.is_formatted(answer.text) for answer in decoded]),
        disagreement=_mean([score.uncertainty for score in scores if score.uncertainty is not None]),
    )


def _mean(values: Sequence[float]) -> float:
    return means.fmean(values) if values else math.nan
