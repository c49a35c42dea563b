"""Has the first answers of a release scored by its reward model, beside the looks of the controller.

`rollout.controller` calls `look` at each of its own: the ledger is asked which answers lack a score, the reward service
for the scores, and topic `scores` takes them. One round a line at a time, of a bounded size: what is away makes scores
come later, and the guardrail that waits for them stays unknown; no look waits for them.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from trimtab.bus import port, publish, topics
from trimtab.core import clock, errors, ledger, releases, scoring, text
from trimtab.obs import logging
from trimtab.rollout import pacing

# Answers of one round.
MOST = 64
_SCORE_S = 60.0
_log = logging.get(__name__)


class Ledger(Protocol):
    async def unscored(self, request: ledger.UnscoredRequest, *, timeout_s: float = ...) -> ledger.UnscoredResponse: ...


class Reward(Protocol):
    async def score(self, request: scoring.ScoreRequest, *, timeout_s: float = ...) -> scoring.ScoreResponse: ...


class Scorer:
    """Used inside one event loop, by the holder of the lease. A score that is written twice counts once."""

    def __init__(
        self,
        log: port.EventLog,
        known: Ledger,
        reward: Reward,
        now: clock.Clock = clock.utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._ledger = known
        self._reward = reward
        self._now = now
        self._monotonic = monotonic
        self._ask_at: dict[tuple[str, str], float] = {}
        self._rounds: dict[tuple[str, str], asyncio.Task[None]] = {}
        # By line, the answers whose scores the ledger may not have read yet.
        self._written: dict[tuple[str, str], frozenset[str]] = {}

    def look(self, release: releases.Release) -> None:
        """Begins a round for the release under way on a line, unless one goes on there, or asking took long lately."""
        key = (release.context.tenant, release.context.line)
        last = self._rounds.get(key)
        if last is not None:
            if not last.done():
                return
            last.result()  # what `_round` does not know of ends the process, as it would anywhere
        if self._monotonic() < self._ask_at.get(key, 0.0):
            return
        self._rounds[key] = asyncio.create_task(self._round(key, release))

    async def stop(self) -> None:
        """Ends the rounds that go on. What they would have written others write."""
        ending = list(self._rounds.values())
        self._rounds.clear()
        for one in ending:
            one.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _round(self, key: tuple[str, str], release: releases.Release) -> None:
        try:
            await self._score(key, release)
        except errors.TrimtabError as problem:
            _log.warning("answers were not scored", release=release.id, reward=release.reward_id, reason=str(problem))

    async def _score(self, key: tuple[str, str], release: releases.Release) -> None:
        asked = ledger.UnscoredRequest(release.context.tenant, release.id, MOST)
        began = self._monotonic()
        listed = (await self._ledger.unscored(asked)).answers
        # of many sessions the ledger takes long to say which lack a score: it is asked less often then
        self._ask_at[key] = pacing.next_at(began, self._monotonic())
        written = self._written.get(key, frozenset()) & {one.completion_id for one in listed}
        waiting = [one for one in listed if one.completion_id not in written]
        if waiting:
            items = tuple(scoring.ScoreItem(one.prompt, one.response) for one in waiting)
            given = await self._reward.score(scoring.ScoreRequest(release.reward_id, items), timeout_s=_SCORE_S)
            if len(given.scores) != len(items):
                raise errors.InternalFault(f"Scoring ({len(given.scores)} scores of {len(items)} answers)")
            records = [
                publish.new_record(topics.SCORES, answer.session_hash, self._record(release, answer, score, given))
                for answer, score in zip(waiting, given.scores, strict=True)
            ]
            await asyncio.wrap_future(self._log.append(records))
        self._written[key] = written | {one.completion_id for one in waiting}

    def _record(
        self,
        release: releases.Release,
        answer: ledger.UnscoredAnswer,
        score: scoring.Score,
        given: scoring.ScoreResponse,
    ) -> scoring.AnswerScore:
        return scoring.AnswerScore(
            completion_id=answer.completion_id,
            context=text.Context(release.context.tenant, release.context.line, session_hash=answer.session_hash),
            release_id=release.id,
            reward_id=release.reward_id,
            loaded_digest=given.loaded_digest,
            at=self._now(),
            outcome=scoring.finite(score.outcome),
        )
