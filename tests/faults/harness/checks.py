"""What a row of `training` looked at, and how much of it was wrong."""

import dataclasses
from collections.abc import Collection

# How many of what is wrong a sentence names.
_NAMED = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """name: what a mutant is caught by. words: what is wrong with what is in `wrong`; of: so many were looked at."""

    name: str
    words: str
    of: int
    wrong: tuple[str, ...]

    @property
    def cell(self) -> str:
        return f"{self.words}: {len(self.wrong)} of {self.of}"

    @property
    def sentence(self) -> str:
        return f"{self.cell}, e.g. {', '.join(self.wrong[:_NAMED])}"


@dataclasses.dataclass(slots=True)
class Noted:
    """What a row saw beside its checks. problems: what did not hold; notes: what is told besides; in sentences."""

    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def require(self, holds: bool, sentence: str) -> None:
        if not holds:
            self.problems.append(sentence)


@dataclasses.dataclass(slots=True, kw_only=True)
class Seen(Noted):
    """What a row saw. store: of the ledger's database. kills: of what is no process of the installation, its jobs."""

    store: str
    kills: int = 0
    checked: list[Checked] = dataclasses.field(default_factory=list)

    def check(self, name: str, words: str, of: int, wrong: Collection[str]) -> None:
        self.checked.append(Checked(name, words, of, tuple(sorted(wrong))))
