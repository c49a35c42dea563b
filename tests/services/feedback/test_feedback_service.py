"""The feedback process over gRPC: judged, in the log, and only then acknowledged."""

import dataclasses
import datetime
import time
import uuid
from typing import Any

import pytest
from tests import timing

import trimtab_client
from trimtab.bus import sqlite
from trimtab.core import completions, errors, feedback, ids, text
from trimtab.feedback import app, intake, settings
from trimtab.wire import calls
from trimtabapi.feedback.v1 import feedback_service_pb2

NOW = datetime.datetime.now(datetime.UTC)
QUESTION = (text.Message(text.Role.USER, text.Text("Why?")),)


def thumb(completion_id: str, *, up: bool = True, **given: Any) -> feedback.SendRequest:
    kind = feedback.Thumb(text.ResponseRef(completion_id), up=up)
    return feedback.SendRequest(
        "acme", feedback.FeedbackEvent(**({"id": "f1", "occurred_at": NOW, "kind": kind} | given))
    )


async def test_an_acknowledged_thumb_is_in_the_log_with_its_context(service: Any) -> None:
    answered = service.completion_id()
    response = await service.calls.send(thumb(answered, surface="chat", rater=feedback.Rater(id="ab" * 16)))
    assert response == feedback.SendResponse("f1")
    [event] = service.written()
    assert event.kind == feedback.Thumb(text.ResponseRef(answered), up=True)
    assert (event.verified, event.surface, event.rater.id) == (True, "chat", "ab" * 16)
    assert event.context is not None
    assert (event.context.tenant, event.context.line, event.context.store) == ("acme", "", True)
    assert len(event.context.session_hash) == 16
    assert len(event.context.config_digest) == 64


async def test_the_same_event_again_is_acknowledged_and_written_once(service: Any) -> None:
    request = thumb(service.completion_id())
    await service.calls.send(request)
    later = thumb(request.event.kind.target.completion_id, occurred_at=NOW - datetime.timedelta(hours=1))
    assert await service.calls.send(later) == feedback.SendResponse("f1", duplicate=True)
    assert len(service.written()) == 1


async def test_the_same_id_with_another_body_conflicts(service: Any) -> None:
    answered = service.completion_id()
    await service.calls.send(thumb(answered))
    with pytest.raises(errors.ConflictingFeedback):
        await service.calls.send(thumb(answered, up=False))
    await service.calls.send(thumb(service.completion_id(), up=False))  # the id is unique per completion only
    assert len(service.written()) == 2


async def test_an_event_without_id_is_given_one(service: Any) -> None:
    response = await service.calls.send(thumb(service.completion_id(), id=""))
    assert uuid.UUID(response.feedback_id).version == 7
    assert [event.id for event in service.written()] == [response.feedback_id]


async def test_a_bare_uuid_is_taken_unverified(service: Any) -> None:
    await service.calls.send(thumb(str(uuid.uuid4())))
    assert [event.verified for event in service.written()] == [False]


async def test_a_refused_event_names_its_field_and_leaves_no_trace(service: Any) -> None:
    answered = service.completion_id()
    same = feedback.Comparison(text.ResponseRef(answered), text.ResponseRef(answered))
    across = feedback.Comparison(text.ResponseRef(answered), text.ResponseRef(service.completion_id("other")))
    refused: list[tuple[feedback.SendRequest, type[errors.TrimtabError], str]] = [
        (thumb(answered[:-2] + "AA"), errors.ForgedCompletionId, "completion_id"),
        (thumb(service.completion_id(tenant="rival")), errors.ForgedCompletionId, "completion_id"),
        (thumb(answered, kind=same), errors.InvalidField, "rejected"),
        (thumb(answered, kind=across), errors.InvalidField, "rejected.completion_id"),
        (thumb(answered, id="x" * 129), errors.InvalidField, "id"),
        (thumb(answered, occurred_at=NOW + datetime.timedelta(days=1)), errors.InvalidField, "occurred_at"),
        (thumb(answered, kind=feedback.Thumb(text.ResponseRef(answered, 128), up=True)), errors.InvalidField, "choice"),
        (thumb(answered, rater=feedback.Rater(id="Ann")), errors.InvalidField, "rater.id"),
        (thumb(answered, rater=feedback.Rater(network="192.0.2.7")), errors.InvalidField, "rater.network"),
        (feedback.SendRequest("", thumb(answered).event), errors.InvalidField, "tenant"),
        (thumb(answered, supersedes=("f1",)), errors.InvalidField, "supersedes"),
        (thumb(answered, kind=feedback.Rating(text.ResponseRef(answered), 6, 5)), errors.InvalidField, "stars"),
        (
            thumb(answered, kind=feedback.Edit(text.ResponseRef(answered), text.Text(""))),
            errors.InvalidField,
            "corrected",
        ),
        (thumb("", kind=feedback.Retraction("", answered)), errors.InvalidField, "supersedes"),
        (thumb("", kind=feedback.Demonstration(QUESTION, text.Text("So."))), errors.InvalidField, "context.line"),
    ]
    for request, kind, field in refused:
        with pytest.raises(kind) as problem:
            await service.calls.send(request)
        assert problem.value.details.get("field", "") == field
    assert service.written() == []


async def test_every_kind_is_written_as_it_was_sent(service: Any) -> None:
    answered, said = service.completion_id(), text.Text("said")
    ref, other = text.ResponseRef(answered), text.ResponseRef(answered, 1)
    kinds: list[feedback.Kind] = [
        feedback.Rating(ref, 4, 5),
        feedback.Comparison(ref, other, tie=True),
        feedback.Ranking((feedback.RankedResponse(ref, 2), feedback.RankedResponse(other, 1))),
        feedback.Edit(ref, said),
        feedback.Critique(ref, said, feedback.Span(2, 5)),
        feedback.Signal(ref, feedback.SignalKind.ABANDON),
        feedback.Retraction("a slip", answered),
    ]
    for number, kind in enumerate(kinds):
        request = thumb("", kind=kind, id=f"k{number}", supersedes=("f0",))
        assert await service.calls.send(request) == feedback.SendResponse(f"k{number}")
        assert (await service.calls.send(request)).duplicate
    written = {event.id: event for event in service.written()}
    assert [written[f"k{number}"].kind for number in range(len(kinds))] == kinds
    session_hash = ids.verify(answered, "acme", service.secrets.signing).session_hash
    assert {(event.context.session_hash, event.verified) for event in written.values()} == {(session_hash, True)}


async def test_a_demonstration_meets_its_retraction_and_the_imports_of_its_prompt(service: Any) -> None:
    shown = feedback.Demonstration(QUESTION, text.Text("So."))
    context = text.Context("", "support")
    assert await service.calls.send(thumb("", kind=shown, context=context)) == feedback.SendResponse("f1")
    assert (await service.calls.send(thumb("", kind=shown, context=context))).duplicate
    elsewhere = thumb("", kind=shown, context=text.Context("", "sales"))
    with pytest.raises(errors.ConflictingFeedback):
        await service.calls.send(elsewhere)
    back = feedback.Retraction(prompt=QUESTION)
    await service.calls.send(thumb("", kind=back, context=context, id="back", supersedes=("f1",)))
    await service.calls.import_preferences(importing(preference()))
    demonstrated, retracted, imported = sorted(service.written(), key=lambda event: (event.surface, event.id != "f1"))
    assert (demonstrated.kind, retracted.kind) == (shown, feedback.Retraction())
    assert demonstrated.context.line == retracted.context.line == "support"
    sessions = {event.context.session_hash for event in (demonstrated, retracted, imported)}
    assert len(sessions) == 1


async def test_demonstrations_of_two_tenants_share_an_id(service: Any) -> None:
    context, shown = text.Context("", "support"), feedback.Demonstration(QUESTION, text.Text("So."))
    other = feedback.Demonstration(QUESTION, text.Text("No."))
    for tenant, kind in (("acme", shown), ("rival", other)):
        request = dataclasses.replace(thumb("", kind=kind, context=context), tenant=tenant)
        assert not (await service.calls.send(request)).duplicate


async def test_an_event_that_says_no_time_was_given_now(service: Any) -> None:
    request = feedback_service_pb2.SendRequest(tenant="acme")
    request.event.thumb.target.completion_id = service.completion_id()
    before = datetime.datetime.now(datetime.UTC)
    await service.stub.Send(request, timeout=timing.PATIENCE_S)
    [event] = service.written()
    assert event.occurred_at >= before


async def test_a_batch_answers_each_event_on_its_own(service: Any) -> None:
    good, other = service.completion_id(), service.completion_id("other")
    request = feedback_service_pb2.SendBatchRequest()
    for completion_id in (good, "forged", other):
        item = request.items.add(tenant="acme")
        item.event.id = "f"
        item.event.thumb.target.completion_id = completion_id
    request.items.add(tenant="acme").event.id = "says nothing"
    response = await service.stub.SendBatch(request, timeout=timing.PATIENCE_S)
    outcomes = [result.WhichOneof("outcome") for result in response.results]
    assert outcomes == ["accepted", "refused", "accepted", "refused"]
    assert response.results[1].refused.reason == "FORGED_COMPLETION_ID"
    assert response.results[3].refused.reason == "INVALID_FIELD"
    assert "kind" in response.results[3].refused.message
    assert len(service.written()) == 2


async def test_only_processes_with_the_internal_token_may_send(service: Any, settings_of: dict[str, Any]) -> None:
    made = app.build(settings.FeedbackSettings(**settings_of))
    async with made.serving() as address, trimtab_client.connect(address, "tt-guessed") as channel:
        with pytest.raises(errors.NotAuthenticated):
            await calls.FeedbackCalls(channel).send(thumb(service.completion_id()))
    assert service.written() == []


async def test_a_log_that_is_away_is_an_error_within_its_deadline_and_not_a_yes(service: Any) -> None:
    request = thumb(service.completion_id())
    log = sqlite.SqliteLog(service.log_path, deadline_s=0.3)
    taken = intake.Intake(log, service.secrets.signing, service.secrets.hash_key, config_digest="")
    with service.writer_that_does_not_end():
        started = time.monotonic()
        with pytest.raises(errors.LogUnavailable):
            await taken.send(request)
        assert time.monotonic() - started < 0.3 + timing.SLACK_S
    assert service.written() == []
    assert await taken.send(request) == feedback.SendResponse("f1")
    log.close()


def preference(item: str = "1", *, prompt: str = "Why?", preferred: str = "Because.", rejected: str = "No.") -> Any:
    return feedback.ImportedPreference(
        prompt=(text.Message(text.Role.USER, text.Text(prompt)),),
        preferred=text.Text(preferred),
        rejected=text.Text(rejected),
        item=item,
    )


def importing(*items: feedback.ImportedPreference) -> feedback.ImportPreferencesRequest:
    return feedback.ImportPreferencesRequest("acme", "support", "hh-rlhf", items)


async def test_an_imported_preference_becomes_a_completion_and_a_comparison(service: Any) -> None:
    answer = await service.calls.import_preferences(importing(preference()))
    assert answer == feedback.ImportPreferencesResponse(accepted=1, duplicates=0)
    [completion], [event] = service.completions(), service.written()
    assert completion.origin is completions.Origin.IMPORTED
    assert completion.policy_id == ""
    token = ids.verify(completion.id, "acme", service.secrets.signing)
    assert token.imported
    assert token.session_hash == completion.context.session_hash == event.context.session_hash
    said = {ref.choice: completion.responses[ref.choice].text.read() for ref in feedback.targets(event.kind)}
    assert said[event.kind.preferred.choice] == "Because."
    assert said[event.kind.rejected.choice] == "No."
    assert event.kind.preferred.completion_id == completion.id
    assert (event.surface, event.rater.kind, event.verified) == ("hh-rlhf", feedback.RaterKind.ANNOTATOR, True)
    assert (event.context.line, completion.context.line) == ("support", "support")


async def test_importing_again_also_after_a_restart_writes_the_same_ids(
    service: Any, settings_of: dict[str, Any]
) -> None:
    request = importing(preference("1"), preference("2", prompt="How?"), preference("1"))
    first = await service.calls.import_preferences(request)
    assert (first.accepted, first.duplicates) == (2, 1)
    assert (await service.calls.import_preferences(request)).duplicates == 3
    assert len(service.written()) == 2
    made = app.build(settings.FeedbackSettings(**settings_of))
    async with made.serving() as address, trimtab_client.connect(address, made.secrets.internal_token) as channel:
        assert (await calls.FeedbackCalls(channel).import_preferences(request)).accepted == 2
    assert len(service.written()) == 4
    assert len({feedback.identity(event) for event in service.written()}) == 2
    assert len({feedback.body_digest(event) for event in service.written()}) == 2


async def test_an_operators_import_is_one_act_however_many_requests_and_restarts_it_takes(
    service: Any, settings_of: dict[str, Any]
) -> None:
    act = {"actor": "ann", "reason": "two preferences", "request_id": "1"}
    requests = [dataclasses.replace(importing(preference(item, prompt=f"{item}?")), **act) for item in "12"]
    nothing = dataclasses.replace(importing(preference(preferred=" ")), **act)
    await service.calls.import_preferences(nothing)
    assert service.acts() == []
    for request in [*requests, requests[0]]:
        await service.calls.import_preferences(request)
    made = app.build(settings.FeedbackSettings(**settings_of))
    async with made.serving() as address, trimtab_client.connect(address, made.secrets.internal_token) as channel:
        assert (await calls.FeedbackCalls(channel).import_preferences(requests[1])).accepted == 1
    [done] = service.acts()
    assert (done.id, done.act, done.actor, done.target) == ("1", "feedback.import", "ann", "support")
    assert (done.reason, done.context.tenant, done.context.line) == ("two preferences", "acme", "support")


async def test_an_import_that_no_operator_makes_is_no_act(service: Any) -> None:
    await service.calls.import_preferences(importing(preference()))
    assert service.acts() == []


async def test_a_model_and_people_compare_the_same_answers_each_under_its_own_name(service: Any) -> None:
    judge = feedback.Rater(feedback.RaterKind.MODEL, "ab" * 16)
    by_people = importing(preference())
    by_judge = dataclasses.replace(
        importing(preference(preferred="No.", rejected="Because.")), rater=judge, criterion="helpful"
    )
    for request in (by_people, by_judge, by_judge):
        await service.calls.import_preferences(request)
    people, model = service.written()
    assert len({completion.id for completion in service.completions()}) == 1
    assert people.id != model.id and people.kind.preferred == model.kind.rejected
    assert (model.rater, model.criterion, model.verified) == (judge, "helpful", True)
    assert people.rater == feedback.Rater(feedback.RaterKind.ANNOTATOR)


async def test_a_tie_is_the_same_verdict_in_either_order(service: Any) -> None:
    one, other = preference(), preference(preferred="No.", rejected="Because.")
    for item in (one, other):
        answer = await service.calls.import_preferences(importing(dataclasses.replace(item, tie=True)))
    assert answer.duplicates == 1
    [event] = service.written()
    assert event.kind.tie


async def test_what_a_thumb_was_read_from_is_part_of_what_it_says(service: Any) -> None:
    given = thumb(service.completion_id(), read_from=("critique-1",))
    await service.calls.send(given)
    [event] = service.written()
    assert event.read_from == ("critique-1",)
    other = dataclasses.replace(given, event=dataclasses.replace(given.event, read_from=("critique-2",)))
    with pytest.raises(errors.ConflictingFeedback):
        await service.calls.send(other)
    for wrong in (("",), ("c",) * 17):
        with pytest.raises(errors.InvalidField, match="read_from"):
            await service.calls.send(
                dataclasses.replace(given, event=dataclasses.replace(given.event, read_from=wrong))
            )


async def test_a_model_without_a_name_is_no_rater(service: Any) -> None:
    for rater, wrong in ((feedback.Rater(feedback.RaterKind.MODEL), "is empty"), (feedback.Rater(id="ann"), "hash")):
        with pytest.raises(errors.InvalidField, match=wrong):
            await service.calls.import_preferences(dataclasses.replace(importing(preference()), rater=rater))
    assert service.written() == []


async def test_the_position_of_an_imported_answer_tells_nothing(service: Any) -> None:
    items = [preference(str(number), preferred=f"yes {number}", rejected=f"no {number}") for number in range(400)]
    await service.calls.import_preferences(importing(*items))
    first = sum(event.kind.preferred.choice == 0 for event in service.written())
    assert 150 < first < 250


async def test_preferences_on_one_prompt_are_of_one_session(service: Any) -> None:
    await service.calls.import_preferences(
        importing(preference("1"), preference("2", preferred="Since."), preference("3", prompt="Who?"))
    )
    assert len({event.context.session_hash for event in service.written()}) == 2


async def test_what_is_no_preference_is_refused_item_by_item(service: Any) -> None:
    answer = await service.calls.import_preferences(
        importing(
            preference("good"),
            preference("no answer", preferred=" "),
            preference("no choice", rejected="Because."),
            preference("no prompt", prompt=""),
            preference("too long", rejected="x" * 65_537),
            preference("good", rejected="Other."),
            dataclasses.replace(preference("nothing asked"), prompt=()),
            preference(""),
        )
    )
    assert answer.accepted == 1
    assert [(refusal.item, refusal.refusal.reason) for refusal in answer.refused] == [
        ("no answer", "INVALID_FIELD"),
        ("no choice", "INVALID_FIELD"),
        ("no prompt", "INVALID_FIELD"),
        ("too long", "INVALID_FIELD"),
        ("good", "CONFLICTING_FEEDBACK"),
        ("nothing asked", "INVALID_FIELD"),
        ("", "INVALID_FIELD"),
    ]
    assert "`preferred` is empty" in answer.refused[0].refusal.message
    assert len(service.written()) == len(service.completions()) == 1


async def test_an_import_without_a_line_or_source_is_refused_whole(service: Any) -> None:
    for wrong in ({"line": ""}, {"source": ""}, {"source": "s" * 65}, {"tenant": ""}):
        with pytest.raises(errors.InvalidField) as refused:
            await service.calls.import_preferences(dataclasses.replace(importing(preference()), **wrong))
        assert refused.value.field in wrong
    assert service.written() == []
