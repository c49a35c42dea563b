"""One way to open a channel: retries where they are safe, health checks, keepalive, the token on every call."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

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
_IDEMPOTENT_WITH_ASSIGNMENT = (("trimtabapi.policy.v1.PolicyService", ("Complete", "StreamComplete")),)


def connect(address: str, token: str = "", *, assigns_ids: bool = False) -> grpc.aio.Channel:
    """A channel to a Trimtab service at host:port (or any gRPC target name). Open it inside the event loop.

    token: an API key at the gateway, the internal token elsewhere. assigns_ids: every completion asked for over this
    channel carries its assignment, so that completions may be retried too.
    """
    options = [
        ("grpc.service_config", json.dumps(_service_config(assigns_ids))),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # channels of one process to one address share nothing: a drained one must not poison its successor
        ("grpc.use_local_subchannel_pool", 1),
    ]
    interceptors = [_UnaryToken(token), _StreamToken(token)] if token else []
    return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)


def _service_config(assigns_ids: bool) -> dict[str, Any]:
    retried = [*_IDEMPOTENT.items(), *(_IDEMPOTENT_WITH_ASSIGNMENT if assigns_ids else ())]
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
