"""The rollout controller's gRPC door."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from trimtab.core import control
from trimtab.rollout import operations
from trimtab.wire import codec
from trimtabapi.release.v1 import release_pb2
from trimtabapi.rollout.v1 import rollout_service_pb2 as pb
from trimtabapi.rollout.v1 import rollout_service_pb2_grpc

FULL_NAME = "trimtabapi.rollout.v1.RolloutService"
_Context = grpc.aio.ServicerContext[Any, Any]


class RolloutServicer(rollout_service_pb2_grpc.RolloutServiceServicer):
    def __init__(self, acts: operations.Operations) -> None:
        self._acts = acts

    def register(self, server: grpc.aio.Server) -> None:
        rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server(self, server)

    async def Adopt(self, request: pb.AdoptRequest, context: _Context) -> pb.AdoptResponse:
        release = await self._acts.adopt(codec.from_proto(request, control.AdoptRequest))
        return pb.AdoptResponse(release=codec.to_proto(release, release_pb2.Release))

    async def StartRelease(self, request: pb.StartReleaseRequest, context: _Context) -> pb.StartReleaseResponse:
        release = await self._acts.start_release(codec.from_proto(request, control.StartReleaseRequest))
        return pb.StartReleaseResponse(release=codec.to_proto(release, release_pb2.Release))

    async def GetRelease(self, request: pb.GetReleaseRequest, context: _Context) -> pb.GetReleaseResponse:
        release = await self._acts.get_release(codec.from_proto(request, control.GetReleaseRequest))
        return pb.GetReleaseResponse(release=codec.to_proto(release, release_pb2.Release))

    async def ListReleases(self, request: pb.ListReleasesRequest, context: _Context) -> pb.ListReleasesResponse:
        found = await self._acts.list_releases(codec.from_proto(request, control.ListReleasesRequest))
        return pb.ListReleasesResponse(releases=[codec.to_proto(release, release_pb2.Release) for release in found])

    async def WatchReleases(
        self, request: pb.WatchReleasesRequest, context: _Context
    ) -> AsyncIterator[pb.WatchReleasesResponse]:
        async for release in self._acts.watch_releases(codec.from_proto(request, control.ListReleasesRequest)):
            yield pb.WatchReleasesResponse(release=codec.to_proto(release, release_pb2.Release))

    async def Promote(self, request: pb.PromoteRequest, context: _Context) -> pb.PromoteResponse:
        release = await self._acts.promote(codec.from_proto(request, control.LineRequest))
        return pb.PromoteResponse(release=codec.to_proto(release, release_pb2.Release))

    async def Pause(self, request: pb.PauseRequest, context: _Context) -> pb.PauseResponse:
        release = await self._acts.pause(codec.from_proto(request, control.LineRequest))
        return pb.PauseResponse(release=codec.to_proto(release, release_pb2.Release))

    async def Resume(self, request: pb.ResumeRequest, context: _Context) -> pb.ResumeResponse:
        release = await self._acts.resume(codec.from_proto(request, control.LineRequest))
        return pb.ResumeResponse(release=codec.to_proto(release, release_pb2.Release))

    async def Abort(self, request: pb.AbortRequest, context: _Context) -> pb.AbortResponse:
        release = await self._acts.abort(codec.from_proto(request, control.LineRequest))
        return pb.AbortResponse(release=codec.to_proto(release, release_pb2.Release))

    async def Undo(self, request: pb.UndoRequest, context: _Context) -> pb.UndoResponse:
        release = await self._acts.undo(codec.from_proto(request, control.LineRequest))
        return pb.UndoResponse(release=codec.to_proto(release, release_pb2.Release))

    async def ReleaseQuarantine(
        self, request: pb.ReleaseQuarantineRequest, context: _Context
    ) -> pb.ReleaseQuarantineResponse:
        release = await self._acts.release_quarantine(codec.from_proto(request, control.ReleaseQuarantineRequest))
        return pb.ReleaseQuarantineResponse(release=codec.to_proto(release, release_pb2.Release))
