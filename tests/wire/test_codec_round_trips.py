"""Every core record survives the wire unchanged; bytes that cannot be read say so and nothing worse."""

import dataclasses
import datetime
import enum
import types
import typing

import hypothesis
import pytest
from hypothesis import strategies
from tests.wire import records

from trimtab.core import completions, control, errors, feedback, ledger, releases, runs, scoring, text
from trimtab.wire import codec, schemas
from trimtabapi.completion.v1 import completion_pb2
from trimtabapi.feedback.v1 import feedback_pb2, feedback_service_pb2
from trimtabapi.ledger.v1 import ledger_service_pb2
from trimtabapi.policy.v1 import policy_service_pb2
from trimtabapi.release.v1 import release_pb2
from trimtabapi.reward.v1 import reward_service_pb2
from trimtabapi.rollout.v1 import rollout_service_pb2
from trimtabapi.trainer.v1 import trainer_service_pb2

SCALARS = {
    str: strategies.text(max_size=12),
    int: strategies.integers(0, 2**32 - 1),
    float: strategies.floats(width=32, allow_nan=False),
    bool: strategies.booleans(),
    bytes: strategies.binary(max_size=12),
    datetime.datetime: strategies.datetimes(timezones=strategies.just(datetime.UTC)),
}


def values(hint: object) -> strategies.SearchStrategy:
    """Any value that a type hint of the core allows."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return strategies.one_of(*(values(arg) for arg in args))
    if origin is tuple:
        return strategies.lists(values(args[0]), max_size=2).map(tuple)
    if origin is dict:
        return strategies.dictionaries(values(args[0]), values(args[1]), max_size=2)
    if hint is types.NoneType:
        return strategies.none()
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return strategies.sampled_from(hint)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return strategies.builds(hint, **{field.name: values(hints[field.name]) for field in dataclasses.fields(hint)})
    return SCALARS[hint]


QUICK = hypothesis.settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)


@pytest.mark.parametrize("kind", [type(record) for record in records.RECORDS.values()])
@QUICK
@hypothesis.given(data=strategies.data())
def test_a_record_of_any_content_reads_as_it_was_written(kind, data):
    record = data.draw(values(kind))
    assert schemas.decode(*schemas.encode(record), kind) == record


MESSAGES = [
    (completions.CompleteRequest, policy_service_pb2.CompleteRequest),
    (completions.CompleteResponse, policy_service_pb2.CompleteResponse),
    (completions.StreamCompleteResponse, policy_service_pb2.StreamCompleteResponse),
    (completions.DescribeResponse, policy_service_pb2.DescribeResponse),
    (feedback.SendRequest, feedback_service_pb2.SendRequest),
    (feedback.SendBatchResponse, feedback_service_pb2.SendBatchResponse),
    (feedback.ImportPreferencesRequest, feedback_service_pb2.ImportPreferencesRequest),
    (feedback.ImportPreferencesResponse, feedback_service_pb2.ImportPreferencesResponse),
    (scoring.ScoreRequest, reward_service_pb2.ScoreRequest),
    (scoring.ScoreResponse, reward_service_pb2.ScoreResponse),
    (scoring.ListRewardModelsResponse, reward_service_pb2.ListRewardModelsResponse),
    (ledger.EvidenceResponse, ledger_service_pb2.EvidenceResponse),
    (ledger.CountsResponse, ledger_service_pb2.CountsResponse),
    (ledger.TracedFeedback, ledger_service_pb2.TracedFeedback),
    (ledger.DatasetMembership, ledger_service_pb2.DatasetMembership),
    (ledger.AcquireLeaseRequest, ledger_service_pb2.AcquireLeaseRequest),
    (ledger.AcquireLeaseResponse, ledger_service_pb2.AcquireLeaseResponse),
    (runs.StartRunRequest, trainer_service_pb2.StartRunRequest),
    (runs.Run, trainer_service_pb2.Run),
    (control.AdoptRequest, rollout_service_pb2.AdoptRequest),
    (control.StartReleaseRequest, rollout_service_pb2.StartReleaseRequest),
    (control.LineRequest, rollout_service_pb2.PromoteRequest),
    (control.LineRequest, rollout_service_pb2.UndoRequest),
]


@pytest.mark.parametrize(("kind", "wire"), MESSAGES, ids=[f"{wire.__name__}" for _, wire in MESSAGES])
@hypothesis.settings(QUICK, max_examples=15)
@hypothesis.given(data=strategies.data())
def test_a_message_of_any_content_reads_as_it_was_written(kind, wire, data):
    value = data.draw(values(kind))
    sent = codec.to_proto(value, wire).SerializeToString()
    assert codec.from_proto(wire.FromString(sent), kind) == value


@pytest.mark.parametrize("kind", [type(record) for record in records.RECORDS.values()])
@hypothesis.settings(QUICK, max_examples=60)
@hypothesis.given(poison=strategies.binary(max_size=80))
def test_poison_bytes_are_malformed_or_a_record_and_nothing_else(kind, poison):
    _, headers = schemas.encode(next(record for record in records.RECORDS.values() if type(record) is kind))
    try:
        record = schemas.decode(poison, headers, kind)
    except errors.MalformedRecord as problem:
        assert str(problem).startswith("It cannot be read")
    else:
        assert isinstance(record, kind)


@pytest.mark.parametrize("topic", sorted(records.RECORDS))
@hypothesis.settings(QUICK, max_examples=60)
@hypothesis.given(data=strategies.data())
def test_a_damaged_record_is_malformed_or_a_record_and_nothing_else(topic, data):
    record = records.RECORDS[topic]
    value, headers = schemas.encode(record)
    damaged = bytearray(value)
    damaged[data.draw(strategies.integers(0, len(value) - 1))] ^= data.draw(strategies.integers(1, 255))
    try:
        schemas.decode(bytes(damaged), headers, type(record))
    except errors.MalformedRecord as problem:
        assert str(problem)


def test_a_moment_outside_the_calendar_is_malformed():
    event = feedback_pb2.FeedbackEvent(id="1", thumb=feedback_pb2.Thumb(up=True), verified=True)
    event.thumb.target.completion_id = "c"
    event.rater.kind = feedback_pb2.RATER_KIND_USER
    event.occurred_at.seconds = 2**62
    with pytest.raises(errors.InvalidField, match="occurred_at"):
        codec.from_proto(event, feedback.FeedbackEvent)


def test_a_missing_choice_names_the_field_and_the_choices():
    with pytest.raises(errors.InvalidField, match=r"`event.kind` is missing; set one of .*thumb.*comparison"):
        request = feedback_service_pb2.SendRequest(tenant="acme", event=feedback_pb2.FeedbackEvent(id="1"))
        request.event.occurred_at.seconds = 1
        codec.from_proto(request, feedback.SendRequest)


def test_an_unset_enum_names_the_field_in_its_list():
    request = policy_service_pb2.CompleteRequest()
    request.messages.add().content.plain = "hello"
    with pytest.raises(errors.InvalidField, match=r"`messages\[0\]\.role` .* set one of SYSTEM, USER, ASSISTANT"):
        codec.from_proto(request, completions.CompleteRequest)


def test_an_absent_optional_is_none_and_a_zero_is_zero():
    absent = codec.from_proto(completion_pb2.Sampling(), completions.Sampling)
    zero = codec.from_proto(completion_pb2.Sampling(temperature=0.0, seed=0), completions.Sampling)
    assert (absent.temperature, absent.seed) == (None, None)
    assert (zero.temperature, zero.seed) == (0.0, 0)


def test_unscored_is_not_zero():
    for outcome in (0.0, "too long"):
        sent = codec.to_proto(scoring.Score(outcome), reward_service_pb2.Score)
        assert codec.from_proto(sent, scoring.Score).outcome == outcome
    with pytest.raises(errors.InvalidField, match="outcome"):
        codec.from_proto(reward_service_pb2.Score(), scoring.Score)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (
            completions.CompleteRequest((text.Message(text.Role.USER, text.Text("\ud800")),)),
            r"messages\[0\].content.body",
        ),
        (completions.CompleteRequest((), sampling=completions.Sampling(top_k=-1)), "sampling.top_k"),
        (completions.CompleteRequest((), sampling=completions.Sampling(stop=("\udfff",))), "sampling.stop"),
        (completions.CompleteRequest((), n=2**32), "n"),
    ],
)
def test_a_value_that_no_message_holds_names_its_field(value, field):
    with pytest.raises(errors.InvalidField, match=field):
        codec.to_proto(value, policy_service_pb2.CompleteRequest)


def test_a_member_of_a_newer_writer_is_refused_not_guessed():
    release = codec.to_proto(records.RECORDS["rollouts"], release_pb2.Release)
    release.state = 99
    with pytest.raises(errors.InvalidField, match="state"):
        codec.from_proto(release, releases.Release)
