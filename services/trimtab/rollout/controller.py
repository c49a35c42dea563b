"""The reconcile loop: looks at every line, decides with the pure functions, writes the record, and keeps processes.

Run as a task by `rollout.app`. Decisions are in `rollout.intake` (what enters), `rollout.steps` (what happens next) and
`rollout.evidence` (the verdict); this module only observes, writes and asks the backend for processes. Everything it
needs after a crash is in the records; what it remembers itself (since when a process has not answered) may be lost.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from trimtab.core import completions, errors, failpoints, ledger, lines, models, releases
from trimtab.obs import logging, metrics
from trimtab.rollout import backend, desk, intake, line, pacing, scoring, steps

State = releases.ReleaseState
_AWAY = (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.Overloaded, errors.LogUnavailable)
_log = logging.get(__name__)
# Answers what a policy process says about itself, or None when it does not answer.
Describe = Callable[[str], Awaitable[completions.DescribeResponse | None]]


class Ledger(Protocol):
    async def evidence(self, request: ledger.EvidenceRequest, *, timeout_s: float = ...) -> ledger.EvidenceResponse: ...


class Models(Protocol):
    def of_line(self, tenant: str, name: str) -> list[models.PublishedModel]: ...

    async def loaded_digest(self, model_id: str) -> str: ...

    async def led_to(self, model_id: str, at: datetime.datetime) -> releases.Quarantine: ...


@dataclasses.dataclass(slots=True)
class _Memory:
    """What may be lost: of the release under way, and of processes that nobody needs.

    judge_at: on the monotonic clock, when its evidence is looked at next.
    """

    release_id: str = ""
    restarts_before: int = 0
    silent_since: float | None = None
    judge_at: float = 0.0
    unwanted_since: dict[str, float] = dataclasses.field(default_factory=dict)
    released: set[str] = dataclasses.field(default_factory=set)
    # Of replicas, by policy: what they loaded has been seen to be right.
    proven: dict[str, set[str]] = dataclasses.field(default_factory=dict)


class Controller:
    def __init__(
        self,
        *,
        office: desk.Desk,
        configured: Mapping[str, lines.LineConfig],
        shelf: Models,
        processes: backend.Backend,
        evidence: Ledger,
        describe: Describe,
        look_every_s: float,
        scorer: scoring.Scorer | None = None,
        reward_of: intake.RewardOf = intake.no_reward,
    ) -> None:
        """scorer: None where no reward service is known; reward_of then has nothing to choose either."""
        self._desk = office
        self._configured = configured
        self._shelf = shelf
        self._processes = processes
        self._ledger = evidence
        self._describe = describe
        self._look_every_s = look_every_s
        self._scorer = scorer
        self._reward_of = reward_of
        self._memory: dict[tuple[str, str], _Memory] = {}

    async def run(self, stop: asyncio.Event, on_first_look: Callable[[], None]) -> None:
        """Looks until `stop` is set. What is away is waited for; anything else ends the process.

        on_first_look: called once, when the log has been read and the ledger has said who holds the lease.
        """
        first = True
        while not stop.is_set():
            self._desk.wake.clear()
            try:
                await self.look()
            except _AWAY as problem:
                _log.warning("this look was cut short", reason=str(problem))
            else:
                if first and self._desk.lease.answered:
                    on_first_look()
                    first = False
            await _first_of(stop, self._desk.wake, self._look_every_s)
        await self._score_nothing()
        await self._desk.close()

    async def look(self) -> None:
        """One look at every line. Without the lease it only reads."""
        if not await self._desk.lease.renew():
            await self._score_nothing()
            await self._desk.look()
            return
        known = {(config.tenant, config.name) for config in self._configured.values()}
        async with self._desk.deciding():
            await self._desk.heal()
            await self._desk.put_on_trail()
        for tenant, name in sorted(known | self._desk.lines.keys()):
            config = self._configured.get(name)
            owned = config is not None and config.tenant == tenant
            await self._tend(tenant, name, config.release if config and owned else lines.ReleaseConfig())

    async def _tend(self, tenant: str, name: str, config: lines.ReleaseConfig) -> None:
        async with self._desk.deciding():
            await self._take_in(tenant, name, config)
        await self._advance(tenant, name, config)
        await self._keep_serving(tenant, name)

    async def _take_in(self, tenant: str, name: str, config: lines.ReleaseConfig) -> None:
        """New models, the queue, and whose turn it is."""
        published = self._shelf.of_line(tenant, name)
        serving = self._desk.line(tenant, name)
        new = intake.asked_for(serving, published, config, self._desk.now(), self._reward_of(serving))
        if new:
            await self._desk.write(*new)
        ended = intake.superseded(self._desk.line(tenant, name), self._desk.now())
        if ended:
            await self._desk.write(*ended)
        serving = self._desk.line(tenant, name)
        turn = intake.next_turn(serving)
        if turn is not None:
            turn = intake.rescored(turn, serving, self._reward_of(serving))
            await self._desk.write(steps.begin(turn, serving, self._desk.now()))

    async def _advance(self, tenant: str, name: str, config: lines.ReleaseConfig) -> None:
        """The release under way: observed without the lock, since that takes time, moved if still as it was."""
        serving = self._desk.line(tenant, name)
        before = serving.active
        if before is None:
            return
        # a record without terms has no reward model either
        terms = before.terms or lines.unscored(config)
        self._have_scored(before)
        began = time.monotonic()
        try:
            seen = await self._observe(before, serving, terms)
        except (errors.ServiceUnavailable, errors.Overloaded) as problem:
            await self._say_what_is_away(before, str(problem))
            raise
        async with self._desk.deciding():
            now = self._desk.line(tenant, name).active
            if now is None or dataclasses.replace(now, revision=before.revision) != before:
                return
            # in a thread: of many sessions a verdict takes seconds, and the lease has to be kept up
            after = await asyncio.to_thread(steps.step, now, seen, terms)
            if seen.evidence is not None:
                # read whole at every look: what takes long is looked at less often
                self._memory_of(now).judge_at = pacing.next_at(began, time.monotonic())
            if after is not now:
                await self._desk.write(after)
                if after.state is not now.state:
                    self._desk.wake.set()

    async def _say_what_is_away(self, release: releases.Release, words: str) -> None:
        """On the record of the release that waits for it; the next look that succeeds takes it back."""
        async with self._desk.deciding():
            now = self._desk.line(release.context.tenant, release.context.line).active
            if now is not None and now.id == release.id and now.waits_for != words:
                await self._desk.write(dataclasses.replace(now, waits_for=words))

    async def _observe(self, release: releases.Release, serving: line.Line, terms: lines.ReleaseConfig) -> steps.Seen:
        policy_id, problem, digest = steps.subject(release), "", ""
        try:
            digest = await self._shelf.loaded_digest(policy_id)
        except (errors.NotFound, errors.ArtifactCorrupt) as missing:
            problem = str(missing)
        status = await self._ensure(_wanted(policy_id, serving), release)
        described = None if problem else await self._described(status, policy_id, digest)
        return steps.Seen(
            now=self._desk.now(),
            process=status,
            described=described,
            expected_digest=digest,
            problem=problem,
            unhealthy_s=self._silent_for(release, described is not None),
            evidence=await self._evidence(release, terms),
            led_to=await self._led_to(release),
        )

    async def _described(
        self, status: backend.ProcessStatus, policy_id: str, expected_digest: str
    ) -> completions.DescribeResponse | None:
        """What a replica says that is not what it should be, or what all of them say; None while not all answer."""
        said = await asyncio.gather(*(self._describe(replica.address) for replica in status.replicas))
        answers = [one for one in said if one is not None]
        wrong = (one for one in answers if steps.wrong_bytes(policy_id, one, expected_digest))
        return next(wrong, None) or (answers[0] if answers and len(answers) == len(said) else None)

    async def _led_to(self, release: releases.Release) -> releases.Quarantine | None:
        """What goes into quarantine with a release that is found worse; looked up once its traffic is gone."""
        if not steps.found_worse(release):
            return None
        return await self._shelf.led_to(release.candidate_id, self._desk.now())

    async def _ensure(self, wanted: backend.Wanted, release: releases.Release) -> backend.ProcessStatus:
        """The subject's processes, with the restarts since this release began to look at them."""
        memory = self._memory_of(release)
        memory.released.discard(wanted.policy_id)
        status = await asyncio.to_thread(self._processes.ensure, wanted)
        failpoints.reach("rollout.controller.process_wanted")
        looked_at = f"{release.id}/{wanted.policy_id}"
        if memory.release_id != looked_at:
            memory.release_id, memory.restarts_before = looked_at, status.restarts
            memory.silent_since, memory.judge_at = None, 0.0
        return dataclasses.replace(status, restarts=max(0, status.restarts - memory.restarts_before))

    def _silent_for(self, release: releases.Release, answers: bool) -> float:
        memory = self._memory_of(release)
        if answers:
            memory.silent_since = None
            return 0.0
        now = time.monotonic()
        memory.silent_since = now if memory.silent_since is None else memory.silent_since
        return now - memory.silent_since

    async def _evidence(self, release: releases.Release, terms: lines.ReleaseConfig) -> ledger.EvidenceResponse | None:
        if release.state not in releases.WATCHED_STATES:
            return None
        if time.monotonic() < self._memory_of(release).judge_at:
            return None
        request = ledger.evidence_request(release, terms)
        try:
            return await self._ledger.evidence(request)
        except (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.Overloaded) as problem:
            _log.warning("the ledger gave no evidence", release=release.id, reason=str(problem))
            return None

    def _have_scored(self, release: releases.Release) -> None:
        """Begins to, where its answers are guarded by a reward model: this look does not wait for it."""
        if self._scorer is not None and release.reward_id and release.state in releases.WATCHED_STATES:
            self._scorer.look(release)

    async def _score_nothing(self) -> None:
        if self._scorer is not None:
            await self._scorer.stop()

    async def _keep_serving(self, tenant: str, name: str) -> None:
        """Both slots are kept up, addresses that changed are written down, and policies of neither slot are stopped.

        The candidate is wanted once more: what it is may have changed in this look.
        """
        serving = self._desk.line(tenant, name)
        slots = {target.policy_id: target for target in serving.arms}
        moved: dict[str, str] = {}
        for policy_id, target in slots.items():
            address = await self._address_now(_wanted(policy_id, serving), target, serving)
            if address != target.address:
                moved[policy_id] = address
        if moved:
            async with self._desk.deciding():
                await self._write_addresses(self._desk.line(tenant, name), moved)
        await self._stop_others(serving, set(slots))

    async def _address_now(self, wanted: backend.Wanted, target: releases.ArmTarget, serving: line.Line) -> str:
        status = await asyncio.to_thread(self._processes.ensure, wanted)
        if not target.address:
            return ""  # the release under way has yet to see what it loaded
        sound = await self._proven(status, target, serving)
        if status.address == target.address or not status.healthy:
            return target.address
        return status.address if sound else target.address

    async def _proven(self, status: backend.ProcessStatus, target: releases.ArmTarget, serving: line.Line) -> bool:
        """Whether all replicas loaded what is on record. Each is asked once in its life; a wrong one is replaced."""
        memory = self._memory.setdefault((serving.tenant, serving.name), _Memory())
        before = memory.proven.get(target.policy_id, set())
        proven = memory.proven[target.policy_id] = before & {replica.life for replica in status.replicas}
        for replica in status.replicas:
            if replica.life in proven:
                continue
            described = await self._describe(replica.address)
            wrong = described and steps.wrong_bytes(target.policy_id, described, target.loaded_digest)
            if wrong:
                _log.error("a replica is not what is released; it is replaced", replica=replica.name, reason=wrong)
                metrics.ROLLOUT_REPLACED.labels(serving.name).inc()
                await asyncio.to_thread(self._processes.replace, replica)
            elif described is not None:
                proven.add(replica.life)
        return len(proven) == len(status.replicas)

    async def _write_addresses(self, serving: line.Line, moved: dict[str, str]) -> None:
        if serving.head is None:
            return
        arms = tuple(
            dataclasses.replace(target, address=moved.get(target.policy_id, target.address)) for target in serving.arms
        )
        await self._desk.write(dataclasses.replace(serving.head, arms=arms))

    async def _stop_others(self, serving: line.Line, wanted: set[str]) -> None:
        """A little after the last record that named them, so that what is in flight ends first."""
        memory = self._memory.setdefault((serving.tenant, serving.name), _Memory())
        now = time.monotonic()
        for policy_id in {release.candidate_id for release in serving.by_id.values()}:
            if policy_id in wanted:
                memory.unwanted_since.pop(policy_id, None)
                memory.released.discard(policy_id)
            elif policy_id not in memory.released:
                since = memory.unwanted_since.setdefault(policy_id, now)
                if now - since >= steps.SETTLE_S:
                    await asyncio.to_thread(self._processes.release, policy_id, serving.name)
                    failpoints.reach("rollout.controller.process_released")
                    memory.released.add(policy_id)

    def _memory_of(self, release: releases.Release) -> _Memory:
        return self._memory.setdefault((release.context.tenant, release.context.line), _Memory())


def _wanted(policy_id: str, serving: line.Line) -> backend.Wanted:
    active = serving.active
    if policy_id == serving.stable_id:
        role = backend.Role.STABLE
    elif active is not None and steps.subject(active) == policy_id:
        return backend.Wanted(policy_id, serving.name, backend.Role.CANDIDATE, active.id)
    else:
        role = backend.Role.PREVIOUS
    brought_by = serving.of_model(policy_id)
    return backend.Wanted(policy_id, serving.name, role, brought_by[0].id if brought_by else "")


async def _first_of(stop: asyncio.Event, wake: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.create_task(event.wait()) for event in (stop, wake)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await wait
