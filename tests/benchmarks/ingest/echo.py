"""A bare `grpc.aio` server with the feedback service's messages: what a call costs when nothing is done for it."""

import argparse
import asyncio
import pathlib
from typing import Any

import grpc.aio

from trimtabapi.feedback.v1 import feedback_service_pb2 as pb
from trimtabapi.feedback.v1 import feedback_service_pb2_grpc


class Echo(feedback_service_pb2_grpc.FeedbackServiceServicer):
    async def Send(self, request: pb.SendRequest, context: Any) -> pb.SendResponse:
        return pb.SendResponse(feedback_id=request.event.id)


async def serve(address_file: pathlib.Path) -> None:
    server = grpc.aio.server()
    feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(address_file.write_text, f"127.0.0.1:{port}")
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address-file", type=pathlib.Path)
    asyncio.run(serve(parser.parse_args().address_file))
