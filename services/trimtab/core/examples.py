"""Feedback joined with the answer it is about: what data sets are cut from."""

import dataclasses
import datetime

from trimtab.core import feedback, text


@dataclasses.dataclass(frozen=True, slots=True)
class ThumbExample:
    response: text.Text
    up: bool


@dataclasses.dataclass(frozen=True, slots=True)
class PairExample:
    chosen: text.Text
    rejected: text.Text
    strength: float | None = None
    tie: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RatingExample:
    response: text.Text
    stars: int
    scale: int


@dataclasses.dataclass(frozen=True, slots=True)
class RankedText:
    response: text.Text
    rank: int


@dataclasses.dataclass(frozen=True, slots=True)
class RankingExample:
    items: tuple[RankedText, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class EditExample:
    original: text.Text
    corrected: text.Text


@dataclasses.dataclass(frozen=True, slots=True)
class DemonstrationExample:
    response: text.Text


@dataclasses.dataclass(frozen=True, slots=True)
class CritiqueExample:
    response: text.Text
    comment: text.Text
    span: feedback.Span | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SignalExample:
    response: text.Text
    signal: feedback.SignalKind


Kind = (
    ThumbExample
    | PairExample
    | RatingExample
    | RankingExample
    | EditExample
    | DemonstrationExample
    | CritiqueExample
    | SignalExample
)


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """The record on topic `examples`, self-contained. A revision keeps the id and raises `revision`.

    (partition, sequence) come from the ledger's outbox: the order data sets are cut in.
    fold: 0 to 9, of the session (imports and demonstrations: of the prompt). kind is None exactly when withdrawn.
    """

    id: str
    context: text.Context
    partition: int
    sequence: int
    revision: int
    fold: int
    occurred_at: datetime.datetime
    feedback_id: str
    kind: Kind | None
    withdrawn: bool = False
    rater: feedback.Rater = dataclasses.field(default_factory=feedback.Rater)
    surface: str = ""
    criterion: str = ""
    propensity: float = 1.0
    prompt: tuple[text.Message, ...] = ()
    feedback_chain: tuple[str, ...] = ()
    responses: tuple[text.ResponseRef, ...] = ()
    policy_ids: tuple[str, ...] = ()
