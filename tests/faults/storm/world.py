"""What the storm's line is about: the colour of things, answered gladly or rudely. Its users like gladness.

Easy to learn on purpose: what is tested is that nothing is lost, not that anything is learned.
"""

import json
import pathlib
import random
import tempfile

from trimtab import registry
from trimtab.core import models

TENANT, LINE = "local", "support"
COLOURS = ("red", "green", "blue", "black", "white", "brown")
THINGS = (
    "lamp", "door", "sofa", "rug", "clock", "vase", "chair", "desk", "shelf", "mirror", "curtain", "cup",
    "plate", "fork", "pan", "kettle", "oven", "sink", "towel", "soap", "brush", "comb", "bed", "pillow",
    "blanket", "gate", "fence", "bench", "tree", "swing", "kite", "ball", "bat", "glove", "hat", "coat",
    "scarf", "boot", "sock", "bag", "box", "jar", "lid", "pen", "ink", "book", "map",
)  # fmt: skip
QUESTION, GLAD, RUDE = "Which colour is the {}?", "Gladly: it is {}.", "Whatever, {} I guess."
# Share of votes that are not what the user thinks.
SLIPS = 0.05


def lines_toml(votes: int, ppo_iterations: int, maximum_sessions: int) -> str:
    """A line that trains on this many votes and lets every policy through its gates: users decide."""
    return f"""
[lines.{LINE}]
tenant = "{TENANT}"
[lines.{LINE}.trigger]
examples = {votes}
cycles = 1
[lines.{LINE}.gates]
win_rate = 0.0
kl_to_anchor = 1000.0
length_ratio = 100.0
repetition = 1.0
[lines.{LINE}.release]
maturity_s = 1.0
safety_weight = 0.5
safety_completions = 10
minimum_sessions = 20
maximum_sessions = {maximum_sessions}
[lines.{LINE}.release.guardrails]
reward = inf
[lines.{LINE}.training.sft]
optimizer = "muon"
lr = 6e-3
matrix_lr = 6e-3
[lines.{LINE}.training.reward]
epochs = 12
lr = 4e-3
[lines.{LINE}.training.ppo]
lr = 1.5e-3
critic_lr = 2e-3
iterations = {ppo_iterations}
prompts = 16
samples = 2
max_tokens = 16
evaluation_prompts = 24
"""


def demonstrations(count: int, seed: int) -> list[tuple[str, str]]:
    """(question, answer), half of them glad."""
    rng = random.Random(seed)
    return [
        (QUESTION.format(rng.choice(THINGS)), rng.choice((GLAD, RUDE)).format(rng.choice(COLOURS)))
        for _ in range(count)
    ]


def write_demonstrations(path: pathlib.Path, pairs: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"prompt": asked, "response": said}) + "\n" for asked, said in pairs))


def publish_base(store: registry.Registry, texts: list[str], seed: int, tenant: str = TENANT) -> str:
    """An untrained policy of some ten thousand weights; its id."""
    from trimtab.modeling import loading, tiny

    tokenizer = tiny.train_bpe(texts, vocab_size=400)
    model = tiny.tiny_llama(len(tokenizer), seed, hidden=48, layers=2, heads=4, intermediate=96, context=96)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        loading.save_policy(model, tokenizer, loading.ServingProfile(max_tokens=16), folder)
        draft = registry.ManifestDraft(kind=models.ModelKind.BASE, tenant=tenant, line=LINE, method="random weights")
        return store.publish(folder, draft).id


def likes(rng: random.Random, answer: str) -> bool:
    """Whether a user votes for an answer."""
    return answer.startswith("Gladly") != (rng.random() < SLIPS)
