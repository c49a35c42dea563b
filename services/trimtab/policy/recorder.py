"""Completions onto the log: durable before the answer where the log keeps up, soon after where it does not.

Called by `policy.answering`. An answer is not held hostage by the log: after `wait_s` it is given, and its record waits
here, tried again until the log has it. What waits is bounded: beyond that, new work is refused.
"""

import asyncio
import dataclasses

from trimtab.bus import port, publish, topics
from trimtab.core import completions, errors, failpoints, text
from trimtab.obs import logging, metrics

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_log = logging.get("trimtab.policy.recorder")


class Recorder:
    """wait_s: seconds an answer waits for its record; spool: records that may wait for the log."""

    def __init__(self, log: port.EventLog, *, wait_s: float, spool: int) -> None:
        self._log = log
        self._wait_s = wait_s
        self._limit = spool
        self._spool: set[asyncio.Task[None]] = set()

    def check(self) -> None:
        """LogUnavailable when so many records wait that no new work may be taken on."""
        if len(self._spool) >= self._limit:
            raise errors.LogUnavailable(
                f"{len(self._spool)} completions wait for the event log; nothing was generated, retry later."
            )

    async def record(self, completion: completions.Completion) -> None:
        """Returns once the log has the record, or after `wait_s`; it is kept and tried again in both cases."""
        delivery = asyncio.create_task(self._deliver(stored_form(completion)))
        self._spool.add(delivery)
        metrics.POLICY_SPOOLED.set(len(self._spool))
        delivery.add_done_callback(self._delivered)
        done, _ = await asyncio.wait({delivery}, timeout=self._wait_s)
        for task in done:
            task.result()

    async def close(self, wait_s: float) -> None:
        """Gives what still waits a last chance."""
        if not self._spool:
            return
        _, lost = await asyncio.wait(self._spool, timeout=wait_s)
        for task in lost:
            task.cancel()
        if lost:
            _log.error("the log did not take completions before the end", lost=len(lost))

    async def _deliver(self, completion: completions.Completion) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                failpoints.reach("policy.recorder.before_append")
                appended = publish.publish(self._log, topics.COMPLETIONS, completion.context.session_hash, completion)
                await asyncio.wrap_future(appended)
                failpoints.reach("policy.recorder.appended")
                return
            except (errors.LogUnavailable, errors.Overloaded) as problem:
                _log.warning("the log did not take a completion yet", completion=completion.id, problem=str(problem))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _delivered(self, delivery: asyncio.Task[None]) -> None:
        self._spool.discard(delivery)
        if not delivery.cancelled() and (problem := delivery.exception()) is not None:
            _log.error("a completion cannot be recorded", exc_info=problem)
        metrics.POLICY_SPOOLED.set(len(self._spool))


def stored_form(completion: completions.Completion) -> completions.Completion:
    """What may be kept: no text and nothing text can be read from without consent, never what was for display only."""
    kept = tuple(dataclasses.replace(response, tokens=(), top_logprobs=()) for response in completion.responses)
    if completion.context.store:
        return dataclasses.replace(completion, responses=kept)
    bare = tuple(
        completions.Response(choice=response.choice, text=text.Text(""), finish_reason=response.finish_reason)
        for response in kept
    )
    sampling = completion.sampling and dataclasses.replace(completion.sampling, stop=())
    return dataclasses.replace(completion, prompt=(), prompt_token_ids=(), responses=bare, sampling=sampling)
