"""The reward service's gRPC door: convert, call `reward.scoring`, convert."""

from typing import Any

import grpc.aio

from trimtab.core import scoring as core
from trimtab.reward import scoring
from trimtab.wire import codec
from trimtabapi.reward.v1 import reward_service_pb2 as pb
from trimtabapi.reward.v1 import reward_service_pb2_grpc as pb_grpc

FULL_NAME = "trimtabapi.reward.v1.RewardService"
_Context = grpc.aio.ServicerContext[Any, Any]


class RewardServicer(pb_grpc.RewardServiceServicer):
    def __init__(self, domain: scoring.Scoring) -> None:
        self._domain = domain

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this service to a server."""
        pb_grpc.add_RewardServiceServicer_to_server(self, server)

    async def Score(self, request: pb.ScoreRequest, context: _Context) -> pb.ScoreResponse:
        answer = await self._domain.score(codec.from_proto(request, core.ScoreRequest))
        return codec.to_proto(answer, pb.ScoreResponse)

    async def ListRewardModels(
        self, request: pb.ListRewardModelsRequest, context: _Context
    ) -> pb.ListRewardModelsResponse:
        return codec.to_proto(await self._domain.list_reward_models(), pb.ListRewardModelsResponse)
