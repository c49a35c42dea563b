"""Examples of a data set as tokens, and the books of those that could not be used.

Nothing is dropped silently: `Skipped` counts every example that is left out by its reason, and the counts are among the
figures of the run.
"""

import collections
import hashlib
import math
from collections.abc import Iterable, Sequence

from trimtab.core import text
from trimtab.modeling import answers, loading
from trimtab.trainer.data import datasets


class Skipped:
    """How many examples were left out, by reason."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()

    def count(self, reason: str, times: int = 1) -> None:
        """Only the part before a colon names the reason; the rest is about one example."""
        self._counts[reason.split(":", maxsplit=1)[0]] += times

    def figures(self) -> dict[str, float]:
        return {f"skipped: {reason}": float(count) for reason, count in sorted(self._counts.items())}


def messages_of(prompt: Sequence[datasets.Turn]) -> tuple[text.Message, ...]:
    return tuple(text.Message(text.Role(turn["role"]), text.Text(turn["content"])) for turn in prompt)


def answers_of(example: datasets.DatasetExample) -> list[str]:
    """The texts of an example that answer its prompt; a document's own text."""
    match example.kind:
        case "pair" | "edit":
            return [example.chosen, example.rejected]
        case "ranking":
            return [one["response"] for one in example.ranked]
    return [example.response]


def unusable(example: datasets.DatasetExample) -> str:
    """Why an example cannot be trained on whatever the model, or nothing. One NaN weight would spoil a whole step."""
    if not 0 < example.weight < math.inf:
        return "weight that is no positive number"
    if example.strength is not None and not 0 <= example.strength <= 1:
        return "strength outside 0 to 1"
    if not all(answer.strip() for answer in answers_of(example)):
        return "empty text"
    return ""


def encoder_of(policy: loading.LoadedPolicy) -> answers.AnswerEncoder:
    return answers.AnswerEncoder(policy.tokenizer, policy.profile, loading.context_tokens(policy.model))


def distinct_prompts(examples: Iterable[datasets.DatasetExample]) -> list[tuple[text.Message, ...]]:
    """Each prompt once, in the order of its first example; a document has none."""
    return list(dict.fromkeys(messages_of(example.prompt) for example in examples if example.prompt))


def seed_of(*parts: object) -> int:
    """A seed of 63 bits that depends on every part, the same on every machine."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
