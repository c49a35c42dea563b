"""The feedback process's gRPC door. The gateway's public door to the same service is `gateway.servicer`."""

from typing import Any

import grpc.aio

from trimtab.core import feedback
from trimtab.feedback import imports, intake
from trimtab.wire import codec
from trimtab.wire import feedback as wire_feedback
from trimtabapi.feedback.v1 import feedback_service_pb2 as pb
from trimtabapi.feedback.v1 import feedback_service_pb2_grpc

FULL_NAME = "trimtabapi.feedback.v1.FeedbackService"
_Context = grpc.aio.ServicerContext[Any, Any]


class FeedbackServicer(feedback_service_pb2_grpc.FeedbackServiceServicer):
    def __init__(self, taken: intake.Intake, importer: imports.Importer) -> None:
        self._intake = taken
        self._importer = importer

    def register(self, server: grpc.aio.Server) -> None:
        feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server(self, server)

    async def Send(self, request: pb.SendRequest, context: _Context) -> pb.SendResponse:
        return codec.to_proto(await self._intake.send(wire_feedback.read_send(request)), pb.SendResponse)

    async def SendBatch(self, request: pb.SendBatchRequest, context: _Context) -> pb.SendBatchResponse:
        answers = await self._intake.send_batch(wire_feedback.read_batch(request))
        return codec.to_proto(answers, pb.SendBatchResponse)

    async def ImportPreferences(
        self, request: pb.ImportPreferencesRequest, context: _Context
    ) -> pb.ImportPreferencesResponse:
        answer = await self._importer.run(codec.from_proto(request, feedback.ImportPreferencesRequest))
        return codec.to_proto(answer, pb.ImportPreferencesResponse)
