"""Reward models: one scalar per answer, in log-odds of a comparison.

On disk a reward model is an ordinary Hugging Face folder of `AutoModelForSequenceClassification` with one label, so any
published one drops in and ours loads elsewhere. What is ours alone lies beside it: `hub.json` (the terms around the
reward: slopes, intercepts, cutpoints and ties of each kind of feedback, the weight of the surprise) and, where the
surprise is used, `reference/` (the frozen policy it is measured under).

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
from trimtab.modeling import answers, loading, logprobs

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
    ranking. stars: by scale.
    """

    slope: float = 1.0
    intercept: float = 0.0
    surfaces: dict[str, float] = dataclasses.field(default_factory=dict)
    surprise: Surprise | None = None
    ties: float | None = None
    ranking_ties: list[float] = dataclasses.field(default_factory=list)
    stars: dict[str, Stars] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedReward:
    """A reward model in eval mode. reference: the frozen policy of its surprise, if it uses one."""

    model: Any
    tokenizer: Any
    profile: loading.ServingProfile = dataclasses.field(default_factory=loading.ServingProfile)
    hub: Hub = dataclasses.field(default_factory=Hub)
    reference: Any = None

    def score(self, items: Sequence[scoring.ScoreItem], batch: int = 64) -> list[scoring.Score]:
        """A score for every item, or why there is none: it does not fit, cannot be read, or came out as no number.

        batch: most answers in one forward pass. Sealed text and a refused conversation are reasons, not errors.
        """
        encoder = answers.AnswerEncoder(self.tokenizer, self.profile, loading.context_tokens(self.model))
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
        values = iter(self.score_answers(readable, batch))
        scored = [next(values) if isinstance(outcome, float) else outcome for outcome in outcomes]
        return [scoring.Score(value if _is_number(value) else _reason(value)) for value in scored]

    @torch.no_grad()
    def score_answers(self, encoded: Sequence[answers.Answer], batch: int = 64) -> list[float]:
        """Scores in order; NaN stays NaN. For callers that hold tokens of this model's tokenizer."""
        scores = [math.nan] * len(encoded)
        for indices in logprobs.batches_by_length([len(one) for one in encoded], logprobs.FORWARD_POSITIONS, batch):
            chosen = [encoded[i] for i in indices]
            values_B = scores_at_last(self.model, [one.tokens for one in chosen]).double()
            if self.hub.surprise is not None:
                values_B = values_B + surprise_term(self.hub.surprise, least_logprobs(self.reference, chosen))
            for i, value in zip(indices, values_B.tolist(), strict=True):
                scores[i] = value
        return scores


def scores_at_last(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """scores_B: the label's logit at each row's last token."""
    ids_B_S = logprobs.right_padded(rows, model.device)
    lengths_B = torch.tensor([len(row) for row in rows], device=model.device)
    if not hasattr(model, "score"):  # an encoder: its head reads the whole row, given the mask
        mask_B_S = torch.arange(ids_B_S.shape[1], device=model.device) < lengths_B.unsqueeze(1)
        return model(input_ids=ids_B_S, attention_mask=mask_B_S.long()).logits[:, 0]  # type: ignore[no-any-return]
    hidden_B_S_D = model.base_model(input_ids=ids_B_S, use_cache=False).last_hidden_state
    last_B_D = hidden_B_S_D[torch.arange(len(rows), device=model.device), lengths_B - 1]
    return model.score(last_B_D)[:, 0]  # type: ignore[no-any-return]


@torch.no_grad()
def least_logprobs(reference: Any, encoded: Sequence[answers.Answer]) -> torch.Tensor:
    """least_B: the least log-probability of a token of each answer, not below SURPRISE_FLOOR."""
    rows = logprobs.response_logprobs(reference, [one.prompt for one in encoded], [one.response for one in encoded])
    return torch.stack([row.min() for row in rows]).clamp(min=SURPRISE_FLOOR).double()


def surprise_term(surprise: Surprise, least_B: torch.Tensor) -> torch.Tensor:
    return surprise.weight * (least_B - surprise.centre) / surprise.scale


def from_policy(policy: loading.LoadedPolicy) -> LoadedReward:
    """A reward model with the policy's body and a head of zeros: every score is 0 before it is trained."""
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.pad_token_id = _padding_id(tokenizer)
    config = copy.deepcopy(policy.model.config)
    config.num_labels = 1
    config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.base_model.load_state_dict(policy.model.base_model.state_dict())
    torch.nn.init.zeros_(model.score.weight)
    return LoadedReward(model.eval(), tokenizer, policy.profile)


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
    return LoadedReward(model.eval(), tokenizer, loading.load_profile(folder), hub, reference)


def save_reward_model(reward: LoadedReward, folder: pathlib.Path) -> None:
    """Writes a folder that `load_reward_model` loads, and without the hub's terms any other Hugging Face reader."""
    loading.save_policy(reward.model, reward.tokenizer, reward.profile, folder)
    (folder / HUB_FILE).write_text(json.dumps(dataclasses.asdict(reward.hub), indent=2, sort_keys=True) + "\n")
    if reward.reference is not None:
        loading.save_policy(reward.reference, reward.tokenizer, reward.profile, folder / REFERENCE_FOLDER)


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


def _is_number(value: float | str) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _reason(value: float | str) -> str:
    return value if isinstance(value, str) else "no number: the model's score is not finite"
