"""Data sets that a policy of a few thousand weights can learn from in seconds."""

import random

from trimtab.trainer import datasets

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
