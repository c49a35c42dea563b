"""Simulated people who use a line through the public gRPC API: they like plain words."""

import concurrent.futures
import itertools
import math
import random
import threading
import time
import uuid
from collections.abc import Callable

from trimtab_client import Trimtab, errors
from trimtab_client.answers import Choice

_AT_ONCE = 8
_AGAIN_S = 2.0
_SUBJECTS = "the moon, rain, bread, a library, the heart, honey, a bridge, sleep, the sea, a map, salt, snow, wind"
_WORDINGS = ("What is {}?", "Tell me about {}.", "Why do people like {}?", "Describe {} to a child.", "What use is {}?")
QUESTIONS = tuple(wording.format(subject) for subject in _SUBJECTS.split(", ") for wording in _WORDINGS)
_MAX_TOKENS = 48
# Words of so many letters in the mean half of the people like; of one letter less or more, nearly all or none.
_LETTERS, _PER_LETTER = 4.9, 6.0


class People:
    """Several at once; each visit is a session of its own. votes: acknowledged; completions: what they were about."""

    def __init__(self, address: str, api_key: str, line: str, seed: int) -> None:
        self._app = Trimtab(address, api_key=api_key, line=line)
        self._seed = seed
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.completions: list[str] = []
        self.policies: dict[str, int] = {}

    def close(self) -> None:
        self._app.close()

    @property
    def votes(self) -> int:
        return len(self.completions)

    def compare(self, wanted: Callable[[], bool], tell: Callable[[str], None]) -> None:
        """As long as wanted, they compare two answers to a question; two that are equal are not."""

        def visit(rng: random.Random) -> None:
            answer = self._app.chat(
                rng.choice(QUESTIONS), session=uuid.uuid4().hex, n=2, max_tokens=_MAX_TOKENS, timeout_s=120.0
            )
            first, second = answer.choices
            if first.text == second.text or not wanted():
                return
            better, worse = (first, second) if _yes(rng, _appeal(first) - _appeal(second)) else (second, first)
            self._app.feedback.compare(better, worse, surface="chat")
            self._note(answer.id, answer.policy_id)
            tell(f"{self.votes} votes acknowledged")

        self._visit(visit, wanted)

    def rate(self, wanted: Callable[[], bool], tell: Callable[[str], None]) -> None:
        """As long as wanted, they give one answer a thumb up or down."""

        def visit(rng: random.Random) -> None:
            answer = self._app.chat(
                rng.choice(QUESTIONS), session=uuid.uuid4().hex, max_tokens=_MAX_TOKENS, timeout_s=120.0
            )
            self._app.feedback.thumb(answer, up=_yes(rng, _appeal(answer.choices[0])), surface="chat")
            self._note(answer.id, answer.policy_id)
            tell(f"{self.votes} votes acknowledged")

        self._visit(visit, wanted)

    def _visit(self, visit: Callable[[random.Random], None], wanted: Callable[[], bool]) -> None:
        def person(_: int) -> None:
            while wanted():
                try:
                    visit(random.Random(f"{self._seed} {next(self._numbers)}"))
                except (errors.ServiceUnavailable, errors.Overloaded):
                    time.sleep(_AGAIN_S)  # as anybody would who finds it away: they come again

        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as people:
            list(people.map(person, range(_AT_ONCE)))

    def _note(self, completion: str, policy: str) -> None:
        with self._lock:
            self.completions.append(completion)
            self.policies[policy] = self.policies.get(policy, 0) + 1


def _appeal(said: Choice) -> float:
    """As a logit."""
    words = said.text.split()
    return _PER_LETTER * (_LETTERS - sum(map(len, words)) / len(words)) if words else -_PER_LETTER


def _yes(rng: random.Random, logit: float) -> bool:
    return rng.random() < 1 / (1 + math.exp(-logit))
