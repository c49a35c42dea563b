"""Policies on disk: weights (safetensors only), tokenizer and serving profile, in one Hugging Face folder.

Called by the policy process, the trainer and tests. Reward models are loaded by `modeling.rewards`.
"""

import dataclasses
import json
import pathlib
from typing import Any

import torch
import transformers

from trimtab.core import errors

PROFILE_FILE = "profile.json"
# its progress bars would write into the JSON logs
transformers.utils.logging.disable_progress_bar()
# attention whose cache is keys and values of every token: what the decoder's slots can hold
_DECODABLE_LAYERS = frozenset({"full_attention", "sliding_attention"})


@dataclasses.dataclass(frozen=True, slots=True)
class ServingProfile:
    """How a policy is served when a request does not say: part of the policy, released and proven with its weights."""

    system_prompt: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A causal language model in eval mode, its tokenizer and its profile."""

    model: Any
    tokenizer: Any
    profile: ServingProfile


@dataclasses.dataclass(frozen=True, slots=True)
class Front:
    """A policy without its weights: enough to render, tokenise and read back what another engine generates."""

    tokenizer: Any
    profile: ServingProfile
    end_tokens: frozenset[int]
    context_tokens: int


def load_front(folder: pathlib.Path) -> Front:
    """Loads all of a policy but its weights; ArtifactCorrupt says what is missing or refused."""
    require_safetensors(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as problem:
        raise errors.ArtifactCorrupt(f"{folder} cannot be loaded as a causal language model: {problem}") from problem
    generation = folder / "generation_config.json"
    ends = _json_object(generation).get("eos_token_id") if generation.is_file() else None
    text_config = config.get_text_config(decoder=True)
    return Front(
        tokenizer,
        load_profile(folder),
        _tokens(tokenizer.eos_token_id, ends, config.eos_token_id),
        int(text_config.max_position_embeddings),
    )


def load_policy(folder: pathlib.Path, dtype: torch.dtype = torch.float32) -> LoadedPolicy:
    """Loads a policy; ArtifactCorrupt says what is missing or refused.

    fp32 whatever is on disk, so that raw log-probs recompute; never code from the folder, never pickles.
    """
    require_safetensors(folder)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as problem:
        raise errors.ArtifactCorrupt(f"{folder} cannot be loaded as a causal language model: {problem}") from problem
    layers = set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())
    if layers - _DECODABLE_LAYERS:
        raise errors.ArtifactCorrupt(
            f"{folder} has layers of type {', '.join(sorted(layers - _DECODABLE_LAYERS))}, which the local engine "
            "cannot decode; use a model with attention layers only."
        )
    return LoadedPolicy(model.eval(), tokenizer, load_profile(folder))


def require_safetensors(folder: pathlib.Path) -> None:
    """ArtifactCorrupt unless the folder's weights are safetensors."""
    if not (folder / "config.json").is_file():
        raise errors.ArtifactCorrupt(f"{folder} is no Hugging Face model folder: it holds no config.json.")
    if not any(folder.glob("*.safetensors")):
        raise errors.ArtifactCorrupt(f"{folder} holds no weights as safetensors, the only kind that is loaded.")


def save_policy(model: Any, tokenizer: Any, profile: ServingProfile, folder: pathlib.Path) -> None:
    """Writes a folder that `load_policy` (and any other Hugging Face reader) loads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    document = json.dumps(dataclasses.asdict(profile), indent=2, ensure_ascii=False)
    (folder / PROFILE_FILE).write_text(document + "\n", encoding="utf-8")


def load_profile(folder: pathlib.Path) -> ServingProfile:
    """The folder's profile; without one, the sampling settings its authors put into generation_config.json."""
    path = folder / PROFILE_FILE
    if not path.is_file():
        return _authors_profile(folder)
    document = _json_object(path)
    known = {field.name for field in dataclasses.fields(ServingProfile)}
    if document.keys() - known:
        wrong = ", ".join(sorted(document.keys() - known))
        raise errors.ArtifactCorrupt(f"{path} has unknown settings: {wrong}; known are {', '.join(sorted(known))}.")
    return ServingProfile(**{**document, "stop": tuple(document.get("stop", ()))})


def _authors_profile(folder: pathlib.Path) -> ServingProfile:
    path = folder / "generation_config.json"
    document = _json_object(path) if path.is_file() else {}
    if not document.get("do_sample"):
        return ServingProfile()
    named = {name: document[name] for name in ("temperature", "top_p", "top_k") if document.get(name) is not None}
    return ServingProfile(**named)


def _json_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise errors.ArtifactCorrupt(f"{path} is not JSON: {problem}.") from problem
    if not isinstance(document, dict):
        raise errors.ArtifactCorrupt(f"{path} must hold one JSON object.")
    return document


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """All tokens that end an answer: the tokenizer's and those of the generation config (one or several)."""
    return _tokens(tokenizer.eos_token_id, model.generation_config.eos_token_id, model.config.eos_token_id)


def _tokens(*values: Any) -> frozenset[int]:
    """Of settings that hold a token, several, or none."""
    named: list[int] = []
    for value in values:
        named += value if isinstance(value, (list, tuple)) else [value]
    return frozenset(token for token in named if token is not None)


def context_tokens(model: Any) -> int:
    """Tokens that prompt and answer may have together."""
    return int(model.config.get_text_config(decoder=True).max_position_embeddings)
