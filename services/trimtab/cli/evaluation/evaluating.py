"""`trimtab eval`: policies on prompts of one's own, a reward model on preferences of one's own.

Answers come through the public door, pinned to the policy, each with a seed of its own and kept nowhere; scores come
from the reward service. Nothing that is asked here is evidence of a release or trains anything.
"""

import asyncio
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import trimtab_client
from trimtab import registry
from trimtab.cli import show
from trimtab.cli.evaluation import measuring
from trimtab.cli.machine import artifacts, platform, public
from trimtab.core import completions, errors, files, models, scoring, text
from trimtab.trainer.judging import sets
from trimtab_client import errors as client_errors

_AT_ONCE = 8
_SCORED_AT_ONCE = 64
_ANNOUNCED_WITHIN_S = 10.0
# Fewer to fit bags of words to leave a fold of the choice of their decay without any.
_FEWEST_PAIRS = 3
# Of a prompt, not of the platform: the others go on.
_REFUSALS = (client_errors.InvalidField, client_errors.PromptTooLong, client_errors.UnsupportedParameter)
_FINISH = {"stop": "ended", "length": "truncated"}
_ARMS = {arm.value for arm in completions.Arm}


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What `trimtab eval` was given. policies: one, or two to compare. reward: empty is the line's latest."""

    policies: Sequence[str]
    prompts: pathlib.Path | None
    preferences: pathlib.Path | None
    reward: str
    seed: int
    output: pathlib.Path | None


async def evaluate(state: pathlib.Path, asked: Asked, as_json: bool) -> None:
    """Reads the sets, measures, prints; with an output file, every answer and score goes there."""
    if asked.prompts is None and asked.preferences is None:
        raise errors.InvalidField("--prompts", "is missing", "give --prompts FILE, --preferences FILE or both")
    if asked.prompts is not None and not asked.policies:
        raise errors.InvalidField("POLICY", "is missing", "name the policy that answers the prompts")
    layout = platform.Layout(state)
    layout.read_facts()
    prompts = sets.read_prompts(asked.prompts) if asked.prompts else []
    preferences = sets.read_preferences(asked.preferences) if asked.preferences else []
    screen = show.Screen(as_json)
    async with platform.doors(layout) as doors:
        judge = await _judge(layout, doors, asked.reward, needed=bool(preferences))
        work = _Evaluation(layout, doors, screen, judge, asked.seed)
        document: dict[str, Any] = {"reward_model": judge}
        rows: dict[str, Any] = {}
        if prompts:
            document["prompts"], rows["answers"] = await work.on_prompts(asked.policies, prompts)
        if preferences:
            document["preferences"], rows["judged"] = await work.on_preferences(preferences)
    if asked.output is not None:
        _write(asked.output, document | rows)
    if as_json:
        screen.json(document)


def _write(file: pathlib.Path, document: dict[str, Any]) -> None:
    try:
        files.replace(file, json.dumps(document, indent=1) + "\n")
    except OSError as problem:
        raise errors.InvalidField(
            "--output", f"{str(file)!r} cannot be written ({problem.strerror})", "name a file in a folder that is there"
        ) from problem


async def _judge(layout: platform.Layout, doors: platform.Doors, given: str, *, needed: bool) -> str:
    """The id of the reward model that scores; empty when none was named, none has passed and none is needed."""
    name = given or f"{doors.facts.line}@latest"
    if "@" not in name:
        name = artifacts.resolve(layout, name)
    try:
        answer = await _asked_of(layout, doors, name)
    except errors.UnknownModel as unknown:
        if given or needed:
            raise errors.InvalidField(
                "--reward",
                f"{given or name!r} is no reward model that this platform knows",
                "name one that `trimtab models list` shows; one is trained when there is enough feedback",
            ) from unknown
        return ""
    return answer.model_id


async def _asked_of(layout: platform.Layout, doors: platform.Doors, name: str) -> scoring.ScoreResponse:
    """An answer under a reward model's name, which the service resolves when it scores. What the registry holds but
    the service does not know yet is about to be announced to it: asked for again."""
    item = scoring.ScoreItem((text.Message(text.Role.USER, text.Text("?")),), text.Text("?"))
    deadline = time.monotonic() + _ANNOUNCED_WITHIN_S
    while True:
        try:
            return await platform.patiently(
                lambda: doors.reward.score(scoring.ScoreRequest(name, (item,)), timeout_s=120)
            )
        except errors.UnknownModel:
            if time.monotonic() > deadline or not artifacts.is_reward_model(layout, name):
                raise
            await asyncio.sleep(0.1)


class _Evaluation:
    """judge: the id of the reward model that scores, or nothing."""

    def __init__(
        self, layout: platform.Layout, doors: platform.Doors, screen: show.Screen, judge: str, seed: int
    ) -> None:
        self._layout, self._doors, self._screen = layout, doors, screen
        self._judge, self._seed = judge, seed

    async def on_prompts(
        self, policies: Sequence[str], prompts: Sequence[sets.Prompt]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Each policy answers each prompt once; the document of the results, and the answers by policy."""
        answers = {}
        names = [pinned(self._layout, given, self._doors.facts.line) for given in policies]
        if len(set(names)) < len(names):
            raise errors.InvalidField(
                "--against", f"names {policies[1]!r} again", "name another policy or leave it out"
            )
        for name in names:
            answers[name] = await self._scored(prompts, await self._answers(name, prompts))
        results = [measuring.summary(name, said, bool(self._judge)) for name, said in answers.items()]
        compared = measuring.difference(*answers.values()) if len(answers) == 2 else None
        self._show_policies(results, compared)
        document = {
            "policies": [dataclasses.asdict(result) for result in results],
            "difference": dataclasses.asdict(compared) if compared else None,
        }
        return document, {name: [dataclasses.asdict(one) for one in said] for name, said in answers.items()}

    async def on_preferences(
        self, preferences: Sequence[sets.Preference]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The reward model predicts each preference; the document of the results, and each prediction."""
        items = [
            scoring.ScoreItem(one.turns, text.Text(answer))
            for one in preferences
            for answer in (one.chosen, one.rejected)
        ]
        scores = await self._scores(items)
        judged = [_judged(one, *scores[2 * number : 2 * number + 2]) for number, one in enumerate(preferences)]
        with self._screen.step("fitting bags of words to what it was trained on"):
            store = artifacts.open_registry(self._layout)
            line = await asyncio.to_thread(bag_of_words, store, self._judge, preferences, judged)
        own = measuring.predictor(judged)
        unscored = [one for one in judged if one.gap is None]
        self._show_preferences(own, line, unscored)
        document = {
            "reward_model": dataclasses.asdict(own),
            "bag_of_words": dataclasses.asdict(line) if line else None,
            "unscored": len(unscored),
        }
        return document, [dataclasses.asdict(one) for one in judged]

    async def _answers(self, policy: str, prompts: Sequence[sets.Prompt]) -> list[measuring.Answered]:
        free = asyncio.Semaphore(_AT_ONCE)
        done = 0
        with self._screen.step(f"asking {_short(policy)} {len(prompts):,} prompts") as step:
            async with public.async_client(self._layout) as client:

                async def ask(number: int, prompt: sets.Prompt) -> measuring.Answered:
                    nonlocal done
                    async with free:
                        answered = await _answer(client, policy, prompt, self._seed + number)
                    done += 1
                    step.say(f"{done:,} answered")
                    return answered

                return await asyncio.gather(*(ask(number, prompt) for number, prompt in enumerate(prompts)))

    async def _scored(
        self, prompts: Sequence[sets.Prompt], answers: Sequence[measuring.Answered]
    ) -> list[measuring.Answered]:
        if not self._judge:
            return list(answers)
        made = [(prompt, one) for prompt, one in zip(prompts, answers, strict=True) if one.finish != "refused"]
        scores = iter(
            await self._scores([scoring.ScoreItem(prompt.turns, text.Text(one.text)) for prompt, one in made])
        )
        scored = []
        for one in answers:
            outcome = next(scores).outcome if one.finish != "refused" else ""
            if isinstance(outcome, str):
                scored.append(dataclasses.replace(one, why=one.why or outcome))
            else:
                scored.append(dataclasses.replace(one, score=outcome))
        return scored

    async def _scores(self, items: Sequence[scoring.ScoreItem]) -> list[scoring.Score]:
        scores: list[scoring.Score] = []
        with self._screen.step(f"scoring {len(items):,} answers by reward model {self._judge[: show.SHORT]}") as step:
            for start in range(0, len(items), _SCORED_AT_ONCE):
                request = scoring.ScoreRequest(self._judge, tuple(items[start : start + _SCORED_AT_ONCE]))
                answer = await platform.patiently(lambda: self._doors.reward.score(request))  # noqa: B023
                scores += answer.scores
                step.say(f"{len(scores):,} scored")
        return scores

    def _show_policies(self, results: Sequence[measuring.Summary], compared: measuring.Difference | None) -> None:
        counted = ("prompts", "ended", "truncated", "refused", "unscored")
        self._screen.say("")
        self._screen.table(
            ("policy", *counted, "mean reward, 95 %", "mean tokens, 95 %"),
            [
                (
                    _short(one.policy),
                    *(f"{getattr(one, name):,}" for name in counted),
                    one.reward.in_words(),
                    one.tokens.in_words(1),
                )
                for one in results
            ],
            numbers=counted,
        )
        if compared is not None:
            self._screen.say(
                f"\nfirst minus second, paired by prompt: reward {show.literal(compared.reward.in_words())}, "
                f"tokens {show.literal(compared.tokens.in_words(1))}, {compared.tokens.count:,} prompts"
            )
        if not self._judge:
            self._screen.say("\nNo reward model of the line has passed its gates yet, so nothing is scored.")

    def _show_preferences(
        self, own: measuring.Predictor, line: "WordsLine | None", unscored: Sequence[measuring.Judged]
    ) -> None:
        rows = [(f"reward model {self._judge[: show.SHORT]}", own)]
        if line is not None:
            rows.append(("bag of words", line.predictor))
        self._screen.say("")
        self._screen.table(
            ("preferences", "accuracy, 95 %", "NLL (nats), 95 %", "judged"),
            [(name, one.accuracy.in_words(), one.nll.in_words(4), f"{one.nll.count:,}") for name, one in rows],
            numbers=("judged",),
        )
        if line is None:
            self._screen.say("\nIt was trained on no comparisons, so bags of words have nothing to be fitted to.")
        else:
            self._screen.say(
                "\nNLL of the reward model minus bags of words, paired: "
                f"{show.literal(line.difference.in_words(4))}; a coin has {measuring.nll_of(0.0):.4f}"
            )
            if line.known:
                self._screen.say(f"{line.known:,} of the preferences are among those it was trained on.")
        if unscored:
            first = unscored[0]
            self._screen.say(
                f"{len(unscored):,} have no score, the first of line {first.line}: {show.literal(first.why)}"
            )


def pinned(layout: platform.Layout, given: str, line: str) -> str:
    """`line@policy` of what a person types: the same, `stable`, `candidate`, or the beginning of a policy's id."""
    if "@" in given:
        return given
    if given in _ARMS:
        return f"{line}@{given}"
    manifest = artifacts.open_registry(layout).manifest(artifacts.resolve(layout, given))
    if manifest.kind not in (models.ModelKind.POLICY, models.ModelKind.BASE):
        raise errors.InvalidField("POLICY", f"{given!r} names a {manifest.kind.value}", "name a policy")
    return f"{manifest.line}@{manifest.id}"


def _short(policy: str) -> str:
    line, _, pin = policy.partition("@")
    return f"{line}@{pin[: show.SHORT]}"


async def _answer(
    client: trimtab_client.AsyncTrimtab, policy: str, prompt: sets.Prompt, seed: int
) -> measuring.Answered:
    turns = [{"role": role, "content": content} for role, content in _turns(prompt.turns)]
    try:
        answer = await client.chat(turns, line=policy, seed=seed, store=False)
    except _REFUSALS as problem:
        return measuring.Answered(prompt.line, "refused", why=str(problem))
    except trimtab_client.TrimtabError as problem:
        raise public.core_error(problem) from problem
    [choice] = answer.choices
    return measuring.Answered(prompt.line, _FINISH[choice.finish_reason], choice.text, answer.completion_tokens)


def _judged(one: sets.Preference, chosen: scoring.Score, rejected: scoring.Score) -> measuring.Judged:
    why = next((score.outcome for score in (chosen, rejected) if isinstance(score.outcome, str)), "")
    return measuring.Judged(one.line, _value(chosen), _value(rejected), why)


def _value(score: scoring.Score) -> float | None:
    return score.outcome if isinstance(score.outcome, float) else None


@dataclasses.dataclass(frozen=True, slots=True)
class WordsLine:
    """Bags of words on the preferences that have a score. difference: NLL of the reward model minus theirs, paired.

    known: preferences that the reward model was trained on.
    """

    predictor: measuring.Predictor
    difference: measuring.Mean
    known: int


def bag_of_words(
    store: registry.Registry,
    reward_id: str,
    preferences: Sequence[sets.Preference],
    judged: Sequence[measuring.Judged],
) -> WordsLine | None:
    """The line of the gates (`trainer.reward.baselines`), fitted to the decided pairs that the reward model was trained
    on.

    None when there are too few of them, or nothing to predict.
    """
    from trimtab.trainer.data import datasets
    from trimtab.trainer.reward import baselines, labels

    manifest = store.manifest(reward_id)
    split: datasets.Split = "held_out" if manifest.kind is models.ModelKind.EVALUATION_REWARD else "train"
    pairs = [pair for data in manifest.datasets for pair in datasets.read(store.fetch(data)).of(split, "pair")]
    decided = [pair for pair in pairs if not pair.tie]
    seen = [labels.Pair(pair.chosen, pair.rejected) for pair in decided]
    gaps = {one.line: one.gap for one in judged if one.gap is not None}
    asked = [one for one in preferences if one.line in gaps]
    if len(seen) < _FEWEST_PAIRS or not asked:
        return None
    said = [labels.Pair(one.chosen, one.rejected) for one in asked]
    line = baselines.bag_of_words(seen, said, [pair.weight for pair in decided])
    accuracy = measuring.share((line.accuracy or 0.0) * len(asked), len(asked))
    own = [measuring.nll_of(gaps[one.line] or 0.0) for one in asked]
    known = {(tuple((turn["role"], turn["content"]) for turn in p.prompt), p.chosen, p.rejected) for p in pairs}
    return WordsLine(
        measuring.Predictor(accuracy, measuring.mean(line.nll_P)),
        measuring.mean([mine - theirs for mine, theirs in zip(own, line.nll_P, strict=True)]),
        sum((_turns(one.turns), one.chosen, one.rejected) in known for one in preferences),
    )


def _turns(messages: Sequence[text.Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message.role.value, message.content.read()) for message in messages)
