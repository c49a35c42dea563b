"""A reward model from human preferences, cross-validated in five folds beside a coin and bags of words.

    make bench SUITE=preferences FILE=harmless.jsonl.gz POLICY=smollm2      # writes docs/benchmarks/preferences.md

FILE: dialogues {chosen, rejected}, as in Anthropic's hh-rlhf. POLICY: the folder of a chat model, whose first layers
the reward model keeps as they are. Every pair is judged by a head that never saw its prompt. What was read of the
answers is kept in --work, and a run that was ended goes on from there.
"""

import argparse
import dataclasses
import datetime
import hashlib
import math
import pathlib
import time

import torch
from tests.benchmarks import pages

from trimtab.cli import show
from trimtab.cli.feedback import importing
from trimtab.core import statistics
from trimtab.modeling import loading, rewards
from trimtab.trainer import job, recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import baselines, ensembles, hub, material, probing
from trimtab.trainer.steps import checkpoints, progress

FOLDS = 5
PAGE = pages.FOLDER / "preferences.md"


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """What was said of pairs that were left out, in their order: nats of each, and whether it was ordered right."""

    nll_P: list[float]
    right_P: list[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """model: the reward model; words: bags of words; ridges: of each fold; read_s: what reading the answers took."""

    model: Judged
    words: Judged
    ridges: list[float]
    skipped: dict[str, float]
    read_s: float


def prepare(file: pathlib.Path, policy: loading.LoadedPolicy, skipped: encoding.Skipped) -> material.Feedback:
    """The file's pairs in tokens of the policy."""
    found, left_out = importing.read_hh_rlhf(file)
    for reason, lines in left_out.items():
        skipped.count(reason, len(lines))
    rows = [
        datasets.DatasetExample(
            one.item,
            "train",
            "pair",
            [{"role": turn.role.value, "content": str(turn.content.body)} for turn in one.prompt],
            chosen=str(one.preferred.body),
            rejected=str(one.rejected.body),
        )
        for one in found
    ]
    return material.prepare(encoding.encoder_of(policy), rows, recipes.RewardSettings(), skipped)


def cross_validate(
    file: pathlib.Path, policy: loading.LoadedPolicy, settings: recipes.RewardSettings, work: pathlib.Path
) -> Result:
    """Reads every answer once and fits a head for each fold."""
    skipped = encoding.Skipped()
    feedback = prepare(file, policy, skipped)
    body = rewards.from_policy(policy, settings.body_layers)
    identity = repr((hashlib.sha256(file.read_bytes()).hexdigest(), settings.body_layers, policy.model.config))
    report = _Shown(work, checkpoints.Checkpoints(work, identity.encode(), job.versions()))
    begun = time.monotonic()
    features_B_D = probing.read(body.model, feedback.answers(), "answers", report)
    read_s = time.monotonic() - begun
    items = feedback.items
    numbers = [hashlib.sha256(repr(item.answers[0].prompt).encode()).digest()[1] % FOLDS for item in items]
    ours, words = Judged([0.0] * len(items), [0.0] * len(items)), Judged([0.0] * len(items), [0.0] * len(items))
    ridges = []
    for fold in range(FOLDS):
        outside = [place for place, number in enumerate(numbers) if number == fold]
        inside = [place for place, number in enumerate(numbers) if number != fold]
        seen = material.Feedback(tuple(items[place] for place in inside))
        gaps_P, ridge = _fitted_gaps(policy, features_B_D, seen, (inside, outside), settings)
        ridges.append(ridge)
        line = baselines.bag_of_words([item.label for item in seen.items], [items[place].label for place in outside])
        for place, gap, nats in zip(outside, gaps_P, line.nll_P, strict=True):
            ours.nll_P[place] = math.log1p(math.exp(-abs(gap))) + max(0.0, -gap)
            ours.right_P[place] = 0.5 * (1 + (gap > 0) - (gap < 0))
            # of a pair -log sigma(gap) is below ln 2 exactly where the gap is above 0
            words.nll_P[place] = nats
            words.right_P[place] = 0.5 if math.isclose(nats, math.log(2)) else float(nats < math.log(2))
    return Result(ours, words, ridges, skipped.figures(), read_s)


def _fitted_gaps(
    policy: loading.LoadedPolicy,
    features_B_D: torch.Tensor,
    seen: material.Feedback,
    places: tuple[list[int], list[int]],
    settings: recipes.RewardSettings,
) -> tuple[list[float], float]:
    """Reward of the chosen answer less that of the rejected, for the pairs left out; and the ridge. Two rows a pair."""
    inside, outside = (torch.tensor([row for place in part for row in (2 * place, 2 * place + 1)]) for part in places)
    begun = rewards.from_policy(policy, settings.body_layers)
    ensemble = ensembles.Ensemble(begun.model, settings.heads, len(seen), 1) if settings.heads > 1 else None
    terms = hub.RewardTerms(seen, settings)
    problem = probing.Begun(begun, terms, ensemble, lambda: hub.RewardTerms(seen, settings))
    ridge = probing.fit(problem, features_B_D[inside], seen)["ridge"]
    weights_D = begun.model.score.weight.detach()[0].double()
    rewards_B = features_B_D[outside] @ weights_D
    return (rewards_B[0::2] - rewards_B[1::2]).tolist(), ridge


class _Shown(progress.Progress):
    """Says how far the reading is."""

    def step(self, figures: dict[str, float]) -> None:
        super().step(figures)
        if self._done.number % 50 == 0:
            show.Screen().say(f"  {self._done.number} of {self._steps} batches read")


def measured(result: Result, asked: argparse.Namespace) -> str:
    """The figures, as they stand on the page."""

    def told(values: list[float]) -> str:
        return "{:.4f} ({:.4f} to {:.4f})".format(*statistics.mean_interval(values))

    ours, words = result.model, result.words
    nll = [one - other for one, other in zip(ours.nll_P, words.nll_P, strict=True)]
    right = [one - other for one, other in zip(ours.right_P, words.right_P, strict=True)]
    return _MEASURED.format(
        date=datetime.datetime.now(datetime.UTC).date(),
        torch=torch.__version__,
        threads=asked.threads,
        file=asked.file.name,
        policy=asked.policy.resolve().name,
        layers=asked.layers or "all",
        heads=asked.heads,
        pairs=len(nll),
        skipped="; ".join(f"{count:.0f} ({reason.partition(': ')[2]})" for reason, count in result.skipped.items())
        or "none",
        our_nll=told(ours.nll_P),
        our_right=told(ours.right_P),
        word_nll=told(words.nll_P),
        word_right=told(words.right_P),
        nll_gap=told(nll),
        right_gap=told(right),
        ridges=", ".join(f"{ridge:g}" for ridge in result.ridges),
        minutes=result.read_s / 60,
    )


_MEASURED = """\
Made on {date}: torch {torch}, {threads} threads. {pairs:,} pairs of `{file}`; left out: {skipped}.
Body: {layers} layers of {policy}; `heads = {heads}`.

| | nats per pair (95 %) | ordered right (95 %) |
|---|---|---|
| a coin | 0.6931 | 0.5000 |
| bags of words | {word_nll} | {word_right} |
| reward model | {our_nll} | {our_right} |
| reward model less bags of words, paired | {nll_gap} | {right_gap} |

Ridges chosen: {ridges}. Reading the answers took {minutes:.0f} minutes of this run, fitting seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("policy", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=20, help="layers of the body to keep; 0: all")
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(".cache/preferences"))
    asked = parser.parse_args()
    job.make_deterministic(asked.threads, seed=0)
    settings = recipes.RewardSettings(train_body=False, body_layers=asked.layers, heads=asked.heads)
    asked.work.mkdir(parents=True, exist_ok=True)
    result = cross_validate(asked.file, loading.load_policy(asked.policy), settings, asked.work)
    text = measured(result, asked)
    show.Screen().say(text)
    pages.put(PAGE, text)


if __name__ == "__main__":
    main()
