"""Reward models: one scalar per answer, in log-odds of a comparison.

On disk a reward model is an ordinary Hugging Face folder of `AutoModelForSequenceClassification` with one label, so any
published one drops in and ours loads elsewhere. What is ours alone lies beside it: `hub.json` (the terms around the
reward: slopes, intercepts, cutpoints and ties of each kind of feedback, the weight of the surprise, the pessimism),
where the surprise is used `reference/` (the frozen policy it is measured under), where an ensemble of heads says how
unsure the reward is `heads.safetensors` (`modeling.heads`), and where several models are combined into one score
`combination.json` and `parts/` (`modeling.combining`).

The score is read at the last real token, found by its length and never by its id: most chat models pad with the
end-of-sequence token, and then "the last token that is no pad" is not the end of the answer. Called by the reward
service and the trainer.
"""

import copy
import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from trimtab.core import errors, scoring
from trimtab.modeling import answers, combining, heads, loading, logprobs, lora, plain_text

HUB_FILE, REFERENCE_FOLDER = "hub.json", "reference"
# Below this log-probability one token is not more surprising than another.
SURPRISE_FLOOR = -12.0


@dataclasses.dataclass(frozen=True, slots=True)
class Surprise:
    """weight (s - centre) / scale is added to the score; s: least log-prob of a token of the answer, floored."""

    weight: float
    centre: float
    scale: float


@dataclasses.dataclass(frozen=True, slots=True)
class Stars:
    """P(at most k stars) = sigma(cutpoints[k - 1] - slope r), for k below the scale's top."""

    slope: float
    cutpoints: list[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Hub:
    """The terms around the reward r: P(thumb up) = sigma(slope r + intercept + surface's intercept).

    ties: Davidson's nu of comparisons, None where nobody ties. ranking_ties: delta of ties of 2, 3, ... answers in a
    ranking. stars: by scale. pessimism: a score is the mean of the heads less so many of their standard deviations.
    kinds: of feedback that it learned from. seen_until: when the newest of that was given, Unix seconds; 0: unknown.
    """

    slope: float = 1.0
    intercept: float = 0.0
    surfaces: dict[str, float] = dataclasses.field(default_factory=dict)
    surprise: Surprise | None = None
    ties: float | None = None
    ranking_ties: list[float] = dataclasses.field(default_factory=list)
    stars: dict[str, Stars] = dataclasses.field(default_factory=dict)
    pessimism: float = 0.0
    kinds: list[str] = dataclasses.field(default_factory=lambda: ["pair", "edit"])
    seen_until: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedReward:
    """A reward model in eval mode.

    reference: the frozen policy of its surprise, if it uses one. ensemble: its heads, if it has several. rule, others:
    the models whose rewards are combined with its own, and how.
    """

    model: Any
    tokenizer: Any
    profile: loading.ServingProfile = dataclasses.field(default_factory=loading.ServingProfile)
    hub: Hub = dataclasses.field(default_factory=Hub)
    reference: Any = None
    ensemble: heads.Heads | None = None
    rule: combining.Rule | None = None
    others: tuple["LoadedReward", ...] = ()

    @property
    def encoder(self) -> answers.AnswerEncoder | plain_text.PairEncoder:
        """How it reads: by its chat template, or, where it has none, as plain text."""
        context = loading.context_tokens(self.model)
        if self.tokenizer.chat_template is not None:
            return answers.AnswerEncoder(self.tokenizer, self.profile, context)
        # an encoder may have more positions than it reads tokens
        return plain_text.PairEncoder(self.tokenizer, self.profile, min(context, self.tokenizer.model_max_length))

    def score(self, items: Sequence[scoring.ScoreItem], batch: int = 64) -> list[scoring.Score]:
        """A score for every item, or why there is none: it does not fit, cannot be read, or came out as no number.

        Of an ensemble the mean less `pessimism` standard deviations, with that deviation beside it as uncertainty; of
        several models what their rule makes of their scores, and none where one of them has none.
        batch: most answers in one forward pass. Sealed text and a refused conversation are reasons, not errors.
        """
        own = self._own_scores(items, batch)
        if self.rule is None:
            return own
        of_part = (own, *(other.score(items, batch) for other in self.others))
        return [_combined(self.rule, scores) for scores in zip(*of_part, strict=True)]

    def of_criterion(self, name: str) -> "LoadedReward | None":
        """The model of one criterion alone; None where there is none."""
        parts = zip(self.rule.parts if self.rule else (), (self, *self.others), strict=False)
        found = next((one for part, one in parts if part.name == name), None)
        return None if found is None else dataclasses.replace(found, rule=None, others=())

    def _own_scores(self, items: Sequence[scoring.ScoreItem], batch: int) -> list[scoring.Score]:
        encoder = self.encoder
        outcomes: list[float | str] = []
        readable: list[answers.Answer] = []
        for item in items:
            encoded = (
                "sealed text"
                if not isinstance(item.response.body, str)
                else encoder.encode(item.prompt, item.response.body)
            )
            outcomes.append(encoded if isinstance(encoded, str) else math.nan)
            if not isinstance(encoded, str):
                readable.append(encoded)
        measured = iter(self.measure(readable, batch))
        return [
            scoring.Score(outcome) if isinstance(outcome, str) else self._score(next(measured)) for outcome in outcomes
        ]

    @torch.no_grad()
    def measure(self, encoded: Sequence[answers.Answer], batch: int = 64) -> list["Measured"]:
        """Mean and deviation of each answer's reward, in order; NaN stays NaN. Tokens are of this model's tokenizer."""
        measured = [Measured(math.nan)] * len(encoded)
        head = heads.head_of(self.model)
        lengths, prompts = [len(one) for one in encoded], [one.prompt for one in encoded]
        for indices in logprobs.batches_by_length(lengths, logprobs.FORWARD_POSITIONS, batch, groups=prompts):
            chosen = [encoded[i] for i in indices]
            features_B_D = heads.features_at_last(self.model, chosen)
            means_B = head(features_B_D)[:, 0].double()
            if self.hub.surprise is not None:
                means_B = means_B + surprise_term(self.hub.surprise, least_logprobs(self.reference, chosen))
            deviations = [None] * len(chosen)
            if self.ensemble is not None:
                deviations = self.ensemble.disagreement(features_B_D).tolist()
            for i, mean, deviation in zip(indices, means_B.tolist(), deviations, strict=True):
                measured[i] = Measured(mean, deviation)
        return measured

    def _score(self, measured: "Measured") -> scoring.Score:
        value = measured.mean - self.hub.pessimism * (measured.deviation or 0.0)
        if not math.isfinite(value):
            return scoring.Score("no number: the model's score is not finite")
        return scoring.Score(value, measured.deviation)


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A reward as its heads see it. deviation: None where there is one head."""

    mean: float
    deviation: float | None = None


@torch.no_grad()
def least_logprobs(reference: Any, encoded: Sequence[answers.Answer]) -> torch.Tensor:
    """least_B: the least log-probability of a token of each answer, not below SURPRISE_FLOOR."""
    rows = logprobs.response_logprobs(reference, [one.prompt for one in encoded], [one.response for one in encoded])
    return torch.stack([row.min() for row in rows]).clamp(min=SURPRISE_FLOOR).double()


def surprise_term(surprise: Surprise, least_B: torch.Tensor) -> torch.Tensor:
    return surprise.weight * (least_B - surprise.centre) / surprise.scale


def from_policy(policy: loading.LoadedPolicy, layers: int = 0) -> LoadedReward:
    """A reward model with the policy's body and a head of zeros: every score is 0 before it is trained.

    layers: how many of the body's first layers it keeps; 0: all. InvalidField when there are fewer.
    """
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.pad_token_id = _padding_id(tokenizer)
    config = copy.deepcopy(policy.model.config)
    config.num_labels = 1
    config.pad_token_id = tokenizer.pad_token_id
    if layers > config.num_hidden_layers:
        raise errors.InvalidField("body_layers", f"is {layers} of {config.num_hidden_layers} layers", "give fewer")
    if layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    kept, given = model.base_model.state_dict().keys(), lora.plain_state(policy.model.base_model)
    model.base_model.load_state_dict({name: given[name] for name in kept})
    torch.nn.init.zeros_(model.score.weight)
    return LoadedReward(model.eval(), tokenizer, policy.profile)


def continued(reward: LoadedReward) -> LoadedReward:
    """A copy to train on from: body and head as they are, none of the terms, which are of other feedback."""
    return LoadedReward(copy.deepcopy(reward.model), reward.tokenizer, reward.profile)


def is_reward_model(folder: pathlib.Path) -> bool:
    """Whether a folder says of itself that it holds a classifier; a causal language model otherwise."""
    try:
        named = json.loads((folder / "config.json").read_text()).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False
    return any(str(name).endswith("ForSequenceClassification") for name in named)


def load_reward_model(folder: pathlib.Path) -> LoadedReward:
    """Loads ours or any published reward model; ArtifactCorrupt says what is missing or refused."""
    loading.require_safetensors(folder)
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as problem:
        raise errors.ArtifactCorrupt(f"{folder} cannot be loaded as a reward model: {problem}") from problem
    if model.config.num_labels != 1:
        raise errors.ArtifactCorrupt(f"{folder} has {model.config.num_labels} labels; a reward model has one.")
    hub = _load_hub(folder / HUB_FILE)
    reference = loading.load_policy(folder / REFERENCE_FOLDER).model if hub.surprise is not None else None
    made = LoadedReward(
        model.eval(), tokenizer, loading.load_profile(folder), hub, reference, heads.load(folder, model)
    )
    rule = combining.load(folder)
    if rule is None:
        return made
    parts = folder / combining.PARTS_FOLDER
    others = tuple(load_reward_model(parts / str(number)) for number in range(1, len(rule.parts)))
    return dataclasses.replace(made, rule=rule, others=others)


def save_reward_model(reward: LoadedReward, folder: pathlib.Path) -> None:
    """Writes a folder that `load_reward_model` loads, and without the hub's terms any other Hugging Face reader."""
    loading.save_policy(reward.model, reward.tokenizer, reward.profile, folder)
    (folder / HUB_FILE).write_text(json.dumps(dataclasses.asdict(reward.hub), indent=2, sort_keys=True) + "\n")
    if reward.ensemble is not None:
        heads.save(reward.ensemble, folder)
    if reward.rule is not None:
        combining.save(reward.rule, folder)
    for number, other in enumerate(reward.others, start=1):
        save_reward_model(other, folder / combining.PARTS_FOLDER / str(number))
    if reward.reference is not None:
        loading.save_policy(reward.reference, reward.tokenizer, reward.profile, folder / REFERENCE_FOLDER)


def _combined(rule: combining.Rule, scores: Sequence[scoring.Score]) -> scoring.Score:
    """One score of those of the rule's parts, in its order."""
    values: dict[str, float] = {}
    for part, score in zip(rule.parts, scores, strict=True):
        if isinstance(score.outcome, str):
            return score
        values[part.name] = score.outcome
    deviations = {part.name: score.uncertainty for part, score in zip(rule.parts, scores, strict=True)}
    return scoring.Score(rule.score(values), rule.uncertainty(deviations))


def _load_hub(path: pathlib.Path) -> Hub:
    if not path.is_file():
        return Hub()
    try:
        document = json.loads(path.read_text())
        surprise = document.pop("surprise", None)
        stars = {scale: Stars(**of_scale) for scale, of_scale in document.pop("stars", {}).items()}
        return Hub(**document, surprise=Surprise(**surprise) if surprise else None, stars=stars)
    except (ValueError, TypeError, AttributeError) as problem:
        raise errors.ArtifactCorrupt(f"{path} is no description of a reward's terms: {problem}.") from problem


def _padding_id(tokenizer: Any) -> int | None:
    """A pad that never ends an answer, so that readers who look for "the last token that is no pad" find its end."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return int(tokenizer.pad_token_id)
    others = [token for token in tokenizer.all_special_ids if token != tokenizer.eos_token_id]
    return int(others[0]) if others else None
