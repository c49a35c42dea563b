"""`trimtab feedback send`: feedback by the public client through the gateway, as an app would give it."""

import asyncio
import dataclasses
import pathlib
import sys
from collections.abc import Callable

import trimtab_client
from trimtab.cli import show
from trimtab.cli.machine import platform, public
from trimtab.core import errors, feedback, ledger
from trimtab_client import feedback as client_feedback


@dataclasses.dataclass(frozen=True, slots=True)
class Giver:
    """What a command says feedback through. give: one method a kind."""

    give: client_feedback.Feedback[trimtab_client.Receipt]
    state: pathlib.Path

    def receipt_of(self, feedback_id: str) -> trimtab_client.Receipt:
        """The receipt of earlier feedback, made of what the ledger knows; NotFound when it knows none of this id."""
        return asyncio.run(_receipt_of(self.state, feedback_id))

    @staticmethod
    def target(answer: str) -> client_feedback.Target:
        """`ID` is an answer's first choice, `ID:1` its second."""
        completion_id, colon, choice = answer.rpartition(":")
        if not colon:
            return answer
        if not choice.isdecimal():
            raise errors.InvalidField("ANSWER", f"{answer!r} names no choice", "give ID, or ID:1 for its second choice")
        return completion_id, int(choice)

    @staticmethod
    def places(ranked: list[str]) -> list[client_feedback.Target | list[client_feedback.Target]]:
        """Answers from best to worst; `A=B` tie."""
        tied = [[Giver.target(answer) for answer in place.split("=")] for place in ranked]
        return [place if len(place) > 1 else place[0] for place in tied]

    @staticmethod
    def words(given: str) -> str:
        """The text itself, or with `-` what stands on standard input."""
        return sys.stdin.read() if given == "-" else given

    @staticmethod
    def span(given: str) -> tuple[int, int] | None:
        """`3:12` is the characters from 3 up to 12, which is not part of it."""
        if not given:
            return None
        start, _, end = given.partition(":")
        if not (start.isdecimal() and end.isdecimal()):
            raise errors.InvalidField("--span", f"is {given!r}", "give START:END in characters, e.g. 0:12")
        return int(start), int(end)


def send(state: pathlib.Path, line: str, as_json: bool, say: Callable[[Giver], trimtab_client.Receipt]) -> None:
    """Sends what `say` says, and shows what comes back. Errors are the service's sentence."""
    try:
        with public.client(platform.Layout(state), line) as client:
            receipt = say(Giver(client.feedback, state))
    except trimtab_client.TrimtabError as problem:
        raise public.core_error(problem) from problem
    screen = show.Screen(as_json)
    if as_json:
        screen.json({"id": receipt.id, "completion_id": receipt.answer_id, "duplicate": receipt.duplicate})
        return
    status = "known already: it counts once" if receipt.duplicate else "acknowledged: it is on disk"
    rows = [("feedback", receipt.id), ("on", receipt.answer_id or "a prompt of its own"), ("status", status)]
    screen.table(("", ""), rows)


async def _receipt_of(state: pathlib.Path, feedback_id: str) -> trimtab_client.Receipt:
    async with platform.doors(platform.Layout(state)) as doors:
        chain = await doors.ledger.trace(ledger.TraceRequest(doors.facts.tenant, feedback_id), timeout_s=10)
    for traced in chain.feedback:
        if traced.event.id == feedback_id:
            about = feedback.targets(traced.event.kind)
            kind = traced.event.kind
            prompt = kind.prompt if isinstance(kind, feedback.Demonstration) else ()
            turns = tuple({"role": turn.role.value, "content": turn.content.read()} for turn in prompt)
            return trimtab_client.Receipt(feedback_id, about[0].completion_id if about else "", turns)
    raise errors.NotFound("feedback", feedback_id)
