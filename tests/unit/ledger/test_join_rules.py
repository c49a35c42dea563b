"""Feedback joins its completion once, whenever either arrives, or is refused for a reason that is told."""

import dataclasses
from collections.abc import Sequence

import pytest
from tests.unit.ledger import making

from trimtab.core import completions, errors, examples, feedback, ids, ledger, text
from trimtab.ledger import counting


def counts(store: making.Ledger, line: str = making.LINE) -> ledger.CountsResponse:
    return counting.counts(store.store, ledger.CountsRequest(making.TENANT, line))


def only(store: making.Ledger) -> examples.Example:
    [example] = store.newest().values()
    return example


def test_a_thumb_becomes_an_example_with_everything_a_data_set_needs(ledger: making.Ledger) -> None:
    answer = making.completion(exposure=making.exposed(propensity=0.25))
    ledger.take(answer, making.thumb(answer, up=False))
    example = only(ledger)
    assert example.kind == examples.ThumbExample(answer.responses[0].text, up=False)
    assert (example.prompt, example.context, example.policy_ids) == (answer.prompt, answer.context, ("policy",))
    assert example.responses == (text.ResponseRef(answer.id, 0),)
    assert (example.revision, example.sequence, example.propensity) == (1, 1, 0.25)
    assert example.partition == ids.partition_of(answer.context.session_hash, 8)
    assert example.fold == ids.fold_of(answer.context.session_hash)
    assert (example.feedback_id, example.feedback_chain, example.occurred_at) == ("f", ("f",), making.at(1.0))


def test_feedback_before_its_completion_waits_and_then_joins(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(making.thumb(answer))
    assert (counts(ledger).waiting, ledger.emitted()) == (1, [])
    ledger.take(answer)
    assert (counts(ledger).waiting, counts(ledger).joined, len(ledger.emitted())) == (0, 1, 1)


def test_the_same_body_again_is_a_dropped_copy(ledger: making.Ledger) -> None:
    answer = making.completion()
    again = making.thumb(answer, occurred=9.0)
    ledger.take(answer, making.thumb(answer), making.thumb(answer))
    ledger.take(again)
    assert (counts(ledger).feedback, counts(ledger).joined, counts(ledger).duplicates) == (1, 1, 2)
    assert only(ledger).occurred_at == making.at(1.0)


def test_another_body_under_the_same_id_is_a_conflict_and_does_not_count(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(answer, making.thumb(answer, up=True))
    ledger.take(making.thumb(answer, up=False))
    found = counts(ledger)
    assert (found.feedback, found.joined, found.conflicts, found.examples) == (2, 1, 1, 1)
    assert only(ledger).kind == examples.ThumbExample(answer.responses[0].text, up=True)


def test_the_same_feedback_id_on_two_completions_is_two_events(ledger: making.Ledger) -> None:
    one, two = making.completion(number=1), making.completion(number=2)
    ledger.take(one, two, making.thumb(one), making.thumb(two))
    assert (counts(ledger).joined, len(ledger.newest())) == (2, 2)


def test_a_comparison_waits_for_all_its_completions(ledger: making.Ledger) -> None:
    one, two = making.completion(number=1, texts=["better"]), making.completion(number=2, texts=["worse"])
    ledger.take(making.comparison(making.ref(one), making.ref(two), one), one)
    assert counts(ledger).waiting == 1
    ledger.take(two)
    assert only(ledger).kind == examples.PairExample(text.Text("better"), text.Text("worse"))


def test_a_comparison_of_two_choices_of_one_completion_joins(ledger: making.Ledger) -> None:
    answer = making.completion(texts=["worse", "better"])
    ledger.take(making.comparison(making.ref(answer, 1), making.ref(answer, 0), answer), answer)
    assert only(ledger).kind == examples.PairExample(text.Text("better"), text.Text("worse"))


def test_a_comparison_sent_again_with_sides_swapped_is_a_conflict(ledger: making.Ledger) -> None:
    one, two = making.completion(number=1, texts=["a"]), making.completion(number=2, texts=["b"])
    ledger.take(one, two, making.comparison(making.ref(one), making.ref(two), one))
    ledger.take(making.comparison(making.ref(two), making.ref(one), one))
    assert (counts(ledger).joined, counts(ledger).conflicts) == (1, 1)


def test_a_bare_uuid_joins_the_tenants_completion_and_no_other_tenants(ledger: making.Ledger) -> None:
    own, foreign = making.completion(), making.completion(tenant="other")
    ledger.take(making.thumb(own, "own", bare=True), making.thumb(foreign, "foreign", bare=True))
    assert counts(ledger).waiting == 2
    ledger.take(own, foreign)
    found = counts(ledger)
    assert (found.joined, found.rejected_by_reason) == (1, {"completion of another tenant": 1})
    assert only(ledger).context == own.context


def test_the_same_event_by_signed_id_and_by_bare_uuid_counts_once(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(making.thumb(answer, bare=True), answer)
    ledger.take(making.thumb(answer))
    found = counts(ledger)
    assert (found.feedback, found.joined, found.duplicates, found.examples) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("answer", "choice", "reason"),
    [
        (making.completion(), 1, "choice out of range"),
        (making.completion(store=False), 0, "no consent to keep the completion"),
    ],
)
def test_what_can_never_join_is_rejected_with_its_reason(
    ledger: making.Ledger, answer: completions.Completion, choice: int, reason: str
) -> None:
    ledger.take(making.thumb(answer, choice=choice))
    ledger.take(answer)
    assert (counts(ledger).rejected_by_reason, ledger.emitted()) == ({reason: 1}, [])


def test_votes_on_empty_and_on_identical_answers_join(ledger: making.Ledger) -> None:
    empty, twins = making.completion(texts=[" \n"]), making.completion(number=1, texts=["same", "same"])
    ledger.take(making.thumb(empty), making.comparison(making.ref(twins, 0), making.ref(twins, 1), twins))
    ledger.take(empty, twins)
    found = counts(ledger)
    assert (found.joined, found.rejected_by_reason, len(ledger.emitted())) == (2, {}, 2)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (making.completion("elsewhere", texts=["b"]), "sessions differ"),
        (making.completion(number=1, texts=["b"], line="sales"), "lines differ"),
        (making.completion(number=1, texts=["b"], prompt="another question"), "prompts differ"),
    ],
)
def test_answers_that_were_not_given_to_the_same_question_of_one_session_are_not_compared(
    ledger: making.Ledger, other: completions.Completion, reason: str
) -> None:
    one = making.completion(texts=["a"])
    targets = making.ref(one, bare=True), making.ref(other, bare=True)
    ledger.take(one, other, making.comparison(*targets, one, bare=True))
    assert counts(ledger, line="").rejected_by_reason == {reason: 1}


def test_an_import_joins_like_anything_else(ledger: making.Ledger) -> None:
    answer = making.completion(texts=["a", "b"], origin=completions.Origin.IMPORTED)
    ledger.take(answer, making.comparison(making.ref(answer, 1), making.ref(answer, 0), answer))
    assert only(ledger).kind == examples.PairExample(text.Text("b"), text.Text("a"))


def test_an_amendment_revises_the_example_and_a_retraction_withdraws_it(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(answer, making.thumb(answer, "first", up=True))
    ledger.take(making.thumb(answer, "second", up=False, supersedes=["first"], occurred=2.0, rater="r"))
    ledger.take(making.event(feedback.Retraction(), "third", about=answer, supersedes=["second"]))
    revisions = ledger.emitted()
    assert len({example.id for example in revisions}) == 1
    assert [(example.revision, example.withdrawn) for example in revisions] == [(1, False), (2, False), (3, True)]
    assert revisions[1].kind == examples.ThumbExample(answer.responses[0].text, up=False)
    assert (revisions[2].kind, revisions[2].prompt) == (None, ())
    found = counts(ledger)
    assert (found.joined, found.superseded, found.examples) == (1, 2, 0)


def test_an_amendment_waits_for_what_it_supersedes(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(answer, making.thumb(answer, "second", up=False, supersedes=["first"], rater="r"))
    assert (counts(ledger).waiting, ledger.emitted()) == (1, [])
    ledger.take(making.thumb(answer, "first"))
    assert [example.feedback_id for example in ledger.emitted()] == ["second"]


def test_a_raters_second_thumb_on_an_answer_amends_the_first(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(answer, making.thumb(answer, "late", up=False, occurred=5.0))
    ledger.take(making.thumb(answer, "early", up=True, occurred=2.0), making.thumb(answer, "other", rater="else"))
    by_rater = {example.rater.id: example.feedback_id for example in ledger.newest().values()}
    assert by_rater == {"": "late", "else": "other"}


def test_sequences_rise_by_one_within_a_partition(ledger: making.Ledger) -> None:
    for number in range(30):
        answer = making.completion(f"s{number}")
        ledger.take(answer, making.thumb(answer))
    by_partition: dict[int, list[int]] = {}
    for example in ledger.emitted():
        by_partition.setdefault(example.partition, []).append(example.sequence)
    assert len(by_partition) > 1
    assert all(found == list(range(1, len(found) + 1)) for found in by_partition.values())


def said_of(answer: completions.Completion) -> list[tuple[feedback.Kind, examples.Kind]]:
    """Every kind about a completion with answers "a" and "b", and the example it becomes."""
    target, other, body, said = making.ref(answer), making.ref(answer, 1), text.Text("a"), text.Text("said")
    ranking = feedback.Ranking((feedback.RankedResponse(target, 2), feedback.RankedResponse(other, 1)))
    ranked = (examples.RankedText(body, 2), examples.RankedText(text.Text("b"), 1))
    return [
        (feedback.Thumb(target, False), examples.ThumbExample(body, False)),
        (feedback.Rating(target, 3, 5), examples.RatingExample(body, 3, 5)),
        (feedback.Comparison(target, other, 0.5), examples.PairExample(body, text.Text("b"), 0.5)),
        (feedback.Comparison(target, other, tie=True), examples.PairExample(body, text.Text("b"), tie=True)),
        (ranking, examples.RankingExample(ranked)),
        (feedback.Edit(target, said), examples.EditExample(body, said)),
        (feedback.Demonstration(answer.prompt, said), examples.DemonstrationExample(said)),
        (feedback.Critique(target, said), examples.CritiqueExample(body, said)),
        (
            feedback.Critique(target, said, feedback.Span(0, 1)),
            examples.CritiqueExample(body, said, feedback.Span(0, 1)),
        ),
        (feedback.Signal(target, feedback.SignalKind.COPY), examples.SignalExample(body, feedback.SignalKind.COPY)),
    ]


ANSWER = making.completion(texts=["a", "b"])


@pytest.mark.parametrize(("kind", "expected"), said_of(ANSWER))
def test_every_kind_joins_is_amended_and_is_taken_back(
    ledger: making.Ledger, kind: feedback.Kind, expected: examples.Kind
) -> None:
    ledger.take(ANSWER, making.event(feedback.Thumb(making.ref(ANSWER, 1), True), "f", about=ANSWER))
    ledger.take(making.event(kind, "f2", about=ANSWER, supersedes=["f"], occurred=2.0))
    example = only(ledger)
    assert (example.kind, example.prompt, example.revision) == (expected, ANSWER.prompt, 2)
    assert example.feedback_chain == ("f", "f2")
    ledger.take(making.event(feedback.Retraction("", ANSWER.id), "f3", about=ANSWER, supersedes=["f2"], occurred=3.0))
    assert ledger.newest() == {}
    assert (counts(ledger).superseded, counts(ledger).examples) == (2, 0)


def test_a_demonstration_is_of_its_own_line_and_taken_back_without_a_completion(ledger: making.Ledger) -> None:
    ledger.take(making.event(feedback.Demonstration(ANSWER.prompt, text.Text("so")), "shown", line=making.LINE))
    example = only(ledger)
    assert (example.prompt, example.responses, example.context.line) == (ANSWER.prompt, (), making.LINE)
    assert (counts(ledger).joined, counts(ledger).examples) == (1, 1)
    ledger.take(making.event(feedback.Retraction(), "back", supersedes=["shown"]))
    assert (counts(ledger).superseded, counts(ledger).examples) == (1, 0)
    [_, withdrawn] = ledger.emitted()
    assert (withdrawn.withdrawn, withdrawn.prompt, withdrawn.context.line) == (True, (), making.LINE)


def test_a_retraction_takes_back_what_is_about_its_completion_and_no_other_of_that_name(ledger: making.Ledger) -> None:
    one, two = making.completion(number=1), making.completion(number=2)
    ledger.take(one, two, making.thumb(one), making.thumb(two))
    ledger.take(making.event(feedback.Retraction("", one.id), "back", about=one, supersedes=["f"]))
    assert [example.responses[0].completion_id for example in ledger.newest().values()] == [two.id]
    [withdrawn] = [example for example in ledger.emitted() if example.withdrawn]
    assert withdrawn.responses == (text.ResponseRef(one.id),)


def test_a_retraction_by_bare_uuid_takes_back_what_was_sent_by_signed_id(ledger: making.Ledger) -> None:
    answer = making.completion()
    back = feedback.Retraction("", str(ids.uuid_of(answer.id)))
    ledger.take(making.event(back, "back", about=answer, bare=True, supersedes=["f"]), making.thumb(answer))
    ledger.take(answer)
    assert (counts(ledger).joined, counts(ledger).superseded, ledger.newest()) == (1, 1, {})


def test_after_a_retraction_a_vote_counts_that_names_it(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(answer, making.thumb(answer, "one"))
    ledger.take(making.event(feedback.Retraction("", answer.id), "two", about=answer, supersedes=["one"]))
    ledger.take(making.thumb(answer, "three", occurred=5.0))
    assert ledger.newest() == {}
    ledger.take(making.thumb(answer, "four", up=False, occurred=6.0, supersedes=["two", "three"]))
    assert only(ledger).feedback_id == "four"


def test_a_raters_second_ranking_of_the_same_answers_amends_the_first(ledger: making.Ledger) -> None:
    def ranking(*ranks: int) -> feedback.Ranking:
        refs = [making.ref(ANSWER, choice) for choice in range(2)]
        return feedback.Ranking(tuple(map(feedback.RankedResponse, refs, ranks)))

    ledger.take(ANSWER, making.event(ranking(1, 2), "one", about=ANSWER))
    ledger.take(making.event(ranking(2, 1), "two", about=ANSWER, occurred=2.0))
    assert (only(ledger).feedback_id, only(ledger).revision) == ("two", 2)


def test_what_says_the_same_in_another_order_is_a_copy(ledger: making.Ledger) -> None:
    one, other = making.ref(ANSWER), making.ref(ANSWER, 1)
    ranked = (feedback.RankedResponse(one, 1), feedback.RankedResponse(other, 2))
    ledger.take(ANSWER)
    for name, first, again in (
        ("tie", feedback.Comparison(one, other, tie=True), feedback.Comparison(other, one, tie=True)),
        ("ranking", feedback.Ranking(ranked), feedback.Ranking(ranked[::-1])),
    ):
        ledger.take(making.event(first, name, about=ANSWER), making.event(again, name, about=ANSWER))
    assert (counts(ledger).joined, counts(ledger).duplicates, counts(ledger).conflicts) == (2, 2, 0)


def test_a_critique_of_a_piece_that_the_answer_does_not_have_is_rejected(ledger: making.Ledger) -> None:
    critique = feedback.Critique(making.ref(ANSWER), text.Text("dull"), feedback.Span(0, 2))
    ledger.take(ANSWER, making.event(critique, about=ANSWER))
    assert counts(ledger).rejected_by_reason == {"span outside the answer": 1}


def test_stars_that_no_scale_has_are_malformed(ledger: making.Ledger) -> None:
    for stars, scale in ((0, 5), (6, 5), (1, 1)):
        with pytest.raises(errors.MalformedRecord):
            ledger.take(making.event(feedback.Rating(making.ref(ANSWER), stars, scale), about=ANSWER))


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (4, 3, 0, 5, 1, 2), (2, 0, 4, 5, 3, 1)])
@pytest.mark.parametrize("taken_back", [1, 2])
def test_what_was_read_from_critiques_counts_as_long_as_one_of_them_does(
    ledger: making.Ledger, taken_back: int, order: Sequence[int]
) -> None:
    answer = making.completion()
    critiques = [
        making.event(feedback.Critique(making.ref(answer), text.Text("too long")), name, about=answer) for name in "ab"
    ]
    thumb = making.thumb(answer, "read", up=False, rater_kind=feedback.RaterKind.MODEL, rater="model m")
    retractions = [
        making.event(feedback.Retraction(), f"back {name}", about=answer, supersedes=[name]) for name in "ab"
    ]
    records = [answer, *critiques, dataclasses.replace(thumb, read_from=("a", "b")), *retractions]
    for number in order:
        if number < 4 + taken_back:
            ledger.take(records[number])
    read = [one for one in ledger.newest().values() if one.feedback_id == "read"]
    assert [one.withdrawn for one in read] in ([taken_back == 2], [] if taken_back == 2 else [False])
