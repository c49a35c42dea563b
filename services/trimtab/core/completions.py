"""A completion and everything recorded about how it came to be."""

import dataclasses
import datetime
import enum

from trimtab.core import text


@dataclasses.dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None means the policy's serving profile decides. Temperature 0 is greedy, top_k 0 is off."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0


class FinishReason(enum.StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclasses.dataclass(frozen=True, slots=True)
class TokenAlternative:
    token_id: int
    token: str
    logprob: float


@dataclasses.dataclass(frozen=True, slots=True)
class TokenAlternatives:
    items: tuple[TokenAlternative, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """One choice. The token lists have equal length, end-of-sequence token included; log-probs are natural.

    logprobs_sampled: empty where the engine does not say it.
    """

    choice: int
    text: text.Text
    token_ids: tuple[int, ...] = ()
    logprobs_raw: tuple[float, ...] = ()
    logprobs_sampled: tuple[float, ...] = ()
    finish_reason: FinishReason | None = None
    top_logprobs: tuple[TokenAlternatives, ...] = ()
    tokens: tuple[str, ...] = ()


class Arm(enum.StrEnum):
    STABLE = "stable"
    CANDIDATE = "candidate"


@dataclasses.dataclass(frozen=True, slots=True)
class Exposure:
    """Which arm a session was given and with what probability. Pinned requests are not randomised."""

    release_id: str
    stage: str
    arm: Arm | None
    propensity: float
    randomised: bool


class Origin(enum.StrEnum):
    SERVED = "served"
    IMPORTED = "imported"


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What a policy process saw of its own answer, over its choices. Kept whether or not the text may be.

    tokens: mean of the choices; refused, repeats: share of them, by the rules of `core.wording`; failed: nothing was
    answered, the engine failed.
    """

    tokens: float = 0.0
    refused: float = 0.0
    repeats: float = 0.0
    failed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """The record on topic `completions`. Times are seconds; ids and digests hex.

    measured: None where it was imported, or recorded before there was any. segment: which users it was made for, as the
    app calls them; empty when it said nothing.
    """

    id: str
    context: text.Context
    created_at: datetime.datetime
    prompt: tuple[text.Message, ...]
    responses: tuple[Response, ...]
    origin: Origin
    prompt_token_ids: tuple[int, ...] = ()
    sampling: Sampling | None = None
    policy_id: str = ""
    loaded_digest: str = ""
    exposure: Exposure | None = None
    latency_s: float = 0.0
    time_to_first_token_s: float = 0.0
    engine: str = ""
    measured: Measured | None = None
    segment: str = ""


def figures(completion: Completion) -> dict[str, float]:
    """What of a completion is counted with, by name."""
    found = {"latency_s": completion.latency_s, "time_to_first_token_s": completion.time_to_first_token_s}
    if completion.exposure is not None:
        found["propensity"] = completion.exposure.propensity
    if completion.measured is not None:
        measured = completion.measured
        found |= {"tokens": measured.tokens, "refused": measured.refused, "repeats": measured.repeats}
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """What the gateway decided before a policy answers."""

    completion_id: str
    context: text.Context
    exposure: Exposure


@dataclasses.dataclass(frozen=True, slots=True)
class CompleteRequest:
    """A request for one or more choices. `assignment` is present inside, absent at the public door."""

    messages: tuple[text.Message, ...]
    model: str = ""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    n: int = 1
    session_id: str = ""
    user: str = ""
    store: bool | None = None
    assignment: Assignment | None = None
    segment: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class CompleteResponse:
    completion: Completion
    usage: Usage


@dataclasses.dataclass(frozen=True, slots=True)
class StreamCompleteResponse:
    """One event of a stream: text since this choice's last event; `tokens` counts this choice's tokens so far."""

    completion_id: str
    choice: int
    delta: str
    tokens: int
    policy_id: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    detail: Response | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class DescribeResponse:
    policy_id: str
    loaded_digest: str
    engine: str
    context_tokens: int
    unsupported: tuple[str, ...] = ()
