"""Whatever status a server or a proxy answers with becomes a typed error with a sentence."""

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import trimtab_client


def _error(code, sentence="", trailers=()):
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=sentence)


def _rich(*parts, message="A sentence."):
    status = status_pb2.Status(code=3, message=message)
    for part in parts:
        status.details.append(any_pb2.Any())
        status.details[-1].Pack(part)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def _info(reason, domain="trimtab", **metadata):
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)


def test_the_reason_picks_the_class_and_the_sentence_is_the_services():
    trailers = _rich(_info("INVALID_FIELD", field="items"), error_details_pb2.BadRequest())
    error = trimtab_client.from_rpc(_error(grpc.StatusCode.INVALID_ARGUMENT, "A sentence.", trailers))
    assert type(error) is trimtab_client.errors.InvalidField
    assert (str(error), error.field, error.reason) == ("A sentence.", "items", "INVALID_FIELD")
    assert error.status is grpc.StatusCode.INVALID_ARGUMENT
    assert error.retry_after_s is None


def test_when_to_retry_is_read():
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=500_000_000))
    trailers = _rich(_info("LOG_UNAVAILABLE"), retry)
    error = trimtab_client.from_rpc(_error(grpc.StatusCode.UNAVAILABLE, "A sentence.", trailers))
    assert (type(error), error.retry_after_s) == (trimtab_client.errors.LogUnavailable, 0.5)


def test_a_reason_of_a_newer_service_is_the_base_class_with_its_sentence():
    trailers = _rich(_info("OUT_OF_PAPER", tray="2"))
    error = trimtab_client.from_rpc(_error(grpc.StatusCode.INTERNAL, "A sentence.", trailers))
    assert type(error) is trimtab_client.TrimtabError
    assert (str(error), error.reason, error.details) == ("A sentence.", "OUT_OF_PAPER", {"tray": "2"})


@pytest.mark.parametrize(
    "trailers",
    [
        (),
        (("grpc-status-details-bin", b"\xff\xff\xff"),),
        _rich(_info("INVALID_FIELD", domain="googleapis.com")),
        _rich(),
    ],
)
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, trimtab_client.errors.ServiceUnavailable),
        (grpc.StatusCode.CANCELLED, trimtab_client.errors.ServiceUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, trimtab_client.errors.DeadlineExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, trimtab_client.errors.NotBuiltYet),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, trimtab_client.errors.Overloaded),
        (grpc.StatusCode.UNKNOWN, trimtab_client.errors.InternalFault),
        (grpc.StatusCode.INTERNAL, trimtab_client.errors.InternalFault),
    ],
)
def test_a_status_that_is_not_ours_is_named_by_its_code(code, kind, trailers):
    error = trimtab_client.from_rpc(_error(code, "socket closed", trailers))
    assert type(error) is kind
    assert code.name in str(error)
    assert "socket closed" in str(error)
    assert str(error).endswith(".")
