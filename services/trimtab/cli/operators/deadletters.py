"""`trimtab deadletter`: the letters of a log as a table, and what an operator does about them.

Read from the log, so a platform need not run. What one letter holds is told by `cli.operators.contents`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.bus import connect, letters, port, settling
from trimtab.cli import show as screens
from trimtab.cli.machine import halting, operating, platform
from trimtab.cli.models import inspecting
from trimtab.cli.operators import contents
from trimtab.core import errors, lines
from trimtab.rpc import settings


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """What is left: of one topic, of one consumer, with these words in the reason. Empty: of any."""

    topic: str = ""
    consumer: str = ""
    matching: str = ""

    def leaves(self, entry: letters.Entry) -> bool:
        return (
            self.topic in ("", entry.place.topic)
            and self.consumer in ("", entry.consumer)
            and self.matching.casefold() in entry.reason.casefold()
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The letters an act is about: named ones, or every open one that the filter leaves."""

    sources: tuple[str, ...]
    every: bool
    those: Filter

    def places(self, known: letters.Letters) -> list[letters.Place]:
        """InvalidField unless letters are named, or `--all` asked for."""
        if bool(self.sources) == self.every:
            raise errors.InvalidField("SOURCE", "and `--all` exclude each other", "name letters or give --all")
        if self.sources and self.those != Filter():
            raise errors.InvalidField("--topic", "and other filters go with `--all`", "leave them out")
        named = [letters.parse_place(source) for source in self.sources]
        return named or list(dict.fromkeys(entry.place for entry in _listed(known, self.those, settled=False)))


def show_list(state: pathlib.Path, log_url: str, those: Filter, settled: bool, as_json: bool) -> None:
    with _opened(state, log_url) as (_, known):
        listed = _listed(known, those, settled=settled)
        screen = screens.Screen(as_json)
        if as_json:
            screen.json([_document(known, entry) for entry in listed])
            return
        _tell(screen, known, listed, settled=settled)


def show(state: pathlib.Path, log_url: str, source: str, as_json: bool) -> None:
    place = letters.parse_place(source)
    with _opened(state, log_url) as (log, known):
        found = [entry for (at, _), entry in known.entries.items() if at == place]
        if not found:
            raise errors.NotFound("dead letter", source)
        letter = known.fetch(found[-1])
        content = contents.read(log, letter)
        screen = screens.Screen(as_json)
        if as_json:
            refused = [_document(known, entry) for entry in found]
            screen.json({"source": str(place), "refused": refused, **contents.document(letter, content)})
            return
        for entry in found:
            screen.say(screens.literal(f"{place}, refused by {entry.consumer}: {entry.reason}"))
        screen.table(("", ""), _facts(known, found))
        contents.tell(screen, letter, content)


def replay(state: pathlib.Path, log_url: str, chosen: Chosen, reason: str, as_json: bool) -> int:
    """The exit code: 1 when a letter stays open."""
    with _desk(state, log_url, reason) as (known, desk):
        return _told(desk.replay(chosen.places(known)), as_json)


def drop(state: pathlib.Path, log_url: str, chosen: Chosen, reason: str, as_json: bool) -> int:
    """The exit code, as of `replay`."""
    with _desk(state, log_url, reason) as (known, desk):
        return _told(desk.drop(chosen.places(known)), as_json)


def resume(state: pathlib.Path, log_url: str, consumer: str, more: int, reason: str) -> None:
    with _desk(state, log_url, reason) as (_, desk):
        desk.resume(consumer, more)
    beside = f", with {more} letters beside its limit" if more else ""
    screens.Screen().say(screens.literal(f"{consumer} goes on{beside}"))


@contextlib.contextmanager
def _opened(state: pathlib.Path, log_url: str) -> Iterator[tuple[port.EventLog, letters.Letters]]:
    """NotFound when the folder is no platform's and no log was named."""
    layout = platform.Layout(state)
    if not log_url and not layout.lines.is_file():
        raise errors.NotFound("platform in", str(layout.state))
    with (
        contextlib.closing(connect.open_log(log_url or layout.log_url, settings.log_security())) as log,
        contextlib.closing(letters.Letters(log)) as known,
    ):
        known.refresh()
        yield log, known


@contextlib.contextmanager
def _desk(state: pathlib.Path, log_url: str, reason: str) -> Iterator[tuple[letters.Letters, settling.Desk]]:
    """An act needs the platform's folder, also on a log that is named: it says on whose audit trail it stands."""
    layout = platform.Layout(state)
    if not layout.lines.is_file():
        raise errors.NotFound("platform in", str(layout.state))
    with _opened(state, log_url) as (log, known):
        act = settling.Act(_tenant(layout), operating.operator(), reason)
        yield known, settling.Desk(log, known, act)


def _tenant(layout: platform.Layout) -> str:
    """Of the platform that runs, else of the first line."""
    with contextlib.suppress(errors.NotFound):
        return layout.read_facts().tenant
    return next(iter(lines.load_lines(layout.lines).values())).tenant


def _listed(known: letters.Letters, those: Filter, *, settled: bool) -> list[letters.Entry]:
    found = [
        entry for entry in known.entries.values() if those.leaves(entry) and (entry.place in known.settled) is settled
    ]
    return sorted(found, key=lambda entry: (entry.first_at, entry.place, entry.consumer))


def _tell(screen: screens.Screen, known: letters.Letters, listed: Sequence[letters.Entry], *, settled: bool) -> None:
    halting.say(screen, known.halted)
    if listed:
        columns = ("source", "refused by", "when (UTC)", "times", "bytes", "what" if settled else "reason")
        rows = [_row(known, entry) for entry in listed]
        screen.table(columns, rows, numbers=("times", "bytes"))
    else:
        screen.say("No letter was settled." if settled else "No dead letter is open.")
    if known.unreadable:
        screen.say(f"{known.unreadable} records on topic deadletter are of a newer version, which can list them.")


def _row(known: letters.Letters, entry: letters.Entry) -> tuple[str, ...]:
    settled = known.settled.get(entry.place)
    last = f"{settled.outcome.value} by {settled.actor}: {settled.reason}" if settled else entry.reason
    if entry.replayed_from and not settled:
        last += f" (replayed from {entry.replayed_from[-1]})"
    when = screens.moment(entry.last_at)
    return str(entry.place), entry.consumer, when, str(entry.times), str(entry.value_bytes), last


def _facts(known: letters.Letters, found: Sequence[letters.Entry]) -> list[tuple[str, str]]:
    entry = found[-1]
    settled = known.settled.get(entry.place)
    size = f"{entry.value_bytes} bytes" + ("" if entry.whole else ", of which the letter has the beginning")
    facts = [
        ("schema", entry.schema or "none named"),
        ("size", size),
        ("refused", f"{screens.moment(entry.last_at)}, letters written: {sum(one.times for one in found)}"),
        ("replayed from", ", ".join(entry.replayed_from)),
    ]
    if settled:
        what = f"{settled.outcome.value} at {screens.moment(settled.at)} by {settled.actor}: {settled.reason}"
        facts.append(("settled", what))
    return [(name, value) for name, value in facts if value]


def _document(known: letters.Letters, entry: letters.Entry) -> dict[str, Any]:
    settled = known.settled.get(entry.place)
    return {
        **inspecting.plain(entry),
        "place": str(entry.place),
        "settled": inspecting.plain(settled) if settled else None,
    }


def _told(outcomes: Sequence[settling.Outcome], as_json: bool) -> int:
    screen = screens.Screen(as_json)
    if as_json:
        screen.json([{"source": str(one.place), "done": one.done, "words": one.words} for one in outcomes])
    elif outcomes:
        screen.table(("source", ""), [(str(one.place), one.words) for one in outcomes])
    else:
        screen.say("No dead letter is open.")
    return int(any(one.open for one in outcomes))
