"""Rules: what was gained is little, or not what was meant."""

from trimtab.trainer.judging.symptoms import distance, evidence

_TIGHT_NATS, _MEDIOCRE_WIN_RATE = 0.5, 0.6


def kl_too_tight(of: evidence.Evidence) -> evidence.Finding | None:
    """The policy stays at the reference and is hardly better for it."""
    drift, beta = of.last("kl_nats"), of.settings.get("beta", 0.0)
    moved = of.series("approximate_kl")
    if drift is None or not beta or drift > _TIGHT_NATS or (moved and max(map(abs, moved)) < evidence.MOVED_KL):
        return None
    win_rate = of.figures.get("win_rate")
    if win_rate is not None:
        mediocre, said = win_rate <= _MEDIOCRE_WIN_RATE, f"the win rate is {win_rate:.3f}"
    elif (score := evidence.trend(of.series("score"))) is not None:
        mediocre = score.change <= 0 or score.sigmas <= evidence.SIGMAS
        said = f"the score moved by {score.change:+.3f}"
    else:
        return None
    if not mediocre:
        return None
    return evidence.Finding(
        "KL too tight",
        f"The KL to the reference is {drift:.3f} nats an answer at the end, and {said}; beta was {beta:g}.",
        "The price of leaving the reference is above what the reward offers, so the policy stays where it was.",
        f"Lower {evidence.setting(of, 'beta')} by a factor of three to ten"
        + (", or give `kl_target` a few nats." if "kl_target" in of.settings else "."),
    )


_GAP, _NO_WIN = 0.15, 0.55
_UNSEEN = ("not proven", "rolled back")


def over_optimisation(of: evidence.Evidence) -> evidence.Finding | None:
    """The reward that trains goes up, and who did not train it is not convinced."""
    trained, judged = of.figures.get("training_win_rate"), of.figures.get("win_rate")
    at_most = of.figures.get("win_rate_high", 1.0)
    score = evidence.trend(of.series("score"))
    rose = score is not None and score.change > 0 and score.sigmas > evidence.SIGMAS
    said = f"The training reward rose from {score.first:.3f} to {score.last:.3f}" if score is not None else ""
    if judged is None:
        return None
    if trained is not None and trained - judged > _GAP and at_most < trained:
        seen = (
            f"The reward model that trained it prefers it on {trained:.0%} of held-out prompts, the evaluation reward "
            f"model on {judged:.0%} (at most {at_most:.0%})."
        )
        others = "an independent reward model does not"
    elif rose and at_most < _NO_WIN:
        seen = f"{said}; the win rate by the evaluation reward model is {judged:.3f} (at most {at_most:.3f})."
        others = "an independent reward model does not"
    elif rose and of.verdict in _UNSEEN and judged > _MEDIOCRE_WIN_RATE:
        seen = f"{said} and the win rate is {judged:.3f}, but its release ended as {of.verdict}."
        others = "people do not"
    else:
        return None
    return evidence.Finding(
        "over-optimisation",
        seen + distance.said(of),
        f"What was gained is a weakness of the reward model, which {others} share.",
        f"Raise {evidence.setting(of, 'beta')} or take fewer {evidence.setting(of, 'iterations')}; best, train the "
        "reward model on feedback about this policy's answers.",
    )


_LONGER, _LENGTH_EXPLAINS = 1.4, 0.7


def length_gaming(of: evidence.Evidence) -> evidence.Finding | None:
    """Answers grow, and their length is what the judge rewards."""
    figures, told = of.figures, evidence.trend(of.series("response_tokens"))
    ours, theirs = figures.get("response_tokens"), figures.get("reference_response_tokens")
    growth = ours / theirs if ours and theirs else (told.last / told.first if told and told.first else 0.0)
    if growth < _LONGER:
        return None
    slope, at_equal = figures.get("reward_length_slope"), figures.get("gain_at_equal_length")
    gain = figures.get("evaluation_reward", 0.0) - figures.get("reference_evaluation_reward", 0.0)
    if slope is not None and at_equal is not None:
        if not (slope > 0 and gain > 0 and at_equal < (1 - _LENGTH_EXPLAINS) * gain):
            return None
        seen = f"Answers are {growth:.2f} times as long as the reference's; of {gain:.3f} evaluation reward gained, "
        seen += f"{at_equal:.3f} remain at equal length."
    else:
        score = evidence.trend(of.series("score"))
        if score is None or score.change <= 0 or score.sigmas < evidence.SIGMAS:
            return None
        seen = f"Answers grew to {growth:.2f} times their length while the training reward rose by {score.change:.3f}."
    return evidence.Finding(
        "length gaming",
        seen,
        "The reward model takes length for quality, and the policy has found out.",
        "Collect comparisons of short with long answers and train the reward model anew; until then lower "
        f"{evidence.setting(of, 'max_tokens')} or the line's gate `length_ratio`.",
    )


_FORMAT_GROWTH = 0.2


def format_gaming(of: evidence.Evidence) -> evidence.Finding | None:
    """Lists, headings and emphasis that the reference does not use."""
    figures = of.figures
    for name, where in (("formatted", "held-out prompts"), ("format_gaming", "plain probe questions")):
        ours, theirs = figures.get(name), figures.get(f"reference_{name}")
        if ours is not None and theirs is not None and ours - theirs > _FORMAT_GROWTH:
            return evidence.Finding(
                "format gaming",
                f"{ours:.0%} of its answers to {where} are laid out or emphasised, {theirs:.0%} of the reference's.",
                "The reward model takes form for substance.",
                "Collect comparisons of the same content plain and laid out; tighten the gate `format_gaming`.",
            )
    return None
