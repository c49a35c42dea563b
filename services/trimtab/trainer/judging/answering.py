"""Answers that a policy is judged by: which prompts, which seeds, how they are drawn. Called by the other modules of
this package and by the report of a run (`cli.models.reporting`).

The prompts are fixed for a line: the held-out ones in the order of their hashes, so that every candidate is asked the
same ones, and new feedback adds to them without choosing others. The seed of an answer is a function of its prompt and
of whose turn it is, never of the run: what serves gives the same answers whichever candidate it is compared with.
"""

import collections
import hashlib
import json
from collections.abc import Iterable, Sequence

from trimtab.core import text
from trimtab.modeling import decoder, loading
from trimtab.trainer.data import encoding

Prompt = tuple[text.Message, ...]


def digest(prompt: Prompt) -> str:
    """Of roles and texts, hex."""
    turns = [[message.role.value, message.content.read()] for message in prompt]
    return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()


def fixed(prompts: Iterable[Prompt], count: int) -> list[Prompt]:
    """The first `count` of them by their hashes."""
    return sorted(prompts, key=digest)[:count]


def fitting(policies: Sequence[loading.LoadedPolicy], prompts: Iterable[Prompt]) -> list[Prompt]:
    """Those that leave every one of the policies room for an answer."""
    encoders = [encoding.encoder_of(policy) for policy in policies]
    # the end-of-sequence token alone is the shortest answer
    return [p for p in prompts if not any(isinstance(encoder.encode(p, ""), str) for encoder in encoders)]


def rendered(policy: loading.LoadedPolicy, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """The prompts' tokens as the policy is given them; all of them must fit (`fitting`)."""
    encoder = encoding.encoder_of(policy)
    made = [encoder.encode(prompt, "") for prompt in prompts]
    return [answer.prompt for answer in made if not isinstance(answer, str)]


def as_served(policy: loading.LoadedPolicy, prompts: Sequence[Prompt], limit: int, turn: str) -> list[decoder.Decoded]:
    """One answer to each prompt, sampled as the policy's profile says. limit: most tokens; turn: whose it is."""
    profile = policy.profile
    return _drawn(
        policy, prompts, limit, turn, temperature=profile.temperature, top_p=profile.top_p, top_k=profile.top_k
    )


def untruncated(
    policy: loading.LoadedPolicy, prompts: Sequence[Prompt], limit: int, turn: str
) -> list[decoder.Decoded]:
    """One answer to each prompt from the policy's own distribution: temperature 1, every token possible."""
    return _drawn(policy, prompts, limit, turn, stops=False)


def is_untruncated(profile: loading.ServingProfile) -> bool:
    """Whether what is served is drawn as `untruncated` draws."""
    return (profile.temperature, profile.top_p, profile.top_k, profile.stop) == (1.0, 1.0, 0, ())


def greedy(policy: loading.LoadedPolicy, prompts: Sequence[Prompt], limit: int) -> list[decoder.Decoded]:
    """The likeliest next token each time: a policy's answer to a probe is a property of its weights."""
    return _drawn(policy, prompts, limit, "greedy", temperature=0.0)


def _drawn(
    policy: loading.LoadedPolicy,
    prompts: Sequence[Prompt],
    limit: int,
    turn: str,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stops: bool = True,
) -> list[decoder.Decoded]:
    seen: collections.Counter[str] = collections.Counter()
    requests = []
    for prompt, tokens in zip(prompts, rendered(policy, prompts), strict=True):
        name = digest(prompt)
        requests.append(
            decoder.DecodeRequest(
                tokens,
                min(policy.profile.max_tokens, limit),
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                stop=policy.profile.stop if stops else (),
                seed=encoding.seed_of(turn, name, seen[name]),
            )
        )
        seen[name] += 1
    return decoder.decode_all(policy.model, policy.tokenizer, requests)
