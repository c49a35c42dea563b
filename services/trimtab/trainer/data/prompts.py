"""The prompts that on-policy methods answer: DESIGN, section 7. Called by `trainer.methods.on_policy`.

A data set guarantees that its texts may be kept: what came without consent, sealed, withdrawn or quarantined was
rejected when it was cut (`trainer.data.cutting`). What remains to be done is done here: only the training split, each
prompt once, and of each user session only so many. Examples without a session (files of an operator) have no limit.
"""

import collections
import dataclasses

from trimtab.core import text
from trimtab.trainer.data import datasets, encoding


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """prompts: in the order of their first example that counts. over_limit: how many no session had room for.

    also_held_out: how many of the prompts somebody in the held-out split asked in the same words. They are trained on:
    what is held out is that person's conversation and verdict, not everybody's "hello".
    """

    prompts: list[tuple[text.Message, ...]]
    over_limit: int
    also_held_out: int

    def figures(self) -> dict[str, float]:
        return {
            "prompts": float(len(self.prompts)),
            "prompts_over_session_limit": float(self.over_limit),
            "prompts_also_held_out": float(self.also_held_out),
        }


def pool(dataset: datasets.Dataset, per_session: int) -> Pool:
    """The prompts of the training split. per_session: different prompts of one session that are taken at most.

    A prompt that several sessions asked counts for the first that has room. A document has none.
    """
    of_session: collections.Counter[str] = collections.Counter()
    taken: dict[tuple[text.Message, ...], None] = {}
    refused: set[tuple[text.Message, ...]] = set()
    for example in dataset.of("train"):
        prompt = encoding.messages_of(example.prompt)
        if not prompt or prompt in taken:
            continue
        if example.session and of_session[example.session] >= per_session:
            refused.add(prompt)
            continue
        of_session[example.session] += 1
        taken[prompt] = None
    held_out = set(encoding.distinct_prompts(dataset.of("held_out")))
    return Pool(list(taken), len(refused - taken.keys()), len(held_out & taken.keys()))
