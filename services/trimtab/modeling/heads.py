"""The head of a reward model, and an ensemble of heads on one body: how far they disagree about an answer.

Head k of K gives an answer with features h (what the model's own head w reads of it) the reward

    r_k = w . h + d_k . h - c_k        sum of d_k = 0,  sum of c_k = 0

so that w, the head that every reader of the folder knows, is the mean of all. `c_k` is the mean of d_k . h over the
training answers: a constant of a reward means nothing and is no disagreement. Lies beside the model in
`heads.safetensors`. Heads are made by `trainer.reward.ensembles`.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import safetensors
import torch
from safetensors import torch as tensor_files
from torch import nn

from trimtab.core import errors
from trimtab.modeling import answers, packing

HEADS_FILE = "heads.safetensors"


@dataclasses.dataclass(frozen=True, slots=True)
class Heads:
    """deviations_K_D: d_k; centres_K: c_k."""

    deviations_K_D: torch.Tensor
    centres_K: torch.Tensor

    def disagreement(self, features_B_D: torch.Tensor) -> torch.Tensor:
        """deviation_B: standard deviation (K - 1) of the heads' rewards, in units of reward. Float64."""
        rewards_B_K = features_B_D.double() @ self.deviations_K_D.double().T - self.centres_K.double()
        return rewards_B_K.std(dim=1, correction=1)


def head_of(model: Any) -> Any:
    """The linear layer whose output is the reward, or what wraps it; ArtifactCorrupt where there is none."""
    if hasattr(model, "score"):
        return model.score
    found = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features == 1]
    if not found:
        raise errors.ArtifactCorrupt(f"A {type(model).__name__} ends in no linear layer of one label.")
    return found[-1]


def features_at_last(model: Any, encoded: Sequence[answers.Answer]) -> torch.Tensor:
    """features_B_D: what the head reads of each answer.

    Of a decoder the hidden state at the last token, found by its length and never by its id. An encoder reads the whole
    row, given the mask and, where it knows them, which tokens are the prompt's and which the answer's.
    """
    if hasattr(model, "score"):  # as decoders name their head
        hidden_M_D, index_B_S = packing.hidden_states(model.base_model, [one.tokens for one in encoded])
        last_B = index_B_S[torch.arange(len(encoded)), torch.tensor([len(one) - 1 for one in encoded])]
        return hidden_M_D.index_select(0, last_B.to(hidden_M_D.device))
    return _read_by_head(model, _encoder_inputs(model, encoded))


def scores_at_last(model: Any, encoded: Sequence[answers.Answer]) -> torch.Tensor:
    """scores_B: the label's logit of each answer."""
    return head_of(model)(features_at_last(model, encoded))[:, 0]  # type: ignore[no-any-return]


def load(folder: pathlib.Path, model: Any) -> Heads | None:
    """The heads beside a model, if it has any; ArtifactCorrupt when they are not its own."""
    path = folder / HEADS_FILE
    if not path.is_file():
        return None
    try:
        tensors = tensor_files.load_file(path)
        heads = Heads(tensors["deviations"], tensors["centres"])
    except (safetensors.SafetensorError, KeyError) as problem:
        raise errors.ArtifactCorrupt(f"{path} holds no ensemble of heads: {problem!r}.") from problem
    count, width = heads.centres_K.numel(), head_of(model).in_features
    if count < 2 or tuple(heads.deviations_K_D.shape) != (count, width):
        shape = tuple(heads.deviations_K_D.shape)
        raise errors.ArtifactCorrupt(f"{path} has deviations of shape {shape} for {count} heads of {width} features.")
    return heads


def save(heads: Heads, folder: pathlib.Path) -> None:
    """Writes what `load` reads."""
    tensors = {"deviations": heads.deviations_K_D.contiguous(), "centres": heads.centres_K.contiguous()}
    tensor_files.save_file(tensors, folder / HEADS_FILE)


def _encoder_inputs(model: Any, encoded: Sequence[answers.Answer]) -> dict[str, torch.Tensor]:
    config, device = model.config, model.device
    lengths_B = torch.tensor([len(one) for one in encoded], device=device)
    ids_B_S = packing.right_padded([one.tokens for one in encoded], device)
    places_S = torch.arange(ids_B_S.shape[1], device=device)
    mask_B_S = places_S < lengths_B.unsqueeze(1)
    if config.pad_token_id is not None:  # some count positions by it
        ids_B_S = ids_B_S.masked_fill(~mask_B_S, config.pad_token_id)
    inputs = {"input_ids": ids_B_S, "attention_mask": mask_B_S.long()}
    if getattr(config, "type_vocab_size", 0) > 1:
        prompts_B = torch.tensor([len(one.prompt) for one in encoded], device=device)
        inputs["token_type_ids"] = ((places_S >= prompts_B.unsqueeze(1)) & mask_B_S).long()
    return inputs


def _read_by_head(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    read: list[torch.Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        model(**inputs)
    finally:
        hook.remove()
    return read[0]
