"""Calls to the other processes: core dataclasses in, core dataclasses out, core errors raised.

Used by services and the command line, over a channel of `trimtab_client.connect`. An error comes back as the class of
`core.errors` it was raised as, with its sentence; a service that cannot be reached is ServiceUnavailable. Streams are
async generators: closing one (`contextlib.aclosing`) cancels the call at once.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf import message

import trimtab_client
from trimtab.core import completions, control, errors, feedback, ledger, releases, runs, scoring
from trimtab.wire import codec
from trimtabapi.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from trimtabapi.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc
from trimtabapi.reward.v1 import reward_service_pb2, reward_service_pb2_grpc
from trimtabapi.rollout.v1 import rollout_service_pb2, rollout_service_pb2_grpc
from trimtabapi.trainer.v1 import trainer_service_pb2, trainer_service_pb2_grpc

_Core = TypeVar("_Core")
QUICK_S = 10.0
GENERATE_S = 120.0


def core_error(problem: grpc.aio.AioRpcError) -> errors.TrimtabError:
    """The core error that a failed call stands for."""
    remote = trimtab_client.from_rpc(problem)
    return errors.restore(remote.reason, str(remote), remote.details) or errors.InternalFault(f"A call ({remote})")


def read(answer: message.Message, kind: type[_Core]) -> _Core:
    """The core dataclass of an answer. One that cannot be read is the service's fault, not a field of the caller's."""
    try:
        return codec.from_proto(answer, kind)
    except errors.InvalidField as problem:
        raise errors.InternalFault(f"Reading the service's {type(answer).__name__} ({problem})") from problem


async def ask(method: Any, request: message.Message, timeout_s: float) -> Any:
    """The answer of one method of a stub; a failed call is the core error that it stands for."""
    try:
        return await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as problem:
        raise core_error(problem) from problem


async def _listen(method: Any, request: message.Message, timeout_s: float | None) -> AsyncGenerator[Any, None]:
    call = method(request, timeout=timeout_s)
    try:
        async for event in call:
            yield event
    except grpc.aio.AioRpcError as problem:
        raise core_error(problem) from problem
    finally:
        call.cancel()


class PolicyCalls:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = policy_service_pb2_grpc.PolicyServiceStub(channel)

    async def complete(
        self, request: completions.CompleteRequest, *, timeout_s: float = GENERATE_S
    ) -> completions.CompleteResponse:
        wire = codec.to_proto(request, policy_service_pb2.CompleteRequest)
        answer = await ask(self._stub.Complete, wire, timeout_s)
        return read(answer, completions.CompleteResponse)

    async def stream_complete(
        self, request: completions.CompleteRequest, *, timeout_s: float = GENERATE_S
    ) -> AsyncGenerator[completions.StreamCompleteResponse, None]:
        wire = codec.to_proto(request, policy_service_pb2.CompleteRequest)
        async with contextlib.aclosing(_listen(self._stub.StreamComplete, wire, timeout_s)) as events:
            async for event in events:
                yield read(event, completions.StreamCompleteResponse)

    async def describe(self, *, timeout_s: float = QUICK_S) -> completions.DescribeResponse:
        answer = await ask(self._stub.Describe, policy_service_pb2.DescribeRequest(), timeout_s)
        return read(answer, completions.DescribeResponse)


class FeedbackCalls:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = feedback_service_pb2_grpc.FeedbackServiceStub(channel)

    async def send(self, request: feedback.SendRequest, *, timeout_s: float = QUICK_S) -> feedback.SendResponse:
        wire = codec.to_proto(request, feedback_service_pb2.SendRequest)
        return read(await ask(self._stub.Send, wire, timeout_s), feedback.SendResponse)

    async def send_batch(
        self, request: feedback.SendBatchRequest, *, timeout_s: float = QUICK_S
    ) -> feedback.SendBatchResponse:
        wire = codec.to_proto(request, feedback_service_pb2.SendBatchRequest)
        return read(await ask(self._stub.SendBatch, wire, timeout_s), feedback.SendBatchResponse)

    async def import_preferences(
        self, request: feedback.ImportPreferencesRequest, *, timeout_s: float = 60.0
    ) -> feedback.ImportPreferencesResponse:
        wire = codec.to_proto(request, feedback_service_pb2.ImportPreferencesRequest)
        answer = await ask(self._stub.ImportPreferences, wire, timeout_s)
        return read(answer, feedback.ImportPreferencesResponse)


class RewardCalls:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = reward_service_pb2_grpc.RewardServiceStub(channel)

    async def score(self, request: scoring.ScoreRequest, *, timeout_s: float = GENERATE_S) -> scoring.ScoreResponse:
        wire = codec.to_proto(request, reward_service_pb2.ScoreRequest)
        return read(await ask(self._stub.Score, wire, timeout_s), scoring.ScoreResponse)

    async def list_reward_models(self, *, timeout_s: float = QUICK_S) -> scoring.ListRewardModelsResponse:
        answer = await ask(self._stub.ListRewardModels, reward_service_pb2.ListRewardModelsRequest(), timeout_s)
        return read(answer, scoring.ListRewardModelsResponse)


class LedgerCalls:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)

    async def trace(self, request: ledger.TraceRequest, *, timeout_s: float = QUICK_S) -> ledger.TraceResponse:
        wire = codec.to_proto(request, ledger_service_pb2.TraceRequest)
        return read(await ask(self._stub.Trace, wire, timeout_s), ledger.TraceResponse)

    async def lineage(self, request: ledger.LineageRequest, *, timeout_s: float = QUICK_S) -> ledger.LineageResponse:
        wire = codec.to_proto(request, ledger_service_pb2.LineageRequest)
        return read(await ask(self._stub.Lineage, wire, timeout_s), ledger.LineageResponse)

    async def evidence(self, request: ledger.EvidenceRequest, *, timeout_s: float = 30.0) -> ledger.EvidenceResponse:
        wire = codec.to_proto(request, ledger_service_pb2.EvidenceRequest)
        async with contextlib.aclosing(_listen(self._stub.Evidence, wire, timeout_s)) as parts:
            return ledger.in_one([read(part, ledger.EvidenceResponse) async for part in parts])

    async def unscored(self, request: ledger.UnscoredRequest, *, timeout_s: float = QUICK_S) -> ledger.UnscoredResponse:
        wire = codec.to_proto(request, ledger_service_pb2.UnscoredRequest)
        return read(await ask(self._stub.Unscored, wire, timeout_s), ledger.UnscoredResponse)

    async def counts(self, request: ledger.CountsRequest, *, timeout_s: float = QUICK_S) -> ledger.CountsResponse:
        wire = codec.to_proto(request, ledger_service_pb2.CountsRequest)
        return read(await ask(self._stub.Counts, wire, timeout_s), ledger.CountsResponse)

    async def list_quarantines(
        self, request: ledger.ListQuarantinesRequest, *, timeout_s: float = QUICK_S
    ) -> ledger.ListQuarantinesResponse:
        wire = codec.to_proto(request, ledger_service_pb2.ListQuarantinesRequest)
        return read(await ask(self._stub.ListQuarantines, wire, timeout_s), ledger.ListQuarantinesResponse)

    async def list_audit(
        self, request: ledger.ListAuditRequest, *, timeout_s: float = QUICK_S
    ) -> ledger.ListAuditResponse:
        wire = codec.to_proto(request, ledger_service_pb2.ListAuditRequest)
        return read(await ask(self._stub.ListAudit, wire, timeout_s), ledger.ListAuditResponse)

    async def acquire_lease(
        self, request: ledger.AcquireLeaseRequest, *, timeout_s: float = QUICK_S
    ) -> ledger.AcquireLeaseResponse:
        wire = codec.to_proto(request, ledger_service_pb2.AcquireLeaseRequest)
        return read(await ask(self._stub.AcquireLease, wire, timeout_s), ledger.AcquireLeaseResponse)

    async def release_lease(self, request: ledger.ReleaseLeaseRequest, *, timeout_s: float = QUICK_S) -> None:
        wire = codec.to_proto(request, ledger_service_pb2.ReleaseLeaseRequest)
        await ask(self._stub.ReleaseLease, wire, timeout_s)


class TrainerCalls:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = trainer_service_pb2_grpc.TrainerServiceStub(channel)

    async def start_run(self, request: runs.StartRunRequest, *, timeout_s: float = QUICK_S) -> runs.Run:
        wire = codec.to_proto(request, trainer_service_pb2.StartRunRequest)
        return read((await ask(self._stub.StartRun, wire, timeout_s)).run, runs.Run)

    async def get_run(self, request: runs.GetRunRequest, *, timeout_s: float = QUICK_S) -> runs.GetRunResponse:
        wire = codec.to_proto(request, trainer_service_pb2.GetRunRequest)
        return read(await ask(self._stub.GetRun, wire, timeout_s), runs.GetRunResponse)

    async def list_runs(self, request: runs.ListRunsRequest, *, timeout_s: float = QUICK_S) -> tuple[runs.Run, ...]:
        wire = codec.to_proto(request, trainer_service_pb2.ListRunsRequest)
        answer = await ask(self._stub.ListRuns, wire, timeout_s)
        return tuple(read(run, runs.Run) for run in answer.runs)

    async def watch_run(
        self, request: runs.GetRunRequest, *, timeout_s: float | None = None
    ) -> AsyncGenerator[runs.Run, None]:
        wire = codec.to_proto(request, trainer_service_pb2.WatchRunRequest)
        async with contextlib.aclosing(_listen(self._stub.WatchRun, wire, timeout_s)) as events:
            async for event in events:
                yield read(event.run, runs.Run)

    async def cancel_run(self, request: runs.CancelRunRequest, *, timeout_s: float = QUICK_S) -> runs.Run:
        wire = codec.to_proto(request, trainer_service_pb2.CancelRunRequest)
        return read((await ask(self._stub.CancelRun, wire, timeout_s)).run, runs.Run)


class RolloutCalls:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)

    async def adopt(self, request: control.AdoptRequest, *, timeout_s: float = QUICK_S) -> releases.Release:
        return await _release(self._stub.Adopt, codec.to_proto(request, rollout_service_pb2.AdoptRequest), timeout_s)

    async def start_release(
        self, request: control.StartReleaseRequest, *, timeout_s: float = QUICK_S
    ) -> releases.Release:
        wire = codec.to_proto(request, rollout_service_pb2.StartReleaseRequest)
        return await _release(self._stub.StartRelease, wire, timeout_s)

    async def get_release(self, request: control.GetReleaseRequest, *, timeout_s: float = QUICK_S) -> releases.Release:
        wire = codec.to_proto(request, rollout_service_pb2.GetReleaseRequest)
        return await _release(self._stub.GetRelease, wire, timeout_s)

    async def list_releases(
        self, request: control.ListReleasesRequest, *, timeout_s: float = QUICK_S
    ) -> tuple[releases.Release, ...]:
        wire = codec.to_proto(request, rollout_service_pb2.ListReleasesRequest)
        answer = await ask(self._stub.ListReleases, wire, timeout_s)
        return tuple(read(release, releases.Release) for release in answer.releases)

    async def watch_releases(
        self, request: control.ListReleasesRequest, *, timeout_s: float | None = None
    ) -> AsyncGenerator[releases.Release, None]:
        wire = codec.to_proto(request, rollout_service_pb2.WatchReleasesRequest)
        async with contextlib.aclosing(_listen(self._stub.WatchReleases, wire, timeout_s)) as events:
            async for event in events:
                yield read(event.release, releases.Release)

    async def promote(self, request: control.LineRequest, *, timeout_s: float = QUICK_S) -> releases.Release:
        wire = codec.to_proto(request, rollout_service_pb2.PromoteRequest)
        return await _release(self._stub.Promote, wire, timeout_s)

    async def pause(self, request: control.LineRequest, *, timeout_s: float = QUICK_S) -> releases.Release:
        return await _release(self._stub.Pause, codec.to_proto(request, rollout_service_pb2.PauseRequest), timeout_s)

    async def resume(self, request: control.LineRequest, *, timeout_s: float = QUICK_S) -> releases.Release:
        return await _release(self._stub.Resume, codec.to_proto(request, rollout_service_pb2.ResumeRequest), timeout_s)

    async def abort(self, request: control.LineRequest, *, timeout_s: float = QUICK_S) -> releases.Release:
        return await _release(self._stub.Abort, codec.to_proto(request, rollout_service_pb2.AbortRequest), timeout_s)

    async def undo(self, request: control.LineRequest, *, timeout_s: float = QUICK_S) -> releases.Release:
        return await _release(self._stub.Undo, codec.to_proto(request, rollout_service_pb2.UndoRequest), timeout_s)

    async def release_quarantine(
        self, request: control.ReleaseQuarantineRequest, *, timeout_s: float = QUICK_S
    ) -> releases.Release:
        wire = codec.to_proto(request, rollout_service_pb2.ReleaseQuarantineRequest)
        return await _release(self._stub.ReleaseQuarantine, wire, timeout_s)


async def _release(method: Any, request: message.Message, timeout_s: float) -> releases.Release:
    return read((await ask(method, request, timeout_s)).release, releases.Release)
