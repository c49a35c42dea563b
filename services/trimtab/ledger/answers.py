"""What the join needs of a completion, without its token lists. Made by `store.completions`, read by `joining`."""

import dataclasses
import functools
import uuid
from collections.abc import Mapping

from trimtab.core import completions, ids, text

# The same few ids are taken apart again and again: by their completion, by feedback, by its body.
uuid_of = functools.lru_cache(maxsize=20_000)(ids.uuid_of)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One completion; texts[i] is its choice i. release_id is empty when it can never be evidence."""

    completion_id: str
    uuid: uuid.UUID
    context: text.Context
    prompt: tuple[text.Message, ...]
    texts: Mapping[int, text.Text]
    policy_id: str
    propensity: float
    release_id: str
    arm: completions.Arm | None


# By the completion's UUID, then by the tenant it was made for.
Answers = Mapping[uuid.UUID, Mapping[str, Answer]]


def answer_of(completion: completions.Completion) -> Answer:
    """A completion as the join sees it. Imported and pinned ones have propensity 1; imports are of no release."""
    exposure = completion.exposure if completion.origin is completions.Origin.SERVED else None
    return Answer(
        completion_id=completion.id,
        uuid=uuid_of(completion.id),
        context=completion.context,
        prompt=completion.prompt,
        texts={response.choice: response.text for response in completion.responses},
        policy_id=completion.policy_id,
        propensity=exposure.propensity if exposure and exposure.randomised else 1.0,
        release_id=exposure.release_id if exposure else "",
        arm=exposure.arm if exposure else None,
    )
