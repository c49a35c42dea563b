"""What both sides train on: a small Llama that answers, reward weights, and texts, in a folder of files.

    policy/, reward/   Hugging Face folders
    rows.json          demonstrations, pairs, thumbs and prompts as text and as tokens of the policy
    dataset/           the same rows as a data set of Trimtab's

The texts are the demo's. "short": one answer each, in a context of 160 tokens. "long": one to twelve answers joined,
most of them few, so that lengths spread as in real data. The policy has learned to end its answers, so that what
on-policy methods sample has the lengths of real answers too.
"""

import dataclasses
import json
import pathlib
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence

import torch
from tests.benchmarks import peers
from tests.benchmarks.training import plan

from trimtab.cli.demo import world
from trimtab.modeling import loading, rewards, tiny
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import sft
from trimtab.trainer.steps import progress

VERSION = 3
_PARTS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 6, 8, 12)


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How many rows of each kind the data of a model has, of how many answers each, and the model's shape.

    taught: passes of SFT before measuring.
    """

    parts: tuple[int, ...]
    rows: int
    taught: int = 0
    hidden: int = 0
    layers: int = 0
    heads: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    context: int = 0


SIZES = {
    "0.5M": Size((1,), 240, 8, hidden=96, layers=4, heads=4, intermediate=256, vocabulary=700, context=256),
    plan.PRETRAINED: Size(_PARTS, 12),
}


def made(name: str) -> pathlib.Path:
    """The folder of a size, made if it is absent."""
    folder = peers.CACHE / "benchmarks" / f"{name}-{VERSION}"
    if not (folder / "rows.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        torch.set_num_threads(1)
        said = world.demonstrations(1, 6000)
        policy = _pretrained(folder) if name == plan.PRETRAINED else _tiny(SIZES[name], said)
        _make(policy, SIZES[name], said, folder)
    return folder


def work(name: str) -> dict[str, float]:
    """Floating-point operations of a pass over the data of a trainer that shares nothing, by method.

    6 for each weight that multiplies a token: 2 forward, 4 backward, 2 of them for the weight's own gradient, which one
    beside an adapter does not have. The vocabulary's are multiplied with answers only.
    """
    folder = made(name)
    rows = json.loads((folder / "rows.json").read_text())
    model = loading.load_policy(folder / "policy").model
    body = sum(one.weight.numel() for one in model.base_model.modules() if isinstance(one, torch.nn.Linear))
    head = model.get_output_embeddings().weight.numel()
    each = 4.0 if name == plan.PRETRAINED else 6.0

    def of(kind: str, head: int) -> float:
        operations = 0.0
        for row in rows:
            for response in row["response_ids"] if row["kind"] == kind else ():
                operations += each * (body * (len(row["prompt_ids"]) + len(response)) + head * len(response))
        return operations

    return {
        "sft": of("demonstration", head),
        "reward": of("pair", 0),
        "dpo": of("pair", head),
        "kto": of("thumb", head),
    }


def _pretrained(folder: pathlib.Path) -> loading.LoadedPolicy:
    tool = peers.CACHE.parent / "tools" / "smollm2.py"
    fetched = folder.with_name(f"{folder.name}.fetched")
    subprocess.run([sys.executable, str(tool), str(fetched)], check=True, stdout=sys.stderr)
    return loading.load_policy(fetched)


def _tiny(size: Size, said: Sequence[world.Demonstration]) -> loading.LoadedPolicy:
    tokenizer = tiny.train_bpe([text for one in said[:1500] for text in (one.question, one.answer)], size.vocabulary)
    model = tiny.tiny_llama(
        len(tokenizer), 1, hidden=size.hidden, layers=size.layers, heads=size.heads,
        intermediate=size.intermediate, context=size.context,
    )  # fmt: skip
    return loading.LoadedPolicy(model, tokenizer, loading.ServingProfile(max_tokens=size.context // 2))


def _make(policy: loading.LoadedPolicy, size: Size, said: Sequence[world.Demonstration], folder: pathlib.Path) -> None:
    rng = random.Random("workload")

    def answer() -> str:
        return " ".join(rng.choice(said).answer for _ in range(rng.choice(size.parts)))

    examples: list[datasets.DatasetExample] = []
    for number in range(size.rows):
        prompt = [{"role": "user", "content": said[number].question}]
        chosen, rejected = answer(), answer()
        examples += [
            datasets.DatasetExample(f"d{number}", "train", "demonstration", prompt, response=chosen),
            datasets.DatasetExample(f"p{number}", "train", "pair", prompt, chosen=chosen, rejected=rejected),
            datasets.DatasetExample(f"t{number}", "train", "thumb", prompt, response=chosen, up=number % 2 == 0),
        ]
    scratch = folder / "teaching"
    scratch.mkdir(parents=True)
    if size.taught:
        settings = recipes.SFTSettings(optimizer="muon", epochs=size.taught, lr=3e-3, matrix_lr=6e-3)
        sft.train(policy, datasets.Dataset(examples), settings, 1, progress.Progress(scratch))
    shutil.rmtree(scratch)
    loading.save_policy(policy.model, policy.tokenizer, policy.profile, folder / "policy")
    reward = rewards.from_policy(policy)
    torch.manual_seed(1)
    torch.nn.init.normal_(reward.model.score.weight, std=0.1)
    rewards.save_reward_model(reward, folder / "reward")
    datasets.write(folder / "dataset", examples, [])
    (folder / "rows.json").write_text(json.dumps([_row(policy, one) for one in examples]))


def _row(policy: loading.LoadedPolicy, example: datasets.DatasetExample) -> dict[str, object]:
    """One example as TRL takes it. Texts carry the tokens of the template: TRL need not know it."""
    encoder = encoding.encoder_of(policy)
    texts = [example.chosen, example.rejected] if example.kind == "pair" else [example.response]
    encoded = [encoder.encode(encoding.messages_of(example.prompt), text) for text in texts]
    if any(isinstance(one, str) for one in encoded):
        raise ValueError(f"an example of the workload does not fit: {encoded}")
    first = encoded[0]
    assert not isinstance(first, str)
    return {
        "kind": example.kind,
        "prompt": policy.tokenizer.decode(first.prompt),
        "prompt_ids": first.prompt,
        "texts": [f"{text}{policy.tokenizer.eos_token}" for text in texts],
        "response_ids": [one.response for one in encoded if not isinstance(one, str)],
        "up": example.up,
    }
