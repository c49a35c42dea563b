"""Scores answers: a bounded queue before one thread that puts the requests for one model into one batch.

`reward.servicer` calls `score`; `reward.app` runs `run` in a thread. A value is a value, and what has none says why:
nothing here turns a missing score into a number.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import threading

from trimtab.core import errors, scoring
from trimtab.obs import metrics
from trimtab.reward import catalog, shelf

_IDLE_S = 0.5
# The digest of the model's bytes, and a score per item.
_Answer = concurrent.futures.Future[tuple[str, list[scoring.Score]]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    model_id: str
    items: tuple[scoring.ScoreItem, ...]
    answer: _Answer


class Scoring:
    """max_items: of one request. max_queued: answers that may wait in all. batch: answers of one forward pass."""

    def __init__(
        self, known: catalog.Catalog, loaded: shelf.Shelf, *, max_items: int, max_queued: int, batch: int
    ) -> None:
        self._catalog = known
        self._shelf = loaded
        self._max_items = max_items
        self._max_queued = max_queued
        self._batch = batch
        self._jobs: collections.deque[_Job] = collections.deque()
        self._queued = 0
        self._changed = threading.Condition()

    async def score(self, request: scoring.ScoreRequest) -> scoring.ScoreResponse:
        """One score per item, in order, and the version that gave them.

        InvalidField for too many items, UnknownModel, Overloaded when the queue is full, ArtifactCorrupt.
        """
        if not 0 < len(request.items) <= self._max_items:
            raise errors.InvalidField(
                "items", f"holds {len(request.items)} answers", f"send 1 to {self._max_items} in a request"
            )
        model = self._catalog.resolve(request.model)
        digest, scores = await asyncio.wrap_future(self._enqueue(model.id, request.items))
        return scoring.ScoreResponse(model_id=model.id, scores=tuple(scores), loaded_digest=digest)

    async def list_reward_models(self) -> scoring.ListRewardModelsResponse:
        """Every published reward model, oldest first, and whether it is in memory."""
        return scoring.ListRewardModelsResponse(tuple(self._shelf.status(model) for model in self._catalog.all()))

    def run(self, stop: threading.Event) -> None:
        """Works off the queue until told to stop."""
        while not stop.is_set():
            jobs = self._next()
            if jobs:
                self._answer(jobs)

    def _enqueue(self, model_id: str, items: tuple[scoring.ScoreItem, ...]) -> _Answer:
        job = _Job(model_id, items, concurrent.futures.Future())
        with self._changed:
            if self._queued + len(items) > self._max_queued:
                raise errors.Overloaded(f"{self._queued} answers wait for scores already; retry with back-off.")
            self._jobs.append(job)
            self._count(len(items))
            self._changed.notify()
        return job.answer

    def _next(self) -> list[_Job]:
        """The oldest job and those for the same model, up to a batch; others keep their order."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._jobs), _IDLE_S):
                return []
            taken: list[_Job] = []
            left: collections.deque[_Job] = collections.deque()
            size = 0
            for job in self._jobs:
                fits = not taken or (job.model_id == taken[0].model_id and size + len(job.items) <= self._batch)
                if fits:
                    taken.append(job)
                    size += len(job.items)
                else:
                    left.append(job)
            self._jobs = left
            self._count(-size)
        # a caller whose deadline has passed has cancelled its answer
        return [job for job in taken if job.answer.set_running_or_notify_cancel()]

    def _count(self, items: int) -> None:
        self._queued += items
        metrics.REWARD_QUEUE_ITEMS.set(self._queued)

    def _answer(self, jobs: list[_Job]) -> None:
        try:
            loaded = self._shelf.take(jobs[0].model_id)
        except (errors.ArtifactCorrupt, errors.NotFound) as problem:
            for job in jobs:
                job.answer.set_exception(problem)
            return
        items = [item for job in jobs for item in job.items]
        scores = iter(self._scores(loaded.model, items))
        for job in jobs:
            job.answer.set_result((loaded.digest, [next(scores) for _ in job.items]))

    def _scores(self, model: shelf.RewardModel, items: list[scoring.ScoreItem]) -> list[scoring.Score]:
        reasons = [_reason(item) for item in items]
        scorable = [item for item, reason in zip(items, reasons, strict=True) if not reason]
        values = iter(model.score(scorable, self._batch)) if scorable else iter(())
        scores = [scoring.Score(reason) if reason else next(values) for reason in reasons]
        for score in scores:
            metrics.REWARD_SCORES.labels("unscored" if isinstance(score.outcome, str) else "scored").inc()
        return scores


def _reason(item: scoring.ScoreItem) -> str:
    """Why there is nothing to score, or nothing."""
    if not item.prompt:
        return "no prompt"
    bodies = [message.content.body for message in item.prompt] + [item.response.body]
    if any(not isinstance(body, str) for body in bodies):
        return "sealed text"
    return "empty answer" if not str(item.response.body).strip() else ""
