"""What happens in a short storm: a policy is trained and adopted, users vote, the platform trains on the votes and
offers a candidate to users, and in the end a reward model learns from all votes. The operator asks until answered.
"""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.faults.storm import users as people
from tests.faults.storm import world

from trimtab.cli import show
from trimtab.cli.machine import artifacts, platform
from trimtab.core import control, errors, ledger, releases, runs

OPERATOR = "storm"
_AWAY = (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.Overloaded, errors.LogUnavailable)
_POLL_S = 0.3
_Answer = TypeVar("_Answer")


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """demonstrations, epochs: of the first policy; votes: that start a cycle; patience_s: of everybody, each time."""

    demonstrations: int
    epochs: int
    votes: int
    ppo_iterations: int
    maximum_sessions: int
    patience_s: float


class Story:
    """storm_is_over: whether all that shall die has died. Users vote until then."""

    def __init__(
        self,
        *,
        layout: platform.Layout,
        doors: platform.Doors,
        users: people.Users,
        screen: show.Screen,
        size: Size,
        storm_is_over: Callable[[], bool],
    ) -> None:
        self._layout, self._doors, self._users, self._screen, self._size = layout, doors, users, screen, size
        self._storm_is_over = storm_is_over

    async def play(self, seed: int) -> list[releases.Release]:
        """The line's releases, oldest first, all of them ended."""
        with self._screen.step("a first policy is trained and adopted"):
            first = await self._first_policy(seed)
        over = asyncio.Event()
        voting = asyncio.create_task(self._users.vote_while(lambda: not over.is_set()))
        try:
            with self._screen.step("users vote, a reward model and a candidate learn from it"):
                candidate = await self._until("a PPO run", self._candidate_run)
                await self._finished(candidate)
            with self._screen.step("users vote on the candidate") as step:
                step.say(platform.describe_release(await self._until("the release's end", self._decided)))
                await self._until("the end of the storm", self._calm)
        finally:
            over.set()
            await voting
        with self._screen.step("a reward model learns from all votes"):
            await self._until("every vote to be joined", self._joined)
            await self._train(runs.RunKind.REWARD, "all votes", parent_id=first, settings_json='{"epochs": 1}')
        return await self._releases()

    async def counts(self) -> ledger.CountsResponse:
        request = ledger.CountsRequest(world.TENANT, world.LINE)
        return await self._patiently(lambda: self._doors.ledger.counts(request, timeout_s=10))

    async def all_runs(self) -> tuple[runs.Run, ...]:
        request = runs.ListRunsRequest(world.TENANT, world.LINE)
        return await self._patiently(lambda: self._doors.trainer.list_runs(request, timeout_s=10))

    async def _first_policy(self, seed: int) -> str:
        pairs = world.demonstrations(self._size.demonstrations, seed)
        store = artifacts.open_registry(self._layout)
        base = await asyncio.to_thread(world.publish_base, store, [text for pair in pairs for text in pair], seed)
        path = self._layout.state / "demonstrations.jsonl"
        world.write_demonstrations(path, pairs)
        dataset = await asyncio.to_thread(artifacts.publish_dataset, self._layout, path, world.TENANT, world.LINE)
        settings = f'{{"epochs": {self._size.epochs}, "batch": 16}}'
        run = await self._train(
            runs.RunKind.SFT, "first policy", parent_id=base, dataset_id=dataset, settings_json=settings
        )
        request = control.AdoptRequest(world.TENANT, world.LINE, run.model_ids[0], OPERATOR, "first policy")
        await self._patiently(lambda: self._doors.rollout.adopt(request, timeout_s=30))
        await self._until("the adoption", self._decided)
        return run.model_ids[0]

    async def _train(self, kind: runs.RunKind, label: str, **inputs: str) -> runs.Run:
        """A run that is asked for once, whatever becomes of the answer: it is known by its label."""
        spec = runs.RunSpec(world.TENANT, world.LINE, kind, label=label, seed=1, **inputs)
        request = runs.StartRunRequest(spec, OPERATOR)

        async def asked() -> runs.Run:
            known = [run for run in await self.all_runs() if run.spec.label == label]
            return known[0] if known else await self._doors.trainer.start_run(request, timeout_s=30)

        return await self._finished(await self._patiently(asked))

    async def _finished(self, run: runs.Run) -> runs.Run:
        return await platform.finished(self._doors, run, lambda _: None, away_limit_s=self._size.patience_s)

    async def _candidate_run(self) -> runs.Run | None:
        """The policy run of the line's cycle, once a reward model was good enough for one."""
        return next((run for run in await self.all_runs() if run.spec.kind is runs.RunKind.PPO), None)

    async def _calm(self) -> bool | None:
        return self._storm_is_over() or None

    async def _releases(self) -> list[releases.Release]:
        request = control.ListReleasesRequest(world.TENANT, world.LINE)
        listed = await self._patiently(lambda: self._doors.rollout.list_releases(request, timeout_s=10))
        return list(reversed(listed))

    async def _decided(self) -> releases.Release | None:
        """The release of the newest policy, once it has ended."""
        policies = [run.model_ids[0] for run in await self.all_runs() if run.model_ids and _makes_policy(run)]
        mine = [release for release in await self._releases() if release.candidate_id == policies[-1]]
        return mine[-1] if mine and mine[-1].state in releases.FINAL_STATES else None

    async def _joined(self) -> bool | None:
        return (await self.counts()).joined >= len(self._users.acknowledged.votes) or None

    async def _patiently(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        deadline = time.monotonic() + self._size.patience_s
        while True:
            try:
                return await ask()
            except _AWAY:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_S)

    async def _until(self, what: str, probe: Callable[[], Awaitable[_Answer | None]]) -> _Answer:
        deadline = time.monotonic() + self._size.patience_s
        while (found := await probe()) is None:
            if time.monotonic() > deadline:
                raise errors.WrongState(f"It waited {self._size.patience_s:.0f} s in vain for {what}.")
            await asyncio.sleep(_POLL_S)
        return found


def _makes_policy(run: runs.Run) -> bool:
    return run.spec.kind is not runs.RunKind.REWARD
