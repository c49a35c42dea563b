"""What a sender of feedback may leave out, filled in; and batches of which single items cannot be read.

Called by the feedback doors (`feedback.servicer`, `gateway.servicer`); plain records go through `wire.codec`.
"""

from trimtab.core import clock, errors, feedback
from trimtab.wire import codec
from trimtabapi.feedback.v1 import feedback_service_pb2


def read_send(request: feedback_service_pb2.SendRequest, now: clock.Clock = clock.utc_now) -> feedback.SendRequest:
    """The request; an event that does not say when it was given was given now."""
    if request.HasField("event") and not request.event.HasField("occurred_at"):
        request.event.occurred_at.FromDatetime(now())
    return codec.from_proto(request, feedback.SendRequest)


def read_batch(
    request: feedback_service_pb2.SendBatchRequest,
) -> tuple[feedback.SendRequest | errors.TrimtabError, ...]:
    """The items in order; one that cannot be read is the error that says why, and the others stand."""
    return tuple(_read_item(item) for item in request.items)


def _read_item(item: feedback_service_pb2.SendRequest) -> feedback.SendRequest | errors.TrimtabError:
    try:
        return read_send(item)
    except (errors.InvalidField, errors.MalformedRecord) as problem:
        return problem
