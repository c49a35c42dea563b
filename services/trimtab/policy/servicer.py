"""The policy process's gRPC door, for the gateway and the rollout controller. The public door is the gateway's."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from trimtab.core import completions
from trimtab.policy import answering
from trimtab.wire import codec
from trimtabapi.policy.v1 import policy_service_pb2 as pb
from trimtabapi.policy.v1 import policy_service_pb2_grpc

FULL_NAME = "trimtabapi.policy.v1.PolicyService"
_Context = grpc.aio.ServicerContext[Any, Any]


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    def __init__(self, answers: answering.Answering) -> None:
        self._answers = answers

    def register(self, server: grpc.aio.Server) -> None:
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(self, server)

    async def Complete(self, request: pb.CompleteRequest, context: _Context) -> pb.CompleteResponse:
        answer = await self._answers.complete(codec.from_proto(request, completions.CompleteRequest))
        return codec.to_proto(answer, pb.CompleteResponse)

    async def StreamComplete(
        self, request: pb.CompleteRequest, context: _Context
    ) -> AsyncIterator[pb.StreamCompleteResponse]:
        async for event in self._answers.stream(codec.from_proto(request, completions.CompleteRequest)):
            yield codec.to_proto(event, pb.StreamCompleteResponse)

    async def Describe(self, request: pb.DescribeRequest, context: _Context) -> pb.DescribeResponse:
        return codec.to_proto(self._answers.describe(), pb.DescribeResponse)
