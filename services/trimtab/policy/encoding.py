"""From a conversation to prompt tokens, for every engine: by the policy's own template and tokenizer, never a server's.

Called by `policy.local` and `policy.remote`.
"""

import asyncio
import copy
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trimtab.core import errors, text
from trimtab.policy import engine

if TYPE_CHECKING:
    from trimtab.modeling import loading


class Encoder:
    """Renders and tokenises, with a tokenizer of its own: others read tokens back, and sharing is not safe."""

    def __init__(self, tokenizer: Any, profile: "loading.ServingProfile") -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._profile = profile
        self._lock = threading.Lock()

    def __call__(self, messages: Sequence[text.Message]) -> tuple[int, ...]:
        from trimtab.modeling import chat

        with self._lock:
            return tuple(chat.encode_prompt(self._tokenizer, messages, self._profile))


class Encoding:
    """The part of a `engine.Engine` that is the same whatever generates: what is known once the policy is loaded."""

    def __init__(self) -> None:
        self._facts: engine.Facts | None = None
        self._encode: Encoder | None = None

    def facts(self) -> engine.Facts:
        if self._facts is None:
            raise errors.ServiceUnavailable("The policy is being loaded; retry in some seconds.")
        return self._facts

    async def encode(self, messages: Sequence[text.Message]) -> tuple[int, ...]:
        self.facts()
        assert self._encode is not None  # set before the facts
        return await asyncio.to_thread(self._encode, messages)
