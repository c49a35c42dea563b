"""What people see: progress while something takes time, tables when it is done, JSON beside for programs.

On a terminal progress is live; in a log each step is a line when it ends and every few seconds in between.
"""

import contextlib
import dataclasses
import datetime
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import rich.console
import rich.markup
import rich.status
import rich.table
import rich.text
import rich.tree

_QUIET_S = 5.0
# Where nobody looks at a terminal, tables are this wide.
_LOG_WIDTH = 120


def literal(words: str) -> str:
    """Words of others for `say`, shown as they are: `[/INST]` is no markup of ours."""
    return rich.markup.escape(_harmless(words))


def _harmless(words: str) -> str:
    """Without the control characters that would steer a terminal."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in words)


# So much of a model's id tells it apart from others.
SHORT = 12


def moment(at: datetime.datetime) -> str:
    """A moment as people read it: UTC, to the second."""
    return f"{at.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S}"


@dataclasses.dataclass(slots=True)
class Twig:
    """A line of a tree, and what hangs on it."""

    words: str
    twigs: list["Twig"] = dataclasses.field(default_factory=list)


class Screen:
    """One person's terminal. `times` holds the seconds each finished step took, in order.

    as_json: standard output is for a program, so everything but the JSON goes to standard error.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = rich.console.Console(highlight=False, stderr=as_json)
        if not self.console.is_terminal:
            self.console = rich.console.Console(highlight=False, stderr=as_json, width=_LOG_WIDTH)
        self.times: dict[str, float] = {}

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator["Step"]:
        """A step that may take a while. Its name, time and last words stay on the screen."""
        begun = time.monotonic()
        with Step(self.console, name) as step:
            yield step
        took = time.monotonic() - begun
        self.times[name] = self.times.get(name, 0.0) + took
        words = f"  {literal(step.words)}" if step.words else ""
        self.say(f"  [green]✓[/] {literal(name)} [dim]{took:.0f} s[/]{words}")

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", numbers: Sequence[str] = ()
    ) -> None:
        """`numbers` names the columns that are set to the right. Without column names there is no header."""
        table = rich.table.Table(
            title=title,
            title_justify="left",
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            show_header=any(columns),
        )
        for column in columns:
            table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(rich.text.Text(_harmless(cell)) for cell in row))
        self.console.print(table)

    def tree(self, root: Twig) -> None:
        self.console.print(_drawn(root, rich.tree.Tree(literal(root.words))))

    def document(self, value: Any) -> None:
        """Indented JSON for people to read."""
        for line in json.dumps(value, default=str, indent=2, ensure_ascii=False).splitlines():
            self.say(literal(line))

    def json(self, value: Any) -> None:
        rich.console.Console().print_json(json.dumps(value, default=str))


def _drawn(twig: Twig, branch: rich.tree.Tree) -> rich.tree.Tree:
    for other in twig.twigs:
        _drawn(other, branch.add(literal(other.words)))
    return branch


class Step:
    """The running step: `say` replaces its last words."""

    def __init__(self, console: rich.console.Console, name: str) -> None:
        self.words = ""
        self._console = console
        self._name = literal(name)
        self._status: rich.status.Status | None = None
        self._told = 0.0

    def __enter__(self) -> "Step":
        self._told = time.monotonic()
        if self._console.is_terminal:
            self._status = self._console.status(f"{self._name} …")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, words: str) -> None:
        self.words = words
        if self._status is not None:
            self._status.update(f"{self._name} … {literal(words)}")
        elif time.monotonic() - self._told > _QUIET_S:
            self._told = time.monotonic()
            self._console.print(f"  … {self._name}: {literal(words)}", soft_wrap=True)
