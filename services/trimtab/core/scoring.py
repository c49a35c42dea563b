"""Questions to the reward service and its answers."""

import dataclasses

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
