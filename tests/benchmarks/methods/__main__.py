"""Every method that makes a policy, from the same first policy and the same votes, judged by the demo's hidden taste.

    make bench SUITE=methods            # the table into docs/benchmarks/methods.md, a report of each run beside it
    python -m tests.benchmarks.methods --seed 2 --output FOLDER

One platform: a first policy from demonstrations, users who compare and vote on its answers, a reward model from their
votes. Then, from that policy, that data set and that reward model, one run of each method; and, for the same number of
acts of people, a policy from more demonstrations alone. Every policy answers the same held-out questions.
"""

import argparse
import asyncio
import dataclasses
import datetime
import json
import pathlib
import statistics
import tempfile
from collections.abc import Sequence

import torch

from trimtab.cli import show
from trimtab.cli.demo import operator, report, taste, users, world
from trimtab.cli.machine import artifacts, platform
from trimtab.cli.models import reporting
from trimtab.core import runs, text
from trimtab.core import statistics as intervals
from trimtab.modeling import decoder, loading
from trimtab.trainer import recipes
from trimtab.trainer.data import encoding

TENANT, LINE = "demo", "support"
DEMONSTRATIONS, VOTES, SAMPLES = 2880, 1300, 2
LINES = """\
[lines.support]
tenant = "demo"
[lines.support.trigger]
examples = 0
[lines.support.training.sft]
optimizer = "muon"
lr = 6e-3
matrix_lr = 6e-3
epochs = 5
batch = 24
[lines.support.training.reward]
lr = 1e-3
train_embeddings = false
surprise = true
epochs = 2
"""
# What each method is given beside its defaults: those of a policy of half a million weights.
_OWN_ANSWERS = {"iterations": 10, "lr": 1.5e-3}
METHODS: dict[runs.RunKind, dict[str, float]] = {
    runs.RunKind.PPO: {**_OWN_ANSWERS, "critic_lr": 2e-3},
    runs.RunKind.A2C: {**_OWN_ANSWERS, "critic_lr": 2e-3},
    runs.RunKind.RLOO: _OWN_ANSWERS,
    runs.RunKind.GRPO: _OWN_ANSWERS,
    runs.RunKind.DPO: {"lr": 2e-4, "epochs": 2},
    runs.RunKind.KTO: {"lr": 1e-3, "epochs": 3},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A policy with the run that made it and what it says to the held-out questions.

    wins: of each question, how probably a user prefers its answer to the first policy's. tokens: mean of an answer.
    """

    name: str
    run: runs.Run
    measured: report.Measured
    wins: Sequence[float]
    tokens: float

    @property
    def seconds(self) -> float:
        assert self.run.started_at and self.run.ended_at
        return (self.run.ended_at - self.run.started_at).total_seconds()

    def row(self, first: report.Measured) -> tuple[str, ...]:
        approval, low, high = intervals.mean_interval(self.measured.approvals)
        gain, gain_low, gain_high = report.gain(first, self.measured)
        win, win_low, win_high = intervals.mean_interval(list(self.wins))
        kl = "" if self.measured.kl_to_anchor is None else f"{self.measured.kl_to_anchor:.1f}"
        return (
            self.name,
            f"{approval:.3f} ({low:.3f} to {high:.3f})",
            f"{gain:+.3f} ({gain_low:+.3f} to {gain_high:+.3f})",
            f"{win:.3f} ({win_low:.3f} to {win_high:.3f})",
            kl,
            f"{self.tokens:.1f}",
            f"{self.seconds:.0f}",
        )


class Bench:
    """The acts of one comparison on a running platform."""

    def __init__(
        self, layout: platform.Layout, operating: operator.Operator, crowd: users.Users, screen: show.Screen, seed: int
    ) -> None:
        self._layout, self._operator, self._users, self._screen, self._seed = layout, operating, crowd, screen, seed
        self._questions = world.questions(world.HELD_OUT_WORDINGS)

    async def play(self) -> list[Made]:
        """The first policy, and every policy made from it."""
        shown = world.demonstrations(self._seed, DEMONSTRATIONS + VOTES)
        base = await asyncio.to_thread(
            artifacts.publish_tiny_base,
            self._layout,
            [words for pair in shown[:DEMONSTRATIONS] for words in (pair.question, pair.answer)],
            TENANT,
            LINE,
            self._seed,
        )
        few, more = [await self._published(shown[:count]) for count in (DEMONSTRATIONS, DEMONSTRATIONS + VOTES)]
        first = await self._run(runs.RunKind.SFT, "first policy", parent_id=base, dataset_id=few)
        anchor = first.model_ids[0]
        with self._screen.step("the operator adopts it"):
            await self._operator.ended(await self._operator.adopt(anchor, "where every method starts"), lambda _: None)
        await self._vote()
        judged = await self._run(runs.RunKind.REWARD, "reward model", parent_id=anchor)
        inputs = {
            "parent_id": anchor,
            "reference_id": anchor,
            "dataset_id": judged.spec.dataset_id,
            "evaluation_reward_id": judged.model_ids[1],
        }
        made = [await self._made("first policy", first, [])]
        answers = made[0].measured.judgements
        again = {**inputs, "parent_id": base, "dataset_id": more}
        run = await self._run(runs.RunKind.SFT, f"{VOTES:,} more demonstrations", **again)
        made.append(await self._made(f"sft, {VOTES:,} more demonstrations", run, answers))
        for kind, settings in METHODS.items():
            reward = {"reward_id": judged.model_ids[0]} if "reward_id" in recipes.METHODS[kind].needs else {}
            run = await self._run(kind, f"by {kind.value}", settings_json=json.dumps(settings), **inputs, **reward)
            made.append(await self._made(f"{kind.value}, {VOTES:,} votes", run, answers))
        return made

    async def _vote(self) -> None:
        """Users compare and vote until so many votes are joined."""
        with self._screen.step(f"users give {VOTES:,} votes") as step:
            books = self._users.books
            await self._users.visit_while(
                lambda: books.sent < VOTES,
                comparing=users.COMPARING,
                progress=lambda: step.say(f"{books.acknowledged} acknowledged"),
            )

            async def joined() -> bool | None:
                return (await self._operator.counts()).joined >= books.acknowledged or None

            await self._operator.eventually("every vote to be joined", joined, 30.0)

    async def _published(self, pairs: Sequence[world.Demonstration]) -> str:
        path = self._layout.state / f"demonstrations-{len(pairs)}.jsonl"
        path.write_text("".join(json.dumps({"prompt": one.question, "response": one.answer}) + "\n" for one in pairs))
        return await asyncio.to_thread(artifacts.publish_dataset, self._layout, path, TENANT, LINE)

    async def _run(self, kind: runs.RunKind, label: str, **inputs: str) -> runs.Run:
        with self._screen.step(f"{kind.value}: {label}") as step:
            spec = runs.RunSpec(TENANT, LINE, kind, seed=self._seed, label=label, **inputs)
            run = await self._operator.finished(await self._operator.start_run(spec), step.say)
            return (await self._operator.get_run(run.id)).run

    async def _made(self, name: str, run: runs.Run, before: Sequence[Sequence[taste.Judgement]]) -> Made:
        """What the run's policy says to the held-out questions. before: the judgements it is set against."""
        folder = artifacts.open_registry(self._layout).fetch(run.model_ids[0])
        decoded = await asyncio.to_thread(_answers, folder, self._questions, self._seed)
        judged = [
            [taste.judge(question, one.text) for one in said]
            for question, said in zip(self._questions, decoded, strict=True)
        ]
        detail = await self._operator.get_run(run.id)
        gates = [gate for model in detail.models for gate in model.gates]
        kl = next((gate.value for gate in gates if gate.name == "kl_to_anchor"), None)
        return Made(
            name,
            run,
            report.Measured(name, judged, kl),
            [_wins(ours, theirs) for ours, theirs in zip(judged, before or judged, strict=True)],
            statistics.fmean(len(one.token_ids) for said in decoded for one in said),
        )


def _answers(folder: pathlib.Path, questions: Sequence[str], seed: int) -> list[list[decoder.Decoded]]:
    """SAMPLES answers to each question, sampled as the policy would be served."""
    policy = loading.load_policy(folder)
    encoder, profile = encoding.encoder_of(policy), policy.profile
    requests = []
    for number, question in enumerate(questions):
        encoded = encoder.encode((text.Message(text.Role.USER, text.Text(question)),), "")
        assert not isinstance(encoded, str), encoded
        requests += [
            decoder.DecodeRequest(
                encoded.prompt,
                profile.max_tokens,
                temperature=profile.temperature,
                top_p=profile.top_p,
                top_k=profile.top_k,
                stop=profile.stop,
                seed=encoding.seed_of(seed, number, k),
            )
            for k in range(SAMPLES)
        ]
    decoded = decoder.decode_all(policy.model, policy.tokenizer, requests)
    return [decoded[start : start + SAMPLES] for start in range(0, len(decoded), SAMPLES)]


def _wins(ours: Sequence[taste.Judgement], theirs: Sequence[taste.Judgement]) -> float:
    """Probability that a user prefers ours, mean over the pairs of answers to one question."""
    return statistics.fmean(taste.preference(one, other) for one in ours for other in theirs)


HEADINGS = ("policy", "approval", "gain", "win rate", "KL, nats", "tokens", "training, s")


def page(made: Sequence[Made], seed: int, reports: pathlib.Path) -> str:
    """The table as a page."""
    rows = [one.row(made[0].measured) for one in made]
    table = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    table += [f"| {' | '.join(row)} |" for row in rows]
    links = [f"- [{one.name}]({reports.name}/{one.run.spec.kind.value}.html)" for one in made[2:]]
    return _PAGE.format(
        table="\n".join(table),
        links="\n".join(links),
        seed=seed,
        date=datetime.datetime.now(datetime.UTC).date(),
        torch=torch.__version__,
        demonstrations=DEMONSTRATIONS,
        votes=VOTES,
        questions=len(world.questions(world.HELD_OUT_WORDINGS)),
        samples=SAMPLES,
    )


_PAGE = """\
# Methods beside each other: demonstrations alone, and RLHF, for the same number of acts

`make bench SUITE=methods`, seed {seed}, {date}, torch {torch}, two cores shared with the platform.

The demo's world. A first policy (0.5 M weights) learns from {demonstrations:,} demonstrations by many hands, some
wrong, curt or fawning. Then people act {votes:,} more times: either they write that many more demonstrations, or they
compare and vote on the first policy's answers. Every method has the same votes, the same starting point and the same
reference; those that learn from their own answers have the same reward model. A vote takes a person seconds and a
demonstration minutes, so the second row is the generous one.

{table}

Approval is the probability of a thumb up by the hidden taste on {questions} held-out questions, {samples} answers each;
the gain is over the first policy, paired by question. The win rate is the probability that a user prefers the answer to
the first policy's. Intervals are 95 %, questions are the units. KL is to the first policy, per answer, as the gate
measured it. Training is the whole run with its gates.

Each run's own report, with its curves:

{links}
"""


async def bench(
    layout: platform.Layout, facts: platform.Facts, screen: show.Screen, seed: int, reports: pathlib.Path
) -> list[Made]:
    """Plays it and writes the reports of the runs."""
    async with platform.doors(layout) as doors:
        crowd = users.Users(facts.http_url, doors.api_key, LINE, seed=seed)
        try:
            made = await Bench(layout, operator.Operator(doors, LINE, 2.0), crowd, screen, seed).play()
        finally:
            await crowd.close()
    for one in made[2:]:
        await reporting.report(layout.state, one.run.id, reports / f"{one.run.spec.kind.value}.html", 4)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs/benchmarks"))
    asked = parser.parse_args()
    screen = show.Screen()
    reports = asked.output / "methods"
    reports.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="trimtab-methods-") as scratch:
        folder = pathlib.Path(scratch)
        (folder / "lines.toml").write_text(LINES)
        live = platform.Platform(folder, TENANT, LINE)
        with live.shown(screen) as facts:
            made = asyncio.run(bench(live.layout, facts, screen, asked.seed, reports))
    screen.say("")
    screen.table(HEADINGS, [one.row(made[0].measured) for one in made], numbers=HEADINGS[4:])
    (asked.output / "methods.md").write_text(page(made, asked.seed, reports))


if __name__ == "__main__":
    main()
