"""A conversation and an answer to it as tokens: what the trainer trains on and the reward model reads.

The prompt is rendered by `modeling.chat`, exactly as it is served; the answer ends with the end-of-sequence token.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from trimtab.core import errors, text
from trimtab.modeling import chat, loading


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Token ids. response: ends with the end-of-sequence token, so it is never empty."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.response

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


class AnswerEncoder:
    """Turns conversations and answers into tokens of one model; `context` is what the two may take together."""

    def __init__(self, tokenizer: Any, profile: loading.ServingProfile, context: int) -> None:
        if tokenizer.eos_token_id is None:
            raise errors.ArtifactCorrupt("The tokenizer has no end-of-sequence token: answers could not end.")
        self._tokenizer = tokenizer
        self._profile = profile
        self._context = context

    def encode(self, messages: Sequence[text.Message], response: str) -> Answer | str:
        """The tokens, or the reason there are none: a sentence that starts with what kind of thing went wrong."""
        try:
            prompt = chat.encode_prompt(self._tokenizer, messages, self._profile)
        except errors.SealedText:
            return "sealed text: its key is not at hand"
        except errors.InvalidField as problem:
            return f"chat template: {problem}"
        tokens = self._tokenizer.encode(response, add_special_tokens=False)
        answer = Answer(tuple(prompt), (*tokens, self._tokenizer.eos_token_id))
        if len(answer) > self._context:
            return f"too long: prompt and answer take {len(answer)} tokens and the context holds {self._context}"
        return answer
