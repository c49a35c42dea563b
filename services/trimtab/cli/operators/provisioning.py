"""`trimtab topics diff` and `apply`: the topics of a Kafka cluster beside what they have to be."""

import dataclasses
import pathlib
from collections.abc import Sequence

from trimtab.bus import connect, topics
from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.rpc import settings


def show_differences(state: pathlib.Path, log: str, replicas: int, as_json: bool) -> int:
    """log: URL; empty: of the state folder. Returns the exit code: 1 when there is a difference."""
    screen = show.Screen(as_json)
    found = connect.topic_differences(_url(state, log), settings.log_security(), replicas=replicas)
    if as_json:
        screen.json([dataclasses.asdict(one) for one in found])
    elif found:
        _table(screen, ("topic", "what", "there", "wanted", ""), found, ["`apply` does it"] * len(found))
    else:
        screen.say(f"no difference: {len(topics.ALL)} topics are as they have to be")
    return 1 if found else 0


def apply(state: pathlib.Path, log: str, replicas: int, as_json: bool) -> int:
    """As above; returns 1 when something had to stay as it is."""
    screen = show.Screen(as_json)
    found = connect.topic_differences(_url(state, log), settings.log_security(), replicas=replicas, apply=True)
    if as_json:
        screen.json([dataclasses.asdict(one) for one in found])
    elif found:
        done = ["created" if one.what == topics.TOPIC else "altered" for one in found]
        _table(screen, ("topic", "what", "was", "wanted", ""), found, done)
    else:
        screen.say(f"nothing to do: {len(topics.ALL)} topics are as they have to be")
    return 1 if any(one.refused for one in found) else 0


def _url(state: pathlib.Path, log: str) -> str:
    return log or platform.Layout(state).log_url


def _table(
    screen: show.Screen, columns: Sequence[str], found: Sequence[topics.Difference], done: Sequence[str]
) -> None:
    rows = [
        (one.topic, one.what, one.found, one.wanted, f"stays: {one.refused}" if one.refused else words)
        for one, words in zip(found, done, strict=True)
    ]
    screen.table(columns, rows)
