"""The ledger's gRPC door. Questions read a snapshot of the database, in threads: the event loop waits for no disk."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from trimtab.core import clock, errors, ledger
from trimtab.ledger import auditing, counting, evidence, leases, quarantine, scores, tracing, unjoinable
from trimtab.ledger.store import database
from trimtab.wire import codec
from trimtabapi.ledger.v1 import ledger_service_pb2 as pb
from trimtabapi.ledger.v1 import ledger_service_pb2_grpc

FULL_NAME = "trimtabapi.ledger.v1.LedgerService"
# Half a megabyte: far below what a message may hold, and read without holding up the reader's event loop.
_SESSIONS_OF_A_PART = 5000
_Context = grpc.aio.ServicerContext[Any, Any]


class LedgerServicer(ledger_service_pb2_grpc.LedgerServiceServicer):
    """While the consumer stands still there is no evidence: a release is not decided by half of what was said."""

    def __init__(
        self, store: database.Database, patience: unjoinable.Patience, now: clock.Clock = clock.utc_now
    ) -> None:
        self._store = store
        self._patience = patience
        self._now = now
        self._standing = ""

    def stands_still(self, why: str) -> None:
        """From any thread."""
        self._standing = why

    def goes_on(self) -> None:
        """From any thread."""
        self._standing = ""

    def register(self, server: grpc.aio.Server) -> None:
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(self, server)

    async def Trace(self, request: pb.TraceRequest, context: _Context) -> pb.TraceResponse:
        asked = codec.from_proto(request, ledger.TraceRequest)
        found = await asyncio.to_thread(tracing.trace, self._store, asked, self._patience.overdue_us())
        return codec.to_proto(found, pb.TraceResponse)

    async def Lineage(self, request: pb.LineageRequest, context: _Context) -> pb.LineageResponse:
        asked = codec.from_proto(request, ledger.LineageRequest)
        return codec.to_proto(await asyncio.to_thread(tracing.trace_model, self._store, asked), pb.LineageResponse)

    async def Evidence(self, request: pb.EvidenceRequest, context: _Context) -> AsyncIterator[pb.EvidenceResponse]:
        asked = codec.from_proto(request, ledger.EvidenceRequest)
        if self._standing:
            raise errors.ServiceUnavailable(f"There is no evidence while the ledger reads nothing. {self._standing}")
        found = await asyncio.to_thread(evidence.evidence, self._store, asked, self._now())
        for part in ledger.in_parts(found, _SESSIONS_OF_A_PART):
            yield await asyncio.to_thread(codec.to_proto, part, pb.EvidenceResponse)

    async def Unscored(self, request: pb.UnscoredRequest, context: _Context) -> pb.UnscoredResponse:
        asked = codec.from_proto(request, ledger.UnscoredRequest)
        return codec.to_proto(await asyncio.to_thread(scores.unscored, self._store, asked), pb.UnscoredResponse)

    async def Counts(self, request: pb.CountsRequest, context: _Context) -> pb.CountsResponse:
        asked = codec.from_proto(request, ledger.CountsRequest)
        found = await asyncio.to_thread(counting.counts, self._store, asked, self._patience.overdue_us())
        return codec.to_proto(found, pb.CountsResponse)

    async def AcquireLease(self, request: pb.AcquireLeaseRequest, context: _Context) -> pb.AcquireLeaseResponse:
        asked = codec.from_proto(request, ledger.AcquireLeaseRequest)
        granted = await asyncio.to_thread(leases.acquire, self._store, asked)
        return codec.to_proto(granted, pb.AcquireLeaseResponse)

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: _Context) -> pb.ReleaseLeaseResponse:
        asked = codec.from_proto(request, ledger.ReleaseLeaseRequest)
        await asyncio.to_thread(leases.release, self._store, asked)
        return pb.ReleaseLeaseResponse()

    async def ListTasks(self, request: pb.ListTasksRequest, context: _Context) -> pb.ListTasksResponse:
        raise errors.NotBuiltYet("Listing tasks for annotators")

    async def ListQuarantines(
        self, request: pb.ListQuarantinesRequest, context: _Context
    ) -> pb.ListQuarantinesResponse:
        asked = codec.from_proto(request, ledger.ListQuarantinesRequest)
        found = await asyncio.to_thread(quarantine.listed, self._store, asked)
        return codec.to_proto(found, pb.ListQuarantinesResponse)

    async def ListAudit(self, request: pb.ListAuditRequest, context: _Context) -> pb.ListAuditResponse:
        asked = codec.from_proto(request, ledger.ListAuditRequest)
        return codec.to_proto(await asyncio.to_thread(auditing.listed, self._store, asked), pb.ListAuditResponse)

    async def Erase(self, request: pb.EraseRequest, context: _Context) -> pb.EraseResponse:
        raise errors.NotBuiltYet("Erasure of a person's records")
