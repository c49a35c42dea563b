"""Users of the feedback API: they vote through the project's client code, and keep a history of every attempt.

What a run sends follows from its seed; when it is sent, and how often again, follows from what comes back.
"""

import asyncio
import dataclasses
import functools
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence

import grpc
from tests.faults.harness import history

import trimtab_client
from trimtab.core import clock, completions, examples, feedback, ids, text
from trimtab_client import channel, sending
from trimtab_client import feedback as client_feedback
from trimtabapi.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc

TENANT, LINE = "acme", "support"
# How long a user goes on trying: longer than anything is away.
_PATIENCE_S = 300.0
_Say = Callable[..., Awaitable[None]]
_UNKNOWN = (trimtab_client.errors.ServiceUnavailable, trimtab_client.errors.LogUnavailable)


@dataclasses.dataclass(frozen=True, slots=True)
class Mix:
    """copies: how often each vote is sent, to replicas in turn. Shares of what users do: conflicts: one more copy has
    another body; twins: the same said twice under two ids; amended: taken up again with an amendment."""

    copies: int = 1
    conflicts: float = 0.01
    twins: float = 0.03
    amended: float = 0.03


def answer(number: int, seed: int, ring: ids.KeyRing, hash_key: bytes) -> completions.Completion:
    """An answer that can be voted on, as a policy process records it."""
    session = ids.keyed_hash(hash_key, TENANT, f"{seed} {number // 4}")
    made = ids.content_uuid("answer", str(seed), str(number))
    token = ids.CompletionToken(made, session, b"r" * 8, completions.Arm.STABLE, randomised=True)
    return completions.Completion(
        id=ids.mint(token, TENANT, ring),
        context=text.Context(TENANT, LINE, session_hash=session),
        created_at=clock.utc_now(),
        prompt=(text.Message(text.Role.USER, text.Text(f"question {number}")),),
        responses=(completions.Response(0, text.Text(f"answer {number}"), token_ids=(1, 2, 3)),),
        origin=completions.Origin.SERVED,
        policy_id="policy",
        latency_s=0.5,
    )


def digest_of_request(event: feedback_service_pb2.SendRequest) -> str:
    said = event.event
    match said.WhichOneof("kind"):
        case "thumb":
            return _digest("up" if said.thumb.up else "down", said.thumb.target.completion_id)
        case "signal":
            return _digest("copy", said.signal.target.completion_id)
        case other:
            raise ValueError(f"no user of the harness sends a {other}")


def digest_of_event(event: feedback.FeedbackEvent) -> str:
    [target] = feedback.targets(event.kind)
    return _digest(_word(event.kind), target.completion_id)


def digest_of_example(example: examples.Example) -> str:
    [target] = example.responses
    return _digest(_word(example.kind), target.completion_id)


def _word(kind: object) -> str:
    match kind:
        case feedback.Thumb(up=up) | examples.ThumbExample(up=up):
            return "up" if up else "down"
        case feedback.Signal(signal=signal) | examples.SignalExample(signal=signal):
            return signal.value
        case _:
            raise ValueError(f"no user of the harness sends a {kind}")


def _digest(word: str, completion_id: str) -> str:
    return hashlib.sha256(f"{word} {ids.uuid_of(completion_id)}".encode()).hexdigest()[:16]


class Users:
    """At most `at_once` of them are waiting for an answer; new ones come at `rate` a second."""

    def __init__(
        self,
        addresses: Sequence[str],
        token: str,
        answers: Sequence[str],
        past: history.History,
        *,
        seed: str,
        mix: Mix,
        rate: float,
        at_once: int,
    ) -> None:
        self._answers = answers
        self._history = past
        self._mix = mix
        self._rate = rate
        self._at_once = at_once
        self._seed = seed
        self._metadata = channel.metadata(token)
        self._channels = [channel.open_async(address, None) for address in addresses]
        self._stubs = [feedback_service_pb2_grpc.FeedbackServiceStub(one) for one in self._channels]

    async def vote(self, votes: int, enough: Callable[[], bool]) -> None:
        """Returns when at least so many have voted, and `enough` says so, and everyone has an answer."""
        waiting: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        number, due = 0, loop.time()
        while number < votes or not enough():
            due = max(due + 1 / self._rate, loop.time())
            await asyncio.sleep(due - loop.time())
            while len(waiting) >= self._at_once:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._user(number))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            number += 1
        await asyncio.gather(*waiting)

    async def close(self) -> None:
        for one in self._channels:
            await one.close()

    async def _user(self, number: int) -> None:
        """What one does: decided by the seed and the number alone."""
        rng = random.Random(f"{self._seed} user {number}")
        name, about = f"v{number}", self._answers[number % len(self._answers)]
        rater = hashlib.sha256(f"{self._seed} {number}".encode()).hexdigest()[:32]
        up, kind = rng.random() < 0.5, rng.random()
        if kind < self._mix.twins:
            for twin in ("a", "b"):
                await self._give(number, lambda to, **how: to.signal(about, "copy", rater=rater, **how), name + twin)
            return

        def thumb(which: bool, **details: str) -> _Say:
            return lambda to, **how: to.thumb(about, up=which, rater=rater, **details, **how)

        conflicting = thumb(not up) if kind > 1 - self._mix.conflicts else None
        await self._give(number, thumb(up), name, conflicting=conflicting, place=rng.randrange(self._mix.copies + 1))
        if self._mix.twins <= kind < self._mix.twins + self._mix.amended:
            await self._give(number, thumb(not up, supersedes=name), f"{name}-amended")

    async def _give(
        self, number: int, say: _Say, feedback_id: str, *, conflicting: _Say | None = None, place: int = 0
    ) -> None:
        """All copies at once, one of them with another body where there is one."""
        said = [say] * self._mix.copies
        if conflicting is not None:
            said.insert(place, conflicting)
        doors = [
            client_feedback.Feedback(LINE, functools.partial(self._deliver, replica=number + copy))
            for copy in range(len(said))
        ]
        sent = (one(to, id=feedback_id, timeout_s=_PATIENCE_S) for one, to in zip(said, doors, strict=True))
        await asyncio.gather(*sent)

    async def _deliver(self, given: sending.Sending, *, replica: int) -> None:
        """As `AsyncTrimtab` sends, but that a further attempt goes to the next replica, and that it is on record."""
        event = given.request.event
        given.request.tenant = TENANT
        digest, amends = digest_of_request(given.request), "".join(event.supersedes)
        while True:
            here = replica % len(self._stubs)
            number = self._history.invoke(event.id, digest, here, amends)
            try:
                answer = await self._stubs[here].Send(given.request, timeout=given.attempt_s(), metadata=self._metadata)
            except grpc.RpcError as problem:
                failed = trimtab_client.from_rpc(problem)
            else:
                self._history.answered(number, history.Outcome.OK, duplicate=answer.duplicate)
                return
            known = not isinstance(failed, (*_UNKNOWN, trimtab_client.errors.DeadlineExceeded))
            outcome = history.Outcome.REFUSED if known else history.Outcome.UNKNOWN
            self._history.answered(number, outcome, reason=failed.reason or failed.status.name)
            try:
                pause = given.after(failed)
            except trimtab_client.TrimtabError:
                return
            await asyncio.sleep(pause if isinstance(pause, float) else 0.0)
            replica += 1
