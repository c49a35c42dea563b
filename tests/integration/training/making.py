"""Data sets that a policy of a few thousand weights can learn from in seconds."""

import random
from typing import Any

from trimtab.trainer.data import datasets

COLOURS = ("red", "green", "blue", "black", "white", "brown")
KIND, RUDE = "Gladly: it is {}.", "Whatever, {} I guess."


def prompt(colour: str) -> list[datasets.Turn]:
    return [{"role": "user", "content": f"Which colour is the {colour} one?"}]


def demonstrations(count: int = 48) -> datasets.Dataset:
    """Half kind, half rude; every seventh is held out."""
    rows = []
    for i in range(count):
        colour = COLOURS[i % len(COLOURS)]
        split: datasets.Split = "held_out" if i % 7 == 6 else "train"
        answer = (KIND if i % 2 else RUDE).format(colour)
        rows.append(datasets.DatasetExample(f"d{i}", split, "demonstration", prompt(colour), response=answer))
    return datasets.Dataset(rows)


def texts(count: int = 60) -> datasets.Dataset:
    """Documents of one question and its kind answer; every sixth is held out."""
    rows = []
    for i in range(count):
        colour = COLOURS[i % len(COLOURS)]
        said = f"Which colour is the {colour} one? {KIND.format(colour)}"
        split: datasets.Split = "held_out" if i % 6 == 5 else "train"
        rows.append(datasets.DatasetExample(f"text{i}", split, "text", [], response=said))
    return datasets.Dataset(rows)


def feedback(pairs: int = 60, thumbs: int = 60, noise: float = 0.1) -> datasets.Dataset:
    """Raters who like the kind answer, now and then the other; every third is held out."""
    rng = random.Random(5)
    rows = []
    for i in range(pairs + thumbs):
        colour, likes_kind = COLOURS[rng.randrange(len(COLOURS))], rng.random() >= noise
        split: datasets.Split = "held_out" if i % 3 == 2 else "train"
        kind, rude = KIND.format(rng.choice(COLOURS)), RUDE.format(rng.choice(COLOURS))
        if i < pairs:
            chosen, rejected = (kind, rude) if likes_kind else (rude, kind)
            row = datasets.DatasetExample(
                f"p{i}", split, "pair", prompt(colour), chosen=chosen, rejected=rejected, rater=f"r{i}"
            )
        else:
            answer = kind if rng.random() < 0.5 else rude
            up = (answer == kind) is likes_kind
            row = datasets.DatasetExample(
                f"t{i}", split, "thumb", prompt(colour), response=answer, up=up, surface="app", rater=f"r{i}"
            )
        rows.append(row)
    return datasets.Dataset(rows)


def every_kind(each: int = 120, noise: float = 0.1) -> datasets.Dataset:
    """The same raters, who also tie, edit, give one to three stars, rank three answers and leave signals."""
    rng = random.Random(6)
    rows = []
    for i in range(each):
        split: datasets.Split = "held_out" if i % 2 else "train"
        colour, asked = rng.choice(COLOURS), rng.choice(COLOURS)
        kind, rude, other = KIND.format(colour), RUDE.format(colour), RUDE.format(rng.choice(COLOURS))
        likes_kind = rng.random() >= noise
        liked, disliked = (kind, rude) if likes_kind else (rude, kind)
        shown = rng.choice((kind, rude))
        stars = rng.choice((2, 3)) if shown == liked else rng.choice((1, 2))
        ranks = (1, 2, 2) if rng.random() < 0.4 else (1, 2, 3)
        texts = (liked, disliked, other if other != disliked else RUDE.format("blue and black"))
        ranked = [datasets.RankedText(response=t, rank=r) for t, r in zip(texts, ranks, strict=True)]
        said: list[dict[str, Any]] = [
            {"kind": "pair", "chosen": rude, "rejected": other, "tie": True}
            if i % 5 < 2 and rude != other
            else {"kind": "pair", "chosen": liked, "rejected": disliked},
            {"kind": "edit", "chosen": kind, "rejected": rude},
            {"kind": "thumb", "response": shown, "up": shown == liked, "surface": "app"},
            {"kind": "rating", "response": shown, "stars": stars, "scale": 3},
            {"kind": "ranking", "ranked": ranked},
        ]
        if split == "held_out":
            said.append({"kind": "signal", "response": shown, "up": shown == liked, "weight": 0.0})
        rows += [
            datasets.DatasetExample(f"{i} {number}", split, prompt=prompt(asked), rater=f"r{i}", **one)
            for number, one in enumerate(said)
        ]
    return datasets.Dataset(rows)
