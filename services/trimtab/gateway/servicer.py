"""The gateway's gRPC door for SDKs: the services an app sees, over the same domain methods as HTTP.

The caller of `rpc.interceptors` is the tenant of the API key here.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from trimtab.core import completions, errors, feedback
from trimtab.gateway import answering, tracing, voting
from trimtab.rpc import interceptors
from trimtab.wire import codec
from trimtab.wire import feedback as wire_feedback
from trimtabapi.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc

FEEDBACK_SERVICE = "trimtabapi.feedback.v1.FeedbackService"
POLICY_SERVICE = "trimtabapi.policy.v1.PolicyService"
_Context = grpc.aio.ServicerContext[Any, Any]


class FeedbackServicer(feedback_service_pb2_grpc.FeedbackServiceServicer):
    def __init__(self, votes: voting.Voting) -> None:
        self._voting = votes

    def register(self, server: grpc.aio.Server) -> None:
        feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server(self, server)

    async def Send(
        self, request: feedback_service_pb2.SendRequest, context: _Context
    ) -> feedback_service_pb2.SendResponse:
        given = wire_feedback.read_send(request)
        answer = await self._voting.send(interceptors.caller(), given, _traceparent(context))
        return codec.to_proto(answer, feedback_service_pb2.SendResponse)

    async def SendBatch(
        self, request: feedback_service_pb2.SendBatchRequest, context: _Context
    ) -> feedback_service_pb2.SendBatchResponse:
        given = wire_feedback.read_batch(request)
        answer = await self._voting.send_batch(interceptors.caller(), given, _traceparent(context))
        return codec.to_proto(answer, feedback_service_pb2.SendBatchResponse)

    async def ImportPreferences(
        self, request: feedback_service_pb2.ImportPreferencesRequest, context: _Context
    ) -> feedback_service_pb2.ImportPreferencesResponse:
        given = codec.from_proto(request, feedback.ImportPreferencesRequest)
        answer = await self._voting.import_preferences(interceptors.caller(), given)
        return codec.to_proto(answer, feedback_service_pb2.ImportPreferencesResponse)


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    def __init__(self, answers: answering.Answering) -> None:
        self._answering = answers

    def register(self, server: grpc.aio.Server) -> None:
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(self, server)

    async def Complete(
        self, request: policy_service_pb2.CompleteRequest, context: _Context
    ) -> policy_service_pb2.CompleteResponse:
        given = codec.from_proto(request, completions.CompleteRequest)
        routed = self._answering.route(interceptors.caller(), given, _traceparent(context))
        return codec.to_proto(await self._answering.complete(routed), policy_service_pb2.CompleteResponse)

    async def StreamComplete(
        self, request: policy_service_pb2.CompleteRequest, context: _Context
    ) -> AsyncIterator[policy_service_pb2.StreamCompleteResponse]:
        given = codec.from_proto(request, completions.CompleteRequest)
        routed = self._answering.route(interceptors.caller(), given, _traceparent(context))
        async for event in self._answering.stream(routed):
            yield codec.to_proto(event, policy_service_pb2.StreamCompleteResponse)

    async def Describe(
        self, request: policy_service_pb2.DescribeRequest, context: _Context
    ) -> policy_service_pb2.DescribeResponse:
        raise errors.NotBuiltYet("`Describe` at the gateway, which stands for many policies,")


def _traceparent(context: _Context) -> str:
    given = dict(context.invocation_metadata() or ()).get("traceparent", "")
    return tracing.traceparent(given if isinstance(given, str) else "")
