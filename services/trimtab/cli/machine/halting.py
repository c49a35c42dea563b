"""What an operator is told of consumers that stand still, wherever that is told."""

from collections.abc import Collection, Mapping

from trimtab.bus import deadletter
from trimtab.cli import show
from trimtab.core import audit


def process_of(consumer: str) -> str:
    """The process that a consumer belongs to: `gateway` of `gateway/rollouts`."""
    return consumer.partition("/")[0]


def say(screen: show.Screen, standing: Mapping[str, audit.ConsumerHalted]) -> None:
    """A paragraph each: why, since when, and what to do."""
    for one in standing.values():
        words = show.literal(f" since {show.moment(one.at)}: {one.reason} {deadletter.remedy(one)}")
        screen.say(f"[red]halted[/]{words}")


def say_waiting(screen: show.Screen, standing: Mapping[str, audit.ConsumerHalted], missing: Collection[str]) -> None:
    """What keeps a platform from coming up: which process waits for what, and how it goes on. missing: processes that
    do not serve."""
    screen.say("")
    for one in standing.values():
        if process_of(one.consumer) in missing:
            words = f"{process_of(one.consumer)} does not serve before it has read topic {one.topic} to its end."
            screen.say(f"[red]waiting[/] {show.literal(words)}")
    say(screen, standing)
    screen.say("`trimtab deadletter list` shows what was refused. All goes on by itself once that is settled.\n")
