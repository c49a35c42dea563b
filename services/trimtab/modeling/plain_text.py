"""Conversations for reward models without a chat template: published rankers and encoders.

The prompt is its one turn's text, or, of a longer conversation, one line "role: text" a turn. A tokenizer that marks
pairs of texts (BERT's) gets prompt and answer as its pair; any other gets the answer right after the prompt, then the
end-of-sequence token where it has one. Called by `modeling.rewards`.
"""

from collections.abc import Sequence
from typing import Any

from trimtab.core import errors, text
from trimtab.modeling import answers, loading


class PairEncoder:
    """As `answers.AnswerEncoder`; `context` is what prompt and answer may take together, marks included."""

    def __init__(self, tokenizer: Any, profile: loading.ServingProfile, context: int) -> None:
        self._tokenizer = tokenizer
        self._profile = profile
        self._context = context

    def encode(self, messages: Sequence[text.Message], response: str) -> answers.Answer | str:
        """The tokens, or the reason there are none: a sentence that starts with what kind of thing went wrong."""
        try:
            answer = self._tokens(self._prompt(messages), response)
        except errors.SealedText:
            return "sealed text: its key is not at hand"
        if not answer.response:
            return "empty answer"
        if len(answer) > self._context:
            return f"too long: prompt and answer take {len(answer)} tokens and the model reads {self._context}"
        return answer

    def _prompt(self, messages: Sequence[text.Message]) -> str:
        turns = [(message.role.value, message.content.read()) for message in messages]
        if self._profile.system_prompt and (not turns or turns[0][0] != text.Role.SYSTEM.value):
            turns.insert(0, (text.Role.SYSTEM.value, self._profile.system_prompt))
        return turns[0][1] if len(turns) == 1 else "\n".join(f"{role}: {said}" for role, said in turns)

    def _tokens(self, prompt: str, response: str) -> answers.Answer:
        if self._tokenizer.sep_token_id is not None:
            pair = self._tokenizer(prompt, response)
            ids, owners = pair["input_ids"], pair.sequence_ids()
            start = owners.index(1) if 1 in owners else len(ids)
            return answers.Answer(tuple(ids[:start]), tuple(ids[start:]))
        end = self._tokenizer.eos_token_id
        said = self._tokenizer.encode(response, add_special_tokens=False)
        return answers.Answer(tuple(self._tokenizer.encode(prompt)), (*said, *([] if end is None else [end])))
