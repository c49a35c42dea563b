"""How channels are opened: retries where they are safe, health checks, keepalive, large enough messages.

`connect` is for services, which call each other with the internal token; `open_sync` and `open_async` are for the SDK
(`client`, `aio`).
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from trimtab_client import errors

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# Calls that can be made twice and count once: reads, and writes that carry their own identity.
_IDEMPOTENT: dict[str, tuple[str, ...]] = {
    "trimtabapi.policy.v1.PolicyService": ("Describe",),
    "trimtabapi.feedback.v1.FeedbackService": ("Send", "SendBatch", "ImportPreferences"),
    "trimtabapi.reward.v1.RewardService": ("Score", "ListRewardModels"),
    "trimtabapi.ledger.v1.LedgerService": (
        "Trace",
        "Lineage",
        "Evidence",
        "Counts",
        "AcquireLease",
        "ReleaseLease",
        "ListTasks",
    ),
    "trimtabapi.trainer.v1.TrainerService": ("GetRun", "ListRuns", "WatchRun", "CancelRun"),
    "trimtabapi.rollout.v1.RolloutService": ("GetRelease", "ListReleases", "WatchReleases"),
}
# Safe for a caller that fixes the completion id before it calls, as the gateway does.
_ANSWERS = {"trimtabapi.policy.v1.PolicyService": ("Complete", "StreamComplete")}


def connect(address: str, token: str = "", *, assigns_ids: bool = False) -> grpc.aio.Channel:
    """A channel to a Trimtab service at host:port (or any gRPC target name). Open it inside the event loop.

    token: an API key at the gateway, the internal token elsewhere. assigns_ids: every completion asked for over this
    channel carries its assignment, so that completions may be retried too.
    """
    retried = [*_IDEMPOTENT.items(), *(_ANSWERS.items() if assigns_ids else ())]
    interceptors = [_UnaryToken(token), _StreamToken(token)] if token else []
    return grpc.aio.insecure_channel(address, options=_options(retried), interceptors=interceptors)


def open_sync(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """An app's channel to the gateway; in the clear without credentials."""
    if credentials is None:
        return grpc.insecure_channel(address, options=_app_options())
    return grpc.secure_channel(address, credentials, options=_app_options())


def open_async(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """The same for asyncio. Open it inside the event loop."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=_app_options())
    return grpc.aio.secure_channel(address, credentials, options=_app_options())


def metadata(api_key: str) -> tuple[tuple[str, str], ...]:
    """What every call of an app carries; InvalidField when that cannot be a key."""
    if not (api_key and api_key.isascii() and api_key.isprintable()):
        raise errors.invalid_field("api_key", "is no API key", "give the key alone, as the platform printed it")
    return (("authorization", f"Bearer {api_key}"),)


def _app_options() -> list[tuple[str, Any]]:
    # an answer that was made and lost on its way has an id nobody saw: asking again counts nothing twice.
    # Feedback is not among these: `sending` retries it longer than gRPC would
    return _options(_ANSWERS.items())


def _options(retried: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[str, Any]]:
    """`retried`: pairs of a service and its methods that are called again when the service was unavailable."""
    return [
        ("grpc.service_config", json.dumps(_service_config(retried))),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # a name that leads to pods leads to others soon: by default it is not looked up again within 30 s
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # channels of one process to one address share nothing: a drained one must not poison its successor
        ("grpc.use_local_subchannel_pool", 1),
    ]


def _service_config(retried: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, Any]:
    return {
        # health checks need a policy that watches every address; pick_first ignores them
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {"name": [{"service": service, "method": method} for method in methods], "retryPolicy": _RETRY}
            for service, methods in retried
        ],
    }


def _with_token(details: grpc.aio.ClientCallDetails, token: str) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata["authorization"] = f"Bearer {token}"
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class _UnaryToken(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_token(client_call_details, self._token), request)


class _StreamToken(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_token(client_call_details, self._token), request)
