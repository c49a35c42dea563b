"""Answers a request: check, render, generate, record, then say it. The domain of the policy process.

Called by `policy.servicer`. Each request is worked on by a task of its own, so that its record is written whatever
becomes of the caller: one who goes away frees the slots, and what was generated until then is recorded as cancelled.
"""

import asyncio
import dataclasses
import datetime
import time
from collections.abc import AsyncIterator, Sequence

from trimtab.core import clock, completions, errors, wording
from trimtab.obs import metrics
from trimtab.policy import engine, recorder, validation

# An engine in another process may find out late that it generates nothing.
_REFUSED = (errors.ServiceUnavailable, errors.Overloaded, errors.InvalidField)


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """A request that was taken on."""

    request: completions.CompleteRequest
    assignment: completions.Assignment
    sampling: completions.Sampling
    prompt: tuple[int, ...]
    facts: engine.Facts
    generation: engine.Generation
    created_at: datetime.datetime
    arrived: float


class Answering:
    """`line`: empty, or the only one served."""

    def __init__(
        self,
        served: engine.Engine,
        records: recorder.Recorder,
        *,
        policy_id: str,
        line: str,
        now: clock.Clock = clock.utc_now,
    ) -> None:
        self._engine = served
        self._recorder = records
        self._policy_id = policy_id
        self._line = line
        self._now = now
        self._tasks: set[asyncio.Task[completions.CompleteResponse]] = set()

    async def complete(self, request: completions.CompleteRequest) -> completions.CompleteResponse:
        """All choices at once, recorded. Cancelling this ends the generation."""
        job = await self._take_on(request, stream=False)
        task = self._start(job, None)
        try:
            return await asyncio.shield(task)
        finally:
            job.generation.cancel()

    async def stream(self, request: completions.CompleteRequest) -> AsyncIterator[completions.StreamCompleteResponse]:
        """Text as it comes; the last event has the usage and is sent after the completion was recorded."""
        job = await self._take_on(request, stream=True)
        events: asyncio.Queue[completions.StreamCompleteResponse | None] = asyncio.Queue()
        task = self._start(job, events)
        try:
            while (event := await events.get()) is not None:
                yield event
            await asyncio.shield(task)  # raises what went wrong, if anything did
        finally:
            job.generation.cancel()

    def describe(self) -> completions.DescribeResponse:
        facts = self._engine.facts()
        return completions.DescribeResponse(
            policy_id=self._policy_id,
            loaded_digest=facts.loaded_digest,
            engine=facts.name,
            context_tokens=facts.context_tokens,
            unsupported=facts.unsupported,
        )

    async def close(self) -> None:
        """Waits for the records of what was under way; the engine has ended and cancelled it."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take_on(self, request: completions.CompleteRequest, *, stream: bool) -> _Job:
        arrived, created_at = time.perf_counter(), self._now()
        self._recorder.check()
        facts = self._engine.facts()
        assignment = validation.check(request, self._line, facts)
        prompt = await self._engine.encode(request.messages)
        sampling = validation.resolve(request.sampling, len(prompt), facts)
        generation = self._engine.generate(prompt, sampling, max(request.n, 1), stream=stream)
        return _Job(request, assignment, sampling, prompt, facts, generation, created_at, arrived)

    def _start(
        self, job: _Job, events: asyncio.Queue[completions.StreamCompleteResponse | None] | None
    ) -> asyncio.Task[completions.CompleteResponse]:
        task = asyncio.create_task(self._work(job, events))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if events is not None:
            task.add_done_callback(lambda _: events.put_nowait(None))
        return task

    async def _work(
        self, job: _Job, events: asyncio.Queue[completions.StreamCompleteResponse | None] | None
    ) -> completions.CompleteResponse:
        """Follows the generation to its end and records it."""
        results: dict[int, completions.Response] = {}
        first_token_s = 0.0
        last = None
        try:
            async for piece in job.generation:
                first_token_s = first_token_s or time.perf_counter() - job.arrived
                if piece.result is not None:
                    results[piece.choice] = piece.result
                last = self._event(job, piece)
                if events is not None and len(results) < max(job.request.n, 1) and _tells(last):
                    events.put_nowait(last)
        except _REFUSED as problem:
            if last is None:
                raise  # nothing was generated
            await self._recorder.record(self._completion(job, {}, 0.0))
            raise engine.EngineFailed(str(problem)) from problem
        except Exception:  # whatever the engine failed of: who judges the policy has to see that it did
            await self._recorder.record(self._completion(job, {}, 0.0))
            raise
        completion = self._completion(job, results, first_token_s)
        await self._recorder.record(completion)
        tokens = sum(len(response.token_ids) for response in completion.responses)
        metrics.POLICY_TOKENS.inc(tokens)
        usage = completions.Usage(prompt_tokens=len(job.prompt), completion_tokens=tokens)
        if events is not None and last is not None:
            events.put_nowait(dataclasses.replace(last, usage=usage))
        return completions.CompleteResponse(completion=completion, usage=usage)

    def _event(self, job: _Job, piece: engine.Piece) -> completions.StreamCompleteResponse:
        return completions.StreamCompleteResponse(
            completion_id=job.assignment.completion_id,
            choice=piece.choice,
            delta=piece.delta,
            tokens=piece.tokens,
            policy_id=self._policy_id,
            finish_reason=None if piece.result is None else piece.result.finish_reason,
            detail=piece.detail,
        )

    def _completion(
        self, job: _Job, results: dict[int, completions.Response], first_token_s: float
    ) -> completions.Completion:
        return completions.Completion(
            id=job.assignment.completion_id,
            context=job.assignment.context,
            created_at=job.created_at,
            prompt=job.request.messages,
            prompt_token_ids=job.prompt,
            responses=tuple(results[choice] for choice in sorted(results)),
            origin=completions.Origin.SERVED,
            sampling=job.sampling,
            policy_id=self._policy_id,
            loaded_digest=job.facts.loaded_digest,
            exposure=job.assignment.exposure,
            latency_s=time.perf_counter() - job.arrived,
            time_to_first_token_s=first_token_s,
            engine=job.facts.name,
            measured=_measured(tuple(results.values())),
            segment=job.request.segment,
        )


def _measured(choices: Sequence[completions.Response]) -> completions.Measured:
    if not choices:
        return completions.Measured(failed=True)
    said = [choice.text.read() for choice in choices]
    return completions.Measured(
        tokens=sum(len(choice.token_ids) for choice in choices) / len(choices),
        refused=sum(map(wording.refuses, said)) / len(choices),
        repeats=sum(map(wording.repeats_itself, said)) / len(choices),
    )


def _tells(event: completions.StreamCompleteResponse) -> bool:
    """Whether an event is worth sending: a first piece may have no text yet."""
    return bool(event.delta or event.detail or event.finish_reason)
