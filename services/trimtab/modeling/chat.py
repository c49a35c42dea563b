"""From messages to prompt tokens, by the tokenizer's own chat template.

Called by the policy process and the trainer: both must render alike, or what is trained is not what is served.
"""

from collections.abc import Sequence
from typing import Any

import jinja2

from trimtab.core import errors, text
from trimtab.modeling import loading


def encode_prompt(tokenizer: Any, messages: Sequence[text.Message], profile: loading.ServingProfile) -> list[int]:
    """Token ids of the conversation, ready for the assistant's answer.

    The profile's system prompt leads unless the conversation brings its own. InvalidField when the template refuses
    the conversation (some want alternating roles, some know no system role).
    """
    if tokenizer.chat_template is None:
        raise errors.ArtifactCorrupt("The policy's tokenizer has no chat template: it is no chat model.")
    turns = [{"role": message.role.value, "content": message.content.read()} for message in messages]
    if profile.system_prompt and (not turns or turns[0]["role"] != text.Role.SYSTEM.value):
        turns.insert(0, {"role": text.Role.SYSTEM.value, "content": profile.system_prompt})
    try:
        rendered: list[int] = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except jinja2.TemplateError as problem:
        refused = f"are refused by the policy's chat template ({problem})"
        raise errors.InvalidField("messages", refused, "change their roles or order") from problem
    return rendered
