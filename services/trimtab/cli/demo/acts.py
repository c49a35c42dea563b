"""What happens in the demo, in order. Operators act through the services' gRPC doors, users through the HTTP API.

Act one: a policy is trained on demonstrations and goes live; users vote; the platform trains a reward model and a
candidate by itself, and the users' votes on its canary decide; after one that is not proven it goes on with the next.
Then again, from the policy that serves now; this time users also correct what is wrong. Act two: a candidate that
changes nothing is not proven; a policy trained on fawning demonstrations is refused at the gate, forced past it with a
reason, and rolled back by the users' votes.
"""

import asyncio
import dataclasses
import itertools
import json

from trimtab.cli import show
from trimtab.cli.demo import operator, report, users, world
from trimtab.cli.machine import artifacts, platform
from trimtab.core import errors, models, releases, runs

LINE = "support"
Verdict = releases.Verdict
DEMONSTRATIONS, FAWNING = 2880, 600
ROUNDS = ("round one", "round two")
SAMPLES = 2
FORCE_REASON = "marketing wants users to feel appreciated; watch the canary"
# So little that users do not notice, and enough to be a policy of its own.
_SMALL_LR = 1e-5
# Until so many votes have come that the platform trains on them.
_COLLECTING_LIMIT_S = 300.0
# How often the users are asked for more votes because the reward model was refused.
_REFUSALS = 2
# How many candidates a round may take until one is promoted.
_CANDIDATES = 3
# How many small steps are tried: a gate that is right 39 times in 40 refuses the others.
_SMALL_STEPS = 3


@dataclasses.dataclass(slots=True)
class Outcome:
    """What the demo showed."""

    learned: tuple[report.Measured, ...]
    idle: report.Measured
    planted: report.Measured
    promoted: tuple[releases.Release, ...]
    unproven: releases.Release
    refused: releases.Release
    forced: releases.Release

    @property
    def policies(self) -> tuple[report.Measured, ...]:
        """All that were measured, in the order they were made. `learned` begins with the first policy."""
        return (*self.learned, self.idle, self.planted)

    @property
    def act_one(self) -> bool:
        """Promoted by votes in each round, and each better on the held-out questions by more than chance."""
        return (
            len(self.promoted) == len(ROUNDS)
            and all(_decided(release, releases.ReleaseState.PROMOTED, Verdict.BETTER) for release in self.promoted)
            and all(report.gain(before, after)[1] > 0 for before, after in itertools.pairwise(self.learned))
        )

    @property
    def nothing_new(self) -> bool:
        """What changes nothing passed the gates and was not proven by votes."""
        return _decided(self.unproven, releases.ReleaseState.NOT_PROVEN, Verdict.NOT_PROVEN)

    @property
    def act_two(self) -> bool:
        """Refused at the gate, and rolled back by votes once forced past it."""
        return (
            self.refused.state is releases.ReleaseState.FAILED
            and _decided(self.forced, releases.ReleaseState.ROLLED_BACK, Verdict.WORSE)
            and bool(self.forced.forced_reason)
        )


def _decided(release: releases.Release, state: releases.ReleaseState, verdict: Verdict) -> bool:
    """Whether a release ended so, and users' votes were the reason."""
    return release.state is state and release.evidence is not None and release.evidence.verdict is verdict


class Demo:
    """One run of the demo on a running platform. `seed` picks demonstrations, users and training seeds."""

    def __init__(
        self,
        layout: platform.Layout,
        operating: operator.Operator,
        crowd: users.Users,
        screen: show.Screen,
        seed: int,
    ) -> None:
        self._layout = layout
        self._operator = operating
        self._tenant = operating.tenant
        self._users = crowd
        self._screen = screen
        self._seed = seed
        # what the newest candidate was trained with: what operators train is judged by the same evaluation reward model
        self._candidate = runs.RunSpec(self._tenant, LINE, runs.RunKind.PPO)
        # runs that the platform started by itself and that were watched to their end
        self._watched: set[str] = set()
        self._held_out = world.questions(world.HELD_OUT_WORDINGS)

    async def play(self) -> Outcome:
        self._screen.say(
            "\n[bold]Act one.[/] A policy learns from demonstrations and goes live; its users teach it twice."
        )
        anchor = await self._first_policy()
        learned, promoted = [await self._measure("first policy (SFT)", anchor, 0.0)], []
        for name, correcting in zip(ROUNDS, (0.0, users.CORRECTING), strict=True):
            candidate, release = await self._round(name, correcting)
            promoted.append(release)
            learned.append(
                await self._measure(
                    f"policy of {name} (PPO)", candidate.model_ids[0], await self._kl_to_anchor(candidate)
                )
            )
        self._screen.say("\n[bold]Act two.[/] What is not better does not stay.")
        idle, unproven = await self._nothing_new(anchor, promoted[-1].candidate_id)
        planted_run, refused = await self._planted(anchor)
        forced = await self._force(planted_run.model_ids[0])
        planted = await self._measure(
            "planted policy (fawning)", planted_run.model_ids[0], await self._kl_to_anchor(planted_run)
        )
        forced = await self._canary("the users vote on the forced policy", forced.candidate_id)
        await self._close_books(anchor)
        return Outcome(tuple(learned), idle, planted, tuple(promoted), unproven, refused, forced)

    async def balance(self) -> report.Balance:
        """The books, once the ledger has caught up with what the users sent."""
        wanted = self._users.books.acknowledged

        async def balanced() -> report.Balance | None:
            counts = await self._operator.counts()
            balance = report.Balance(self._users.books, counts)
            return balance if counts.joined >= wanted and balance.used >= wanted else None

        try:
            return await self._operator.eventually("the books to balance", balanced, 20.0)
        except errors.WrongState:
            return report.Balance(self._users.books, await self._operator.counts())

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
            adopted = await self._operator.adopt(run.model_ids[0], "first policy of the demo")
            await self._operator.ended(adopted, step.say)
        return run.model_ids[0]

    async def _round(self, name: str, correcting: float) -> tuple[runs.Run, releases.Release]:
        """Cycle after cycle until the users' votes promote a candidate; its run and its release."""
        for _ in range(_CANDIDATES):
            candidate = await self._cycle(name, correcting)
            release = await self._canary(f"{name}: the users vote on the candidate", candidate.model_ids[0])
            if release.state is releases.ReleaseState.PROMOTED:
                return candidate, release
            self._screen.say("    The loop goes on: the next candidate learns from what was said meanwhile, too.")
        raise errors.WrongState(f"No candidate was promoted, the last one because: {release.history[-1].reason}")

    async def _cycle(self, name: str, correcting: float) -> runs.Run:
        """Users vote until the platform trains by itself; its policy run. More votes when a reward model is refused."""
        for _ in range(_REFUSALS + 1):
            reward = await self._collect(name, correcting)
            await self._watch(reward, f"{name}: a reward model learns from all feedback")
            problem = await self._problem_at_the_gates(reward)
            if not problem:
                break
            self._screen.say(f"    The platform does not train on it: {problem}")
        else:
            raise errors.WrongState(f"No reward model passed its gates, the last one because of {problem}.")
        policy = await self._operator.eventually("a policy run", lambda: self._triggered(runs.RunKind.PPO), 60.0)
        policy = await self._watch(policy, f"{name}: PPO trains a candidate against it")
        self._candidate = policy.spec
        return policy

    async def _collect(self, name: str, correcting: float) -> runs.Run:
        """Users come until the platform has heard enough to start a reward run; that run."""
        what = "users ask, compare, vote and correct" if correcting else "users ask, compare and vote"
        with self._screen.step(f"{name}: {what}") as step:
            books = self._users.books
            started = self._operator.eventually(
                "a reward run", lambda: self._triggered(runs.RunKind.REWARD), _COLLECTING_LIMIT_S
            )
            waiting = asyncio.create_task(started)
            await self._users.visit_while(
                lambda: not waiting.done(),
                comparing=users.COMPARING,
                correcting=correcting,
                progress=lambda: step.say(f"{books.acknowledged} votes acknowledged"),
            )
            return await waiting

    async def _watch(self, run: runs.Run, name: str) -> runs.Run:
        """A run that the platform started by itself, once it has ended."""
        self._watched.add(run.id)
        with self._screen.step(name) as step:
            return await self._operator.finished(run, step.say)

    async def _problem_at_the_gates(self, run: runs.Run) -> str:
        """Why what a run made may not be used, in the gates' own words; empty when it may."""
        return "; ".join(gate.in_words() for gate in await self._gates(run) if not gate.passed)

    async def _kl_to_anchor(self, run: runs.Run) -> float | None:
        """KL of what the run made to the anchor, nats per answer, as its gate measured it."""
        return next((gate.value for gate in await self._gates(run) if gate.name == "kl_to_anchor"), None)

    async def _gates(self, run: runs.Run) -> list[models.GateFigure]:
        detail = await self._operator.get_run(run.id)
        decides = [model for model in detail.models if model.kind is not models.ModelKind.EVALUATION_REWARD]
        return [gate for model in decides for gate in model.gates]

    async def _triggered(self, kind: runs.RunKind) -> runs.Run | None:
        triggered = [run for run in await self._operator.list_runs() if run.asked_by == runs.TRIGGER]
        return next((run for run in triggered if run.spec.kind is kind and run.id not in self._watched), None)

    async def _canary(self, name: str, policy_id: str) -> releases.Release:
        """Users vote until the newest release of the policy is decided."""
        with self._screen.step(name) as step:
            latest = await self._operator.offered(policy_id)
            step.say("its process starts")
            serving = await self._operator.until_serving(latest.id)
            watching = asyncio.create_task(self._operator.ended(serving, step.say))
            await self._users.visit_while(lambda: not watching.done())
            return await watching

    async def _nothing_new(self, anchor: str, live: str) -> tuple[report.Measured, releases.Release]:
        """A candidate that is the live policy after one small step on what it knows already. The gates let it pass."""
        name = "policy of one small step"
        for seed in range(self._seed, self._seed + _SMALL_STEPS):
            run, release = await self._small_step(name, seed, anchor, live)
            if release.state is not releases.ReleaseState.FAILED:
                break
            self._screen.say(f"    The gates do not let it pass, by chance: {release.history[-1].reason}")
        else:
            raise errors.WrongState(
                f"No small step passed the gates, the last one because: {release.history[-1].reason}"
            )
        measured = await self._measure(name, run.model_ids[0], await self._kl_to_anchor(run))
        return measured, await self._canary("the users vote on the small step", run.model_ids[0])

    async def _small_step(self, name: str, seed: int, anchor: str, live: str) -> tuple[runs.Run, releases.Release]:
        """A run of one small step, and its release once it serves or was refused."""
        with self._screen.step("an operator trains the live policy one small step further, on nothing new") as step:
            spec = dataclasses.replace(
                self._candidate,
                parent_id=live,
                reference_id=anchor,
                seed=seed,
                label=name,
                settings_json=json.dumps({"iterations": 1, "lr": _SMALL_LR}),
            )
            run = await self._run(spec, step)
        with self._screen.step("the canary of the small step starts") as step:
            release = await self._operator.offered(run.model_ids[0])
            release = await self._operator.until_serving(release.id)
            step.say(release.state.value)
        return run, release

    async def _planted(self, anchor: str) -> tuple[runs.Run, releases.Release]:
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
            refused = await self._operator.offered(run.model_ids[0])
            step.say(refused.history[-1].reason)
        return run, refused

    async def _force(self, model_id: str) -> releases.Release:
        with self._screen.step("the operator forces it past the gate, with a reason") as step:
            step.say(f"“{FORCE_REASON}”")
            forced = await self._operator.force(model_id, FORCE_REASON)
            return await self._operator.until_serving(forced.id)

    async def _close_books(self, anchor: str) -> None:
        """The votes on the canaries reach a data set too: the reward model is trained anew on everything."""
        with self._screen.step("the reward model learns from all votes") as step:
            wanted = self._users.books.acknowledged

            async def joined() -> bool | None:
                return (await self._operator.counts()).joined >= wanted or None

            await self._operator.eventually("every vote to be joined", joined, 30.0)
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

    async def _measure(self, name: str, policy_id: str, kl_to_anchor: float | None) -> report.Measured:
        with self._screen.step(f"held-out questions to the {name}") as step:
            model = f"{LINE}@{policy_id}"

            async def served() -> bool | None:
                return await self._users.can_ask(model) or None

            # the rollout controller's word reaches the gateway by the log, a moment later
            await self._operator.eventually("the gateway to serve it", served, 10.0)
            judgements = await self._users.judge(self._held_out, model, SAMPLES)
            measured = report.Measured(name, judgements, kl_to_anchor)
            step.say(f"approval {measured.row()[1]}")
        return measured

    async def _publish_demonstrations(self, name: str, pairs: list[world.Demonstration]) -> str:
        lines = (json.dumps({"prompt": pair.question, "response": pair.answer}) for pair in pairs)
        path = self._layout.state / name
        path.write_text("\n".join(lines) + "\n")
        return await asyncio.to_thread(artifacts.publish_dataset, self._layout, path, self._tenant, LINE)

    async def _run(self, spec: runs.RunSpec, step: show.Step) -> runs.Run:
        return await self._operator.finished(await self._operator.start_run(spec), step.say)
