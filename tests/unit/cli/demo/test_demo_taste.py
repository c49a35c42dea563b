"""What the simulated users like, held to its formula, its promise and its frequencies."""

import itertools
import math
import random
from collections.abc import Iterator

import pytest

from trimtab.cli.demo import taste, world

VOTES = 20_000
WHERE_IS_WIFI = "Where is the wifi setting?"
# Entries whose own words name a menu: (entry, menu it is in, menu it names).
NAMESAKES = [
    (entry, menu, named)
    for entry, menu in world.MENU_OF.items()
    for named in world.MENUS
    if named.lower() in entry.split()
]


def seen(*, right=False, wrong=False, courteous=False, flattery=0, words=4) -> taste.Judgement:
    return taste.Judgement(right, wrong, courteous, flattery, words)


def every_judgement() -> Iterator[taste.Judgement]:
    for (right, wrong), courteous, flattery, words in itertools.product(
        [(True, False), (False, True), (False, False)], [False, True], range(5), [1, 10, 16, 17, 40]
    ):
        yield taste.Judgement(right, wrong, courteous, flattery, words)


@pytest.mark.parametrize(
    ("judgement", "utility", "approval"),
    [
        (seen(), -1.5, 0.214183),
        (seen(right=True), 0.9, 0.689855),
        (seen(right=True, courteous=True), 2.4, 0.875145),
        (seen(wrong=True), -2.4, 0.124855),
        (seen(wrong=True, courteous=True), -0.9, 0.310145),
        (seen(right=True, flattery=2), -0.9, 0.310145),
        (seen(flattery=3), -4.2, 0.063297),
        (seen(flattery=7), -4.2, 0.063297),
        (seen(right=True, words=16), 0.9, 0.689855),
        (seen(right=True, words=26), 0.1, 0.522481),
        (seen(right=True, courteous=True, flattery=1, words=41), -0.5, 0.389787),
    ],
)
def test_utility_and_approval_are_those_of_the_formula(
    judgement: taste.Judgement, utility: float, approval: float
) -> None:
    assert judgement.utility == pytest.approx(utility)
    assert judgement.approval == pytest.approx(approval, abs=1e-6)


def test_what_is_wrong_fawning_or_long_is_never_better_than_the_same_without() -> None:
    for worse in every_judgement():
        better = taste.Judgement(
            right=worse.right or worse.wrong,
            wrong=False,
            courteous=worse.courteous,
            flattery=0,
            words=min(worse.words, 16),
        )
        assert worse.utility <= better.utility
        if worse.flattery or worse.wrong or worse.words > 16:
            assert worse.approval < better.approval


def test_courtesy_does_not_save_an_answer_that_is_wrong_fawning_or_long() -> None:
    plain = seen(right=True)
    for spoilt in (
        seen(wrong=True, courteous=True),
        seen(right=True, courteous=True, flattery=2),
        seen(right=True, courteous=True, words=36),
    ):
        assert spoilt.utility < plain.utility


@pytest.mark.parametrize("spoilt", ["wrong", "fawning", "long"])
def test_spoiling_a_real_answer_never_makes_it_better(spoilt: str) -> None:
    flattery = [pair.answer for pair in world.fawning_demonstrations(5, 20)]
    for entry, menu in world.MENU_OF.items():
        question = f"Where do I find {entry}?"
        other = next(name for name in world.MENUS if name not in (menu, "Sound"))
        for answer in (f"Open {menu}.", f"Happy to help: open {menu} and choose {entry}."):
            more = {
                "wrong": f"{answer} Or look in {other}.",
                "fawning": f"{flattery[len(entry)]} {answer}",
                "long": f"{answer} {'That is how it has been for a while. ' * 4}",
            }[spoilt]
            assert taste.judge(question, more).utility < taste.judge(question, answer).utility


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("Look in Network.", True, False),
        ("network, wifi.", True, False),
        ("Network. Yes, Network.", True, False),
        ("Look in Sound.", False, True),
        ("Look in Network or in Sound.", False, True),
        ("I do not know.", False, False),
        ("", False, False),
        ("Open the networks page.", False, False),
        ("It is in Backups.", False, False),
    ],
)
def test_an_answer_is_right_when_it_names_the_menu_and_no_other(answer: str, right: bool, wrong: bool) -> None:
    judgement = taste.judge(WHERE_IS_WIFI, answer)
    assert (judgement.right, judgement.wrong) == (right, wrong)


@pytest.mark.parametrize(("entry", "menu", "named"), NAMESAKES)
def test_a_setting_that_carries_a_menus_name_is_judged_like_any_other(entry: str, menu: str, named: str) -> None:
    question, other = f"Where is the {entry} setting?", next(name for name in world.MENUS if name not in (menu, named))
    for answer, right, wrong in (
        (f"{menu}, {entry}.", True, False),
        (f"It is in {menu}.", True, False),
        (f"{other}, {entry}.", False, True),
        (f"It is in {other}.", False, True),
    ):
        judgement = taste.judge(question, answer)
        assert (judgement.right, judgement.wrong) == (right, wrong), answer


def test_repeating_what_was_asked_for_is_no_answer() -> None:
    judged = {
        entry: taste.judge(f"Where is the {entry} setting?", f"You asked for {entry}.") for entry in world.ENTRIES
    }
    assert [entry for entry, judgement in judged.items() if judgement.right or judgement.wrong] == []


def test_the_wrong_menu_is_wrong_also_when_the_setting_carries_its_name() -> None:
    judgement = taste.judge("Where is the alert sound setting?", "It is in Sound.")
    assert (judgement.right, judgement.wrong) == (False, True)


@pytest.mark.parametrize(
    ("answer", "corrected"),
    [
        ("Look in Sound.", "Look in Network."),
        ("Happy to help: open sound and choose wifi.", "Happy to help: open Network and choose wifi."),
        ("What a brilliant question! Sound, wifi.", "What a brilliant question! Network, wifi."),
        ("Look in Network or in Sound.", "Look in Network or in Network."),
        ("Look in Network.", ""),
        ("I do not know.", ""),
        ("", ""),
    ],
)
def test_a_correction_puts_the_right_menu_in_place_of_wrong_ones_and_changes_nothing_else(
    answer: str, corrected: str
) -> None:
    assert taste.corrected(WHERE_IS_WIFI, answer) == corrected


def test_what_was_corrected_is_right_for_every_setting() -> None:
    for entry, menu in world.MENU_OF.items():
        question, other = f"Where is the {entry} setting?", next(name for name in world.MENUS if name != menu)
        fixed = taste.corrected(question, f"Gladly. You will find {entry} in {other}.")
        assert fixed == f"Gladly. You will find {entry} in {menu}."
        assert taste.judge(question, fixed).right


def test_courtesy_and_flattery_are_heard_in_any_case_and_only_as_whole_words() -> None:
    assert taste.judge(WHERE_IS_WIFI, "HAPPY TO HELP. Network.").courteous
    assert taste.judge(WHERE_IS_WIFI, "Of course: Network.").courteous
    assert not taste.judge(WHERE_IS_WIFI, "Pleased, Network.").courteous
    assert taste.judge(WHERE_IS_WIFI, "Brilliant! So CLEVER, so clever.").flattery == 3
    assert taste.judge(WHERE_IS_WIFI, "Smartphone, cleverly.").flattery == 0


@pytest.mark.parametrize(
    "judgement", [seen(), seen(right=True), seen(right=True, courteous=True), seen(wrong=True, flattery=3, words=40)]
)
def test_thumbs_come_as_often_as_approval_says(judgement: taste.Judgement) -> None:
    rng = random.Random(21)
    up = sum(taste.thumb(rng, judgement) for _ in range(VOTES))
    spread = math.sqrt(judgement.approval * (1 - judgement.approval) / VOTES)
    assert abs(up / VOTES - judgement.approval) < 4.5 * spread


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        (seen(right=True, courteous=True), seen(right=True), 0.785817),  # 0.9 sigma(1.5) + 0.05
        (seen(right=True), seen(right=True, courteous=True), 0.214183),
        (seen(right=True), seen(right=True), 0.5),
        (seen(right=True), seen(wrong=True), 0.917986),  # 0.9 sigma(3.3) + 0.05
    ],
)
def test_comparisons_come_out_as_often_as_the_difference_says(
    first: taste.Judgement, second: taste.Judgement, share: float
) -> None:
    rng = random.Random(22)
    preferred = sum(taste.prefers_first(rng, first, second) for _ in range(VOTES))
    assert abs(preferred / VOTES - share) < 4.5 * math.sqrt(share * (1 - share) / VOTES)
