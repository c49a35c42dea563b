"""Which releases the published models ask for, and by which of them their answers are scored. Pure.

Called by `rollout.controller` at every look with the models it knows; reading the same model again asks for nothing.
A model that its gates refused is recorded, with the figures, and gets no traffic.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterable

from trimtab.core import lines, models, releases
from trimtab.rollout import line

State = releases.ReleaseState
# The reward model that scores a release of a line made now; "" for none.
RewardOf = Callable[[line.Line], str]


def asked_for(
    serving: line.Line,
    published: Iterable[models.PublishedModel],
    config: lines.ReleaseConfig,
    at: datetime.datetime,
    reward_id: str = "",
) -> list[releases.Release]:
    """New records: one per policy published since the line's first was adopted and not seen yet, oldest first.

    Before that there is nothing to compare with: a model waits for an operator to adopt it. reward_id: the reward
    model that shall score their answers.
    """
    since = serving.adopted_at
    if since is None:
        return []
    new = [
        model
        for model in published
        if model.kind is models.ModelKind.POLICY
        and model.published_at > since
        and model.id not in (serving.stable_id, serving.anchor_id)
        and not serving.of_model(model.id)
    ]
    # One microsecond apart, so that the order in which they began is the order of publication.
    return [
        _recorded(serving, model, config, at + datetime.timedelta(microseconds=position), reward_id)
        for position, model in enumerate(sorted(new, key=lambda model: model.published_at))
    ]


def _recorded(
    serving: line.Line, model: models.PublishedModel, config: lines.ReleaseConfig, at: datetime.datetime, reward_id: str
) -> releases.Release:
    release = serving.new(model.id, config, at, reward_id=reward_id)
    if model.passed:
        return line.moved(release, State.PENDING, "Published with every gate passed.", at)
    return line.moved(release, State.FAILED, f"Refused at the gate: {refusal(model)}.", at)


def reward_for(serving: line.Line, published: Iterable[models.PublishedModel]) -> str:
    """The reward model that scores a release made now: the newest that passed and is not in quarantine; "" for none."""
    held = releases.held_rewards(release.quarantine for release in serving.by_id.values())
    usable = [
        model for model in published if model.kind is models.ModelKind.REWARD and model.passed and model.id not in held
    ]
    newest = max(usable, key=lambda model: (model.published_at, model.id), default=None)
    return newest.id if newest else ""


def rescored(release: releases.Release, serving: line.Line, newest: str) -> releases.Release:
    """Of a release whose turn has come. A reward model that went into quarantine while it waited scores nothing: the
    newest takes its place, and without one the reward guards nothing."""
    if release.reward_id not in releases.held_rewards(one.quarantine for one in serving.by_id.values()):
        return release
    terms = release.terms if newest or release.terms is None else lines.unscored(release.terms)
    return dataclasses.replace(release, reward_id=newest, terms=terms)


def no_reward(serving: line.Line) -> str:
    """Where there is nothing that scores."""
    return ""


def refusal(model: models.PublishedModel) -> str:
    """The gates that a model did not pass, in words."""
    words = [gate.in_words() for gate in model.gates if not gate.passed]
    return "; ".join(words) or "it was published as not passed, without figures"


def superseded(serving: line.Line, at: datetime.datetime) -> list[releases.Release]:
    """Waiting releases that have become pointless: a newer one waits (an adoption only gives way to another), or their
    candidate serves already."""
    ended = [
        line.moved(serving.beside(old), State.FAILED, "It is what the line serves by now.", at)
        for old in serving.waiting
        if old.candidate_id == serving.stable_id and not line.is_adoption(old)
    ]
    for adoption in (True, False):
        queue = [release for release in serving.waiting if line.is_adoption(release) is adoption]
        ended += [
            line.moved(serving.beside(old), State.FAILED, f"Superseded by {queue[0].candidate_id}.", at)
            for old in queue[1:]
        ]
    return ended


def next_turn(serving: line.Line) -> releases.Release | None:
    """The waiting release that begins now: none while one is under way; adoptions first, then the newest."""
    if serving.active is not None:
        return None
    waiting = serving.waiting
    return next((release for release in waiting if line.is_adoption(release)), waiting[0] if waiting else None)
