"""Questions to the reward service and its answers; and the score of an answer that users got."""

import dataclasses
import datetime
import math

from trimtab.core import text


@dataclasses.dataclass(frozen=True, slots=True)
class ScoreItem:
    prompt: tuple[text.Message, ...]
    response: text.Text


@dataclasses.dataclass(frozen=True, slots=True)
class ScoreRequest:
    """model: a reward model's id or `line@latest`."""

    model: str
    items: tuple[ScoreItem, ...]


def finite(outcome: float | str) -> float | str:
    """The same, or the reason there is no reward where it is no number that can be counted with."""
    if isinstance(outcome, float) and not math.isfinite(outcome):
        return f"the reward is {outcome}"
    return outcome


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """A reward in the model's own units (log-odds of a pair), or the reason there is none. Unscored is never zero.

    uncertainty: standard deviation of an ensemble's rewards, same units; None where the model has one head.
    """

    outcome: float | str
    uncertainty: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ScoreResponse:
    """loaded_digest: of the bytes that scored."""

    model_id: str
    scores: tuple[Score, ...]
    loaded_digest: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RewardModelStatus:
    model_id: str
    line: str
    loaded: bool
    loaded_digest: str = ""
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ListRewardModelsResponse:
    models: tuple[RewardModelStatus, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerScore:
    """The record on topic `scores`: a session's first answer under a release, by that release's reward model.

    loaded_digest: of the bytes that scored. outcome: the reward in the model's own units (log-odds of a pair), or the
    reason there is none; the first record of a completion counts.
    """

    completion_id: str
    context: text.Context
    release_id: str
    reward_id: str
    loaded_digest: str
    at: datetime.datetime
    outcome: float | str
