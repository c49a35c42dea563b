"""What happens in a short storm: a policy is trained and adopted, users vote, the platform trains on the votes and
offers a candidate to users, and in the end a reward model learns from all votes. The operator asks until answered.
"""

import asyncio
import dataclasses
from collections.abc import Callable

from tests.faults.storm import users as people
from tests.faults.storm import world

from trimtab.cli import show
from trimtab.cli.demo import operator
from trimtab.cli.machine import artifacts, platform
from trimtab.core import releases, runs

# How long the operator waits for anything, times its patience.
_LIMIT_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """demonstrations, epochs: of the first policy; votes: that start a cycle."""

    demonstrations: int
    epochs: int
    votes: int
    ppo_iterations: int
    maximum_sessions: int


class Story:
    """storm_is_over: whether all that shall die has died. Users vote until then."""

    def __init__(
        self,
        *,
        layout: platform.Layout,
        operating: operator.Operator,
        users: people.Users,
        screen: show.Screen,
        size: Size,
        storm_is_over: Callable[[], bool],
    ) -> None:
        self._layout, self._operator, self._users, self._screen, self._size = layout, operating, users, screen, size
        self._storm_is_over = storm_is_over

    async def play(self, seed: int) -> None:
        with self._screen.step("a first policy is trained and adopted"):
            first = await self._first_policy(seed)
        over = asyncio.Event()
        voting = asyncio.create_task(self._users.vote_while(lambda: not over.is_set()))
        try:
            with self._screen.step("users vote, a reward model and a candidate learn from it"):
                candidate = await self._operator.eventually("a PPO run", self._candidate_run, _LIMIT_S)
                candidate = await self._operator.finished(candidate, lambda _: None)
            with self._screen.step("users vote on the candidate") as step:
                step.say(platform.describe_release(await self._decided(candidate.model_ids[0])))
                await self._operator.eventually("the end of the storm", self._calm, _LIMIT_S)
        finally:
            over.set()
            await voting
        with self._screen.step("a reward model learns from all votes"):
            await self._operator.eventually("every vote to be joined", self._joined, _LIMIT_S)
            await self._train(runs.RunKind.REWARD, "all votes", parent_id=first, settings_json='{"epochs": 1}')

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
        [policy] = run.model_ids
        await self._operator.adopt(policy, "first policy")
        await self._decided(policy)
        return policy

    async def _train(self, kind: runs.RunKind, label: str, **inputs: str) -> runs.Run:
        spec = runs.RunSpec(world.TENANT, world.LINE, kind, label=label, seed=1, **inputs)
        return await self._operator.finished(await self._operator.start_run(spec), lambda _: None)

    async def _candidate_run(self) -> runs.Run | None:
        """The policy run of the line's cycle, once a reward model was good enough for one."""
        return next((run for run in await self._operator.list_runs() if run.spec.kind is runs.RunKind.PPO), None)

    async def _calm(self) -> bool | None:
        return self._storm_is_over() or None

    async def _decided(self, policy_id: str) -> releases.Release:
        """The newest release of a policy, once it has ended."""

        async def ended() -> releases.Release | None:
            mine = [release for release in await self._operator.history() if release.candidate_id == policy_id]
            return mine[-1] if mine and mine[-1].state in releases.FINAL_STATES else None

        return await self._operator.eventually("the release's end", ended, _LIMIT_S)

    async def _joined(self) -> bool | None:
        return (await self._operator.counts()).joined >= len(self._users.acknowledged.votes) or None
