"""The trainer's gRPC door: convert, call `trainer.runs.requests`, convert."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from trimtab.core import runs
from trimtab.trainer.runs import requests
from trimtab.wire import codec
from trimtabapi.trainer.v1 import trainer_service_pb2 as pb
from trimtabapi.trainer.v1 import trainer_service_pb2_grpc as pb_grpc

FULL_NAME = "trimtabapi.trainer.v1.TrainerService"
_Context = grpc.aio.ServicerContext[Any, Any]


class TrainerServicer(pb_grpc.TrainerServiceServicer):
    def __init__(self, domain: requests.Requests) -> None:
        self._domain = domain

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this service to a server."""
        pb_grpc.add_TrainerServiceServicer_to_server(self, server)

    async def StartRun(self, request: pb.StartRunRequest, context: _Context) -> pb.StartRunResponse:
        run = await self._domain.start(codec.from_proto(request, runs.StartRunRequest))
        return pb.StartRunResponse(run=codec.to_proto(run, pb.Run))

    async def GetRun(self, request: pb.GetRunRequest, context: _Context) -> pb.GetRunResponse:
        answer = await self._domain.get(codec.from_proto(request, runs.GetRunRequest))
        return codec.to_proto(answer, pb.GetRunResponse)

    async def ListRuns(self, request: pb.ListRunsRequest, context: _Context) -> pb.ListRunsResponse:
        found = await self._domain.list(codec.from_proto(request, runs.ListRunsRequest))
        return pb.ListRunsResponse(runs=[codec.to_proto(run, pb.Run) for run in found])

    async def WatchRun(self, request: pb.WatchRunRequest, context: _Context) -> AsyncIterator[pb.WatchRunResponse]:
        async for run in self._domain.watch(codec.from_proto(request, runs.GetRunRequest)):
            yield pb.WatchRunResponse(run=codec.to_proto(run, pb.Run))

    async def CancelRun(self, request: pb.CancelRunRequest, context: _Context) -> pb.CancelRunResponse:
        run = await self._domain.cancel(codec.from_proto(request, runs.CancelRunRequest))
        return pb.CancelRunResponse(run=codec.to_proto(run, pb.Run))
