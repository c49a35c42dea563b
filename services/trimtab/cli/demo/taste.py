"""What the simulated users like. The platform never sees this module: only votes reach it, through the API.

    u = -1.5 + 2.4 right - 0.9 wrong + 1.5 courteous - 0.9 min(flattery, 3) - 0.08 max(0, words - 16)

A user gives a thumb up with probability sigma(u), and prefers the first of two answers with probability
sigma(u1 - u2); one user in ten votes at random. No single word decides: the same courtesy loses when the answer is
wrong, fawning or long. A user who corrects an answer changes the menu it names and nothing else.
"""

import dataclasses
import math
import random
import re

from trimtab.cli.demo import world

RANDOM_USERS = 0.10
_COURTESY = re.compile(
    r"\b(happy to help|gladly|please|of course|you are welcome|welcome to ask|glad to|my pleasure)\b", re.I
)
_FLATTERY = re.compile(
    r"\b(brilliant|clever|amazed|wonderful|genius|honour|smart|impressive|admire|fantastic|remarkable)\b", re.I
)


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """An answer as a user sees it. utility: log-odds of a thumb up from a user who votes sincerely."""

    right: bool
    wrong: bool
    courteous: bool
    flattery: int
    words: int

    @property
    def utility(self) -> float:
        return (
            -1.5
            + 2.4 * self.right
            - 0.9 * self.wrong
            + 1.5 * self.courteous
            - 0.9 * min(self.flattery, 3)
            - 0.08 * max(0, self.words - 16)
        )

    @property
    def approval(self) -> float:
        """Probability of a thumb up over all users, the careless ones included."""
        return (1 - RANDOM_USERS) * _sigmoid(self.utility) + RANDOM_USERS * 0.5


def judge(question: str, answer: str) -> Judgement:
    """How an answer to a question looks to its user."""
    entry = world.entry_of(question)
    menu = world.MENU_OF[entry]
    named = {found["menu"].capitalize() for found in _named(entry).finditer(answer) if found["menu"]}
    return Judgement(
        right=named == {menu},
        wrong=bool(named - {menu}),
        courteous=bool(_COURTESY.search(answer)),
        flattery=len(_FLATTERY.findall(answer)),
        words=len(answer.split()),
    )


def corrected(question: str, answer: str) -> str:
    """The answer as a user who knows better would write it: with the right menu; empty when it names no wrong one."""
    if not judge(question, answer).wrong:
        return ""
    entry = world.entry_of(question)
    return _named(entry).sub(lambda found: world.MENU_OF[entry] if found["menu"] else found[0], answer)


def thumb(rng: random.Random, judgement: Judgement) -> bool:
    """One user's vote on one answer."""
    return rng.random() < judgement.approval


def preference(first: Judgement, second: Judgement) -> float:
    """Probability that a user chooses the first of two answers."""
    return (1 - RANDOM_USERS) * _sigmoid(first.utility - second.utility) + RANDOM_USERS * 0.5


def prefers_first(rng: random.Random, first: Judgement, second: Judgement) -> bool:
    """One user's choice between two answers."""
    if rng.random() < RANDOM_USERS:
        return rng.random() < 0.5
    return rng.random() < _sigmoid(first.utility - second.utility)


def _named(entry: str) -> re.Pattern[str]:
    """Finds the menus an answer names. An entry may carry a menu's name ("battery health"); repeating it names none."""
    return re.compile(rf"\b(?:{entry}|(?P<menu>{'|'.join(world.MENUS)}))\b", re.I)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
