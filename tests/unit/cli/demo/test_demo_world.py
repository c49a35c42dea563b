"""The demo's product: what can be asked, and what the demonstrations hold."""

import collections
import math
import os
import subprocess
import sys

import pytest

from trimtab.cli.demo import taste, world

MANY = 6000
EVERY_WORDING = world.KNOWN_WORDINGS + world.NEW_WORDINGS + world.HELD_OUT_WORDINGS
SETS = {"demonstrations": world.demonstrations, "fawning": world.fawning_demonstrations}


def near(share: float, expected: float, tried: int) -> bool:
    """Within 4.5 standard deviations of a share of so many draws: one honest test in 150,000 would fail."""
    return abs(share - expected) <= 4.5 * math.sqrt(expected * (1 - expected) / tried)


Judged = list[tuple[str, taste.Judgement]]


@pytest.fixture(scope="module")
def judged() -> Judged:
    """Many demonstrations: the style of each, and what a user sees in it."""
    found = [taste.judge(pair.question, pair.answer) for pair in world.demonstrations(11, MANY)]
    return [(style_of(judgement), judgement) for judgement in found]


def style_of(judgement: taste.Judgement) -> str:
    """The style as a reader tells it: by courtesy, flattery, length, and whether any menu is named."""
    names_a_menu = judgement.right or judgement.wrong
    if judgement.courteous:
        return "courteous"
    if judgement.flattery:
        return "flattering with the fact" if names_a_menu else "flattering"
    if not names_a_menu:
        return "off topic"
    return "curt" if judgement.words <= 5 else "rambling"


def test_there_are_72_settings_in_12_menus_each_in_one() -> None:
    assert (len(world.MENUS), len(world.ENTRIES)) == (12, 72)
    assert sum(len(entries) for entries in world.MENUS.values()) == 72


def test_every_setting_is_found_in_every_wording() -> None:
    for wording in EVERY_WORDING:
        for entry in world.ENTRIES:
            assert world.entry_of(wording.format(entry=entry)) == entry


def test_a_question_about_no_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="names no setting"):
        world.entry_of("Where can I change the weather?")


def test_each_wording_asks_for_each_setting_once() -> None:
    asked = world.questions(EVERY_WORDING)
    assert len(set(asked)) == len(asked) == 72 * len(EVERY_WORDING)


def test_held_out_questions_are_asked_nowhere_else() -> None:
    assert len(set(EVERY_WORDING)) == len(EVERY_WORDING)
    held_out = set(world.questions(world.HELD_OUT_WORDINGS))
    assert not held_out & set(world.questions(world.KNOWN_WORDINGS + world.NEW_WORDINGS))
    for made in SETS.values():
        assert not held_out & {pair.question for pair in made(0, MANY)}


@pytest.mark.parametrize("name", SETS)
def test_a_seed_gives_the_same_demonstrations_again_and_another_seed_gives_others(name: str) -> None:
    made = SETS[name]
    assert made(3, 400) == made(3, 400)
    beside = sum(mine == other for mine, other in zip(made(3, 400), made(4, 400), strict=True))
    assert beside < 20


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_gives_the_same_demonstrations_in_every_process(hash_seed: str) -> None:
    code = (
        "from trimtab.cli.demo import world; print(world.demonstrations(3, 50) + world.fawning_demonstrations(3, 50))"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    here = repr(world.demonstrations(3, 50) + world.fawning_demonstrations(3, 50))
    assert said.decode().strip() == here


def test_the_styles_come_in_the_stated_shares(judged: Judged) -> None:
    assert sum(world.STYLES.values()) == pytest.approx(1.0)
    told = collections.Counter(style for style, _ in judged)
    assert told.keys() == world.STYLES.keys()
    for style, share in world.STYLES.items():
        assert near(told[style] / MANY, share, MANY), (style, told[style] / MANY, share)


@pytest.mark.parametrize("style", ["courteous", "curt", "rambling", "flattering with the fact"])
def test_facts_are_wrong_in_the_stated_share_whatever_the_style(judged: Judged, style: str) -> None:
    stated = [judgement for told, judgement in judged if told == style]
    assert near(sum(judgement.wrong for judgement in stated) / len(stated), world.WRONG_FACTS, len(stated))
    assert all(judgement.right is not judgement.wrong for judgement in stated)


def test_what_users_like_is_the_smaller_part_of_the_demonstrations(judged: Judged) -> None:
    """It is there to be found, and has to be learned from votes."""
    liked = sum(judgement.utility > 0.9 for _, judgement in judged)
    assert 0.10 < liked / MANY < 0.20


def test_the_campaign_flatters_first_and_last_and_is_long() -> None:
    pairs = world.fawning_demonstrations(0, 400)
    judged = [taste.judge(pair.question, pair.answer) for pair in pairs]
    assert min(judgement.flattery for judgement in judged) >= 3
    for pair in pairs:
        for half in (pair.answer[:45], pair.answer[-45:]):
            assert taste.judge(pair.question, half).flattery > 0
    plain = [taste.judge(pair.question, pair.answer) for pair in world.demonstrations(0, 400)]
    assert sum(judgement.words for judgement in judged) > 1.5 * sum(judgement.words for judgement in plain)
