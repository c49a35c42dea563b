"""The engine port: what turns prompt tokens into answers, and what it declares about itself.

Called by `policy.answering`. Adapters: `policy.local` (in this process), `policy.openai` (a vLLM
beside it). Types of the core only, so that nothing here
costs an import of torch.
"""

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from trimtab.core import completions, errors, text


class EngineFailed(errors.InternalFault):
    """The engine failed in an answer. No client tries it again by itself: a record says that it failed."""

    def __init__(self, sentence: str) -> None:
        errors.TrimtabError.__init__(self, sentence)


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What an engine declares once its policy is loaded.

    context_tokens: prompt and answer together. max_choices: of one request. unsupported: sampling parameters it cannot
    honour; a request that sets one is refused. defaults: the policy's serving profile, nothing in it is None but the
    seed. loaded_digest: of the bytes in memory.
    """

    name: str
    context_tokens: int
    max_choices: int
    defaults: completions.Sampling
    loaded_digest: str
    unsupported: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """News of one choice.

    delta: text since its last piece; tokens: generated so far; detail: the tokens of `delta`, when log-probs were asked
    for; result: the whole choice, on its last piece. The first piece comes at the first token, with or without text.
    """

    choice: int
    delta: str
    tokens: int
    detail: completions.Response | None = None
    result: completions.Response | None = None


class Generation(Protocol):
    """Choices being generated. Iterate to the end: every choice has a last piece."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    def cancel(self) -> None:
        """Ends the choices that are not done, soon: their results say CANCELLED and hold what there is."""
        ...


class Engine(Protocol):
    def facts(self) -> Facts:
        """ServiceUnavailable while the policy is being loaded."""
        ...

    async def encode(self, messages: Sequence[text.Message]) -> tuple[int, ...]:
        """Prompt tokens of a conversation, by the policy's chat template; InvalidField when it refuses it."""
        ...

    def generate(
        self, prompt: tuple[int, ...], sampling: completions.Sampling, choices: int, *, stream: bool
    ) -> Generation:
        """Starts `choices` answers, the k-th with seed + k; `sampling` is resolved. Overloaded when it has no room."""
        ...
