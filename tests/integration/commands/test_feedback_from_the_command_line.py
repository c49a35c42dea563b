"""Every kind of feedback from a terminal, through gateway and ledger; and what a person is told when it is refused."""

from typing import Any

import pytest
from tests import timing
from tests.integration.commands.conftest import Recorded

from trimtab.cli.models import inspecting
from trimtab.core import feedback

pytestmark = pytest.mark.slow


def known(recorded: Recorded, feedback_id: str, wanted: str = "joined") -> dict[str, Any]:
    """What the ledger says of an event, once it has come to say this."""
    found: list[feedback.FeedbackEvent] = []

    def arrived() -> bool:
        chain = recorded.trace(feedback_id).feedback
        found[:] = [one.event for one in chain if one.event.id == feedback_id and one.status.value == wanted]
        return bool(found)

    timing.until(arrived, f"{wanted} feedback", 60)
    return dict(inspecting.plain(found[0]))


def test_every_kind_arrives_as_it_was_said(recorded: Recorded) -> None:
    answer = recorded.answer(choices=3)
    said: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
        "Thumb": (("thumb", answer, "down"), {"up": False}),
        "Rating": (("rating", f"{answer}:1", "7", "--scale", "10"), {"stars": 7, "scale": 10}),
        "Comparison": (("comparison", answer, f"{answer}:2", "--strength", "0.5"), {"strength": 0.5, "tie": False}),
        "Edit": (("edit", answer, "So."), {"corrected": {"body": "So."}}),
        "Demonstration": (("demonstration", "Who?", "You."), {"response": {"body": "You."}}),
        "Critique": (("critique", answer, "Long.", "--span", "0:3"), {"span": {"start": 0, "end": 3}}),
        "Signal": (("signal", answer, "copy"), {"signal": "copy"}),
    }
    more = ("--rater", "ann", "--rater-kind", "annotator", "--surface", "desk", "--criterion", "helpful")
    sent = {kind: recorded.told("feedback", "send", *words, *more) for kind, (words, _) in said.items()}
    for kind, (_, parts) in said.items():
        event = known(recorded, sent[kind]["id"])
        assert event["kind"]["type"] == kind
        assert {name: event["kind"][name] for name in parts} == parts
        assert (event["surface"], event["criterion"], event["rater"]["kind"]) == ("desk", "helpful", "annotator")
        assert sent[kind]["completion_id"] == ("" if kind == "Demonstration" else answer)


def test_ties_are_said_in_comparisons_and_rankings(recorded: Recorded) -> None:
    answer = recorded.answer(choices=3)
    tie = recorded.told("feedback", "send", "comparison", answer, f"{answer}:1", "--tie")
    assert known(recorded, tie["id"])["kind"]["tie"] is True
    ranked = recorded.told("feedback", "send", "ranking", f"{answer}:2", f"{answer}={answer}:1")
    items = known(recorded, ranked["id"])["kind"]["items"]
    assert [(item["target"]["choice"], item["rank"]) for item in items] == [(2, 1), (0, 2), (1, 2)]


def test_feedback_is_amended_and_taken_back_by_its_id(recorded: Recorded) -> None:
    answer = recorded.answer()
    first = recorded.told("feedback", "send", "thumb", answer, "up")["id"]
    second = recorded.told("feedback", "send", "rating", answer, "2", "--supersedes", first)["id"]
    assert known(recorded, second)["supersedes"] == [first]
    known(recorded, first, "superseded")
    recorded.told("feedback", "send", "retraction", second, "--reason", "a slip")
    known(recorded, second, "superseded")
    shown = recorded.told("feedback", "send", "demonstration", "Where?", "There.")["id"]
    known(recorded, shown)
    recorded.told("feedback", "send", "retraction", shown)
    known(recorded, shown, "superseded")


def test_a_text_may_come_from_standard_input(recorded: Recorded) -> None:
    code, _, err = recorded.trimtab(
        "feedback", "send", "edit", recorded.answer(), "-", "--id", "from-input", typed="Two\nlines."
    )
    assert (code, err) == (0, "")
    assert known(recorded, "from-input")["kind"]["corrected"]["body"] == "Two\nlines."


def test_the_same_id_counts_once_and_with_another_body_is_a_sentence(recorded: Recorded) -> None:
    words = ("feedback", "send", "thumb", recorded.answer())
    _, first, _ = recorded.trimtab(*words, "up", "--id", "click-1")
    _, second, _ = recorded.trimtab(*words, "up", "--id", "click-1")
    assert "acknowledged: it is on disk" in first
    assert "known already: it counts once" in second
    code, out, err = recorded.trimtab(*words, "down", "--id", "click-1")
    assert (code, out) == (1, "")
    assert "`supersedes`" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("thumb", "chatcmpl-forged", "up"), "was not issued by this platform"),
        (("thumb", "ANSWER:x", "up"), "give ID, or ID:1 for its second choice"),
        (("rating", "ANSWER", "9"), "`stars` is 9; send 1 to 5, its `scale`"),
        (("critique", "ANSWER", "Long.", "--span", "3"), "give START:END in characters"),
        (("comparison", "ANSWER", "ANSWER"), "compare two different answers"),
        (("ranking", "ANSWER"), "items"),
        (("edit", "ANSWER", ""), "corrected"),
        (("retraction", "no-such-id"), "no-such-id"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_what_is_refused_is_the_services_sentence(recorded: Recorded, words: tuple[str, ...], sentence: str) -> None:
    answer = recorded.answer()
    code, out, err = recorded.trimtab("feedback", "send", *(word.replace("ANSWER", answer) for word in words))
    assert (code, out) == (1, "")
    assert err.startswith("trimtab: ")
    assert sentence in err
    assert err.count("\n") == 1
