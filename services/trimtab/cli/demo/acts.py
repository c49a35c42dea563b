"""What happens in the demo, in order. Operators act through the services' gRPC doors, users through the HTTP API.

Act one: a policy is trained on demonstrations and goes live; users vote; the platform trains a reward model and a
candidate by itself, and the users' votes on its canary decide. Act two: a policy trained on fawning demonstrations is
refused at the gate, forced past it with a reason, and rolled back by the users' votes.
"""

import asyncio
import dataclasses
import functools
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

from trimtab.cli import artifacts, platform, show
from trimtab.cli.demo import report, users, world
from trimtab.core import control, errors, ledger, models, releases, runs

LINE, OPERATOR = "support", "demo operator"
DEMONSTRATIONS, FAWNING, VISITS = 2880, 600, 1400
SAMPLES = 2
FORCE_REASON = "marketing wants users to feel appreciated; watch the canary"
_POLL_S = 0.3
# How often the users are asked for more votes because the reward model was refused.
_REFUSALS = 2
_Found = TypeVar("_Found")


@dataclasses.dataclass(slots=True)
class Outcome:
    """What the demo showed."""

    before: report.Measured
    after: report.Measured
    planted: report.Measured
    promoted: releases.Release
    refused: releases.Release
    forced: releases.Release

    @property
    def act_one(self) -> bool:
        """Promoted by votes, and better on the held-out questions by more than chance."""
        return self.promoted.state is releases.ReleaseState.PROMOTED and report.gain(self.before, self.after)[1] > 0

    @property
    def act_two(self) -> bool:
        """Refused at the gate, and rolled back by votes once forced past it."""
        return (
            self.refused.state is releases.ReleaseState.FAILED
            and self.forced.state is releases.ReleaseState.ROLLED_BACK
            and bool(self.forced.forced_reason)
        )


class Demo:
    """One run of the demo on a running platform. `seed` picks demonstrations, users and training seeds."""

    def __init__(
        self, layout: platform.Layout, doors: platform.Doors, crowd: users.Users, screen: show.Screen, seed: int
    ) -> None:
        self._layout = layout
        self._doors = doors
        self._tenant = doors.facts.tenant
        self._users = crowd
        self._screen = screen
        self._seed = seed
        # what the candidate was trained with: the planted policy is judged by the same evaluation reward model
        self._candidate = runs.RunSpec(self._tenant, LINE, runs.RunKind.PPO)
        self._held_out = world.questions(world.HELD_OUT_WORDINGS)

    async def play(self) -> Outcome:
        self._screen.say("\n[bold]Act one.[/] A policy learns from demonstrations, goes live, and learns from votes.")
        anchor = await self._first_policy()
        before = await self._measure("first policy (SFT)", anchor)
        await self._cycle()
        promoted = await self._canary("the users vote on the candidate")
        after = await self._measure("promoted policy (PPO)", promoted.candidate_id)
        self._screen.say("\n[bold]Act two.[/] A fawning policy is refused, forced, and voted out.")
        planted_id, refused = await self._planted(anchor)
        forced = await self._force(planted_id)
        planted = await self._measure("planted policy (fawning)", planted_id)
        forced = await self._canary("the users vote on the forced policy", forced.id)
        await self._close_books(anchor)
        return Outcome(before, after, planted, promoted, refused, forced)

    async def balance(self) -> report.Balance:
        """The books, once the ledger has caught up with what the users sent."""
        wanted = self._users.books.acknowledged

        async def balanced() -> report.Balance | None:
            counts = await self._counts()
            balance = report.Balance(self._users.books, counts)
            return balance if counts.joined >= wanted and balance.used >= wanted else None

        try:
            return await self._eventually("the books to balance", balanced, 20.0)
        except errors.WrongState:
            return report.Balance(self._users.books, await self._counts())

    async def history(self) -> tuple[releases.Release, ...]:
        request = control.ListReleasesRequest(self._tenant, LINE)
        return tuple(reversed(await self._doors.rollout.list_releases(request, timeout_s=10)))

    async def _first_policy(self) -> str:
        with self._screen.step(f"training a first policy on {DEMONSTRATIONS:,} demonstrations") as step:
            pairs = world.demonstrations(self._seed, DEMONSTRATIONS)
            texts = [text for pair in pairs for text in (pair.question, pair.answer)]
            base = await asyncio.to_thread(
                artifacts.publish_tiny_base, self._layout, texts, self._tenant, LINE, self._seed
            )
            dataset = await self._publish_demonstrations("demonstrations.jsonl", pairs)
            run = await self._run(
                runs.RunSpec(
                    self._tenant,
                    LINE,
                    runs.RunKind.SFT,
                    parent_id=base,
                    dataset_id=dataset,
                    seed=self._seed,
                    label="first policy",
                ),
                step,
            )
        with self._screen.step("the operator adopts it as the line's first policy") as step:
            adopted = await self._doors.rollout.adopt(
                control.AdoptRequest(self._tenant, LINE, run.model_ids[0], OPERATOR, "first policy of the demo"),
                timeout_s=30,
            )
            await self._until_final(adopted.id, step)
        return run.model_ids[0]

    async def _cycle(self) -> None:
        """Users vote, and the platform trains by itself. More votes when the reward model is refused at its gates."""
        for refused in range(_REFUSALS + 1):
            await self._collect()
            reward = await self._watch_triggered(runs.RunKind.REWARD, "a reward model learns from the votes", refused)
            problem = await self._problem_at_the_gates(reward)
            if not problem:
                break
            self._screen.say(f"    The platform does not train on it: {problem}")
        else:
            raise errors.WrongState(f"No reward model passed its gates, the last one because of {problem}.")
        policy = await self._watch_triggered(runs.RunKind.PPO, "PPO trains a candidate against it")
        self._candidate = policy.spec
        if problem := await self._problem_at_the_gates(policy):
            raise errors.WrongState(f"The candidate was refused at its gates: {problem}.")

    async def _collect(self) -> None:
        with self._screen.step(f"{VISITS} users ask, compare and vote") as step:
            books = self._users.books
            await self._users.collect(VISITS, lambda: step.say(f"{books.acknowledged} votes acknowledged"))

    async def _watch_triggered(self, kind: runs.RunKind, name: str, earlier: int = 0) -> runs.Run:
        """The run of this kind that the votes started by themselves, once it has ended; `earlier` ones are passed."""
        with self._screen.step(name) as step:
            probe = functools.partial(self._triggered, kind, earlier)
            run = await self._eventually(f"a {kind.value} run", probe, 60.0)
            return await platform.finished(self._doors, run, step.say)

    async def _problem_at_the_gates(self, run: runs.Run) -> str:
        """Why what a run made may not be used, in the gates' own words; empty when it may."""
        detail = await self._doors.trainer.get_run(runs.GetRunRequest(self._tenant, run.id), timeout_s=10)
        decides = [model for model in detail.models if model.kind is not models.ModelKind.EVALUATION_REWARD]
        return "; ".join(gate.in_words() for model in decides for gate in model.gates if not gate.passed)

    async def _triggered(self, kind: runs.RunKind, earlier: int = 0) -> runs.Run | None:
        listed = await self._doors.trainer.list_runs(runs.ListRunsRequest(self._tenant, LINE), timeout_s=10)
        of_kind = [run for run in listed if run.spec.kind is kind]
        return of_kind[earlier] if len(of_kind) > earlier else None

    async def _canary(self, name: str, release_id: str = "") -> releases.Release:
        """Users vote until the newest release of the line (or the one named) is decided."""
        with self._screen.step(name) as step:
            latest = await self._eventually("a release", lambda: self._newest(release_id), 60.0)
            step.say("its process starts")
            await self._eventually("its process", lambda: self._serving(latest.id), 120.0)
            watching = asyncio.create_task(self._until_final(latest.id, step))
            await self._users.vote_while(lambda: not watching.done(), lambda: None)
            return await watching

    async def _newest(self, release_id: str) -> releases.Release | None:
        for release in reversed(await self.history()):
            if release.id == release_id or (not release_id and release.stable_id):
                return release
        return None

    async def _planted(self, anchor: str) -> tuple[str, releases.Release]:
        with self._screen.step(f"training on {FAWNING} fawning demonstrations") as step:
            pairs = world.fawning_demonstrations(self._seed, FAWNING)
            dataset = await self._publish_demonstrations("fawning.jsonl", pairs)
            run = await self._run(
                runs.RunSpec(
                    self._tenant,
                    LINE,
                    runs.RunKind.SFT,
                    parent_id=anchor,
                    reference_id=anchor,
                    evaluation_reward_id=self._candidate.evaluation_reward_id,
                    dataset_id=dataset,
                    seed=self._seed,
                    label="planted policy",
                    settings_json=json.dumps({"epochs": 2}),
                ),
                step,
            )
        with self._screen.step("the gate judges it") as step:
            refused = await self._eventually("the gate's refusal", lambda: self._release_of(run.model_ids[0]), 30.0)
            step.say(refused.history[-1].reason)
        return run.model_ids[0], refused

    async def _release_of(self, model_id: str) -> releases.Release | None:
        found = [release for release in await self.history() if release.candidate_id == model_id]
        return found[-1] if found and found[-1].state in releases.FINAL_STATES else None

    async def _force(self, model_id: str) -> releases.Release:
        with self._screen.step("the operator forces it past the gate, with a reason") as step:
            step.say(f"“{FORCE_REASON}”")
            request = control.StartReleaseRequest(self._tenant, LINE, model_id, OPERATOR, FORCE_REASON)
            forced = await self._doors.rollout.start_release(request, timeout_s=30)
            return await self._eventually("the forced policy to serve", lambda: self._serving(forced.id), 60.0)

    async def _serving(self, release_id: str) -> releases.Release | None:
        release = await self._get(release_id)
        early = (releases.ReleaseState.PENDING, releases.ReleaseState.VERIFYING)
        return None if release.state in early else release

    async def _close_books(self, anchor: str) -> None:
        """The votes on the canaries reach a data set too: the reward model is trained anew on everything."""
        with self._screen.step("the reward model learns from all votes") as step:
            wanted = self._users.books.acknowledged

            async def joined() -> bool | None:
                return (await self._counts()).joined >= wanted or None

            await self._eventually("every vote to be joined", joined, 30.0)
            await self._run(
                runs.RunSpec(
                    self._tenant,
                    LINE,
                    runs.RunKind.REWARD,
                    parent_id=anchor,
                    seed=self._seed + 1,
                    label="all votes",
                    settings_json=json.dumps({"epochs": 1}),
                ),
                step,
            )

    async def _measure(self, name: str, policy_id: str) -> report.Measured:
        with self._screen.step(f"held-out questions to the {name}") as step:
            model = f"{LINE}@{policy_id}"

            async def served() -> bool | None:
                return await self._users.can_ask(model) or None

            # the rollout controller's word reaches the gateway by the log, a moment later
            await self._eventually("the gateway to serve it", served, 10.0)
            judgements = await self._users.judge(self._held_out, model, SAMPLES)
            measured = report.Measured(name, judgements)
            step.say(f"approval {measured.row()[1]}")
        return measured

    async def _publish_demonstrations(self, name: str, pairs: list[world.Demonstration]) -> str:
        lines = (json.dumps({"prompt": pair.question, "response": pair.answer}) for pair in pairs)
        path = self._layout.state / name
        path.write_text("\n".join(lines) + "\n")
        return await asyncio.to_thread(artifacts.publish_dataset, self._layout, path, self._tenant, LINE)

    async def _run(self, spec: runs.RunSpec, step: show.Step) -> runs.Run:
        run = await self._doors.trainer.start_run(runs.StartRunRequest(spec, OPERATOR), timeout_s=30)
        return await platform.finished(self._doors, run, step.say)

    async def _until_final(self, release_id: str, step: show.Step) -> releases.Release:
        while True:
            release = await self._get(release_id)
            step.say(platform.describe_release(release))
            if release.state in releases.FINAL_STATES:
                return release
            await asyncio.sleep(_POLL_S)

    async def _get(self, release_id: str) -> releases.Release:
        request = control.GetReleaseRequest(self._tenant, release_id)
        return await self._doors.rollout.get_release(request, timeout_s=10)

    async def _counts(self) -> ledger.CountsResponse:
        return await self._doors.ledger.counts(ledger.CountsRequest(self._tenant, LINE), timeout_s=10)

    @staticmethod
    async def _eventually(what: str, probe: Callable[[], Awaitable[_Found | None]], limit_s: float) -> _Found:
        """What `probe` finds, asked again and again; WrongState says `what` did not come within `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                found = await probe()
                while found is None:
                    await asyncio.sleep(_POLL_S)
                    found = await probe()
        except TimeoutError:
            raise errors.WrongState(f"The demo waited {limit_s:.0f} s in vain for {what}.") from None
        return found
