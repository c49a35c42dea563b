"""From a conversation to prompt tokens, for every engine: by the policy's own template and tokenizer, never a server's.

Called by `policy.local` and `policy.openai`.
"""

import copy
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trimtab.core import text

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
