"""Load, and what comes of it: votes by gRPC, one by one or in batches, and bare records by kafka-python."""

import asyncio
import dataclasses
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc.aio
import kafka
from tests.benchmarks.ingest import subjects

from trimtab.bus import publish, topics
from trimtab.core import clock, completions, feedback, ids, text
from trimtab.wire import codec
from trimtabapi.feedback.v1 import feedback_service_pb2 as pb
from trimtabapi.feedback.v1 import feedback_service_pb2_grpc

_WARM_UP_S, _TIMEOUT_S = 0.5, 30.0
# Calls take turns over a door's addresses, as an app's calls do over the replicas behind a headless service.
_EVERY_REPLICA = (("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),)


@dataclasses.dataclass(frozen=True)
class Figure:
    """Acknowledged events a second, and milliseconds from sending to acknowledgement."""

    per_s: float
    p50_ms: float
    p99_ms: float


def _figure(count: int, seconds: float, waits_s: Sequence[float]) -> Figure:
    cuts = statistics.quantiles(waits_s, n=100)
    return Figure(count / seconds, 1000 * cuts[49], 1000 * cuts[98])


class Votes:
    """Thumbs on answers of many sessions, each with an id of its own, as an app would send them."""

    def __init__(self, ring: ids.KeyRing, sessions: int = 2000) -> None:
        self._numbers = itertools.count()
        self._name = os.urandom(4).hex()
        self._targets = [self._target(ring) for _ in range(sessions)]

    def _target(self, ring: ids.KeyRing) -> text.ResponseRef:
        token = ids.CompletionToken(ids.uuid7(), os.urandom(16), os.urandom(8), completions.Arm.STABLE, True)
        return text.ResponseRef(ids.mint(token, subjects.TENANT, ring), 0)

    def event(self) -> feedback.FeedbackEvent:
        number = next(self._numbers)
        target = self._targets[number % len(self._targets)]
        rater = feedback.Rater(feedback.RaterKind.USER, f"rater-{number % 500}")
        kind = feedback.Thumb(target, up=number % 3 > 0)
        return feedback.FeedbackEvent(f"{self._name}-{number}", clock.utc_now(), kind, rater=rater, surface="chat")

    def request(self) -> pb.SendRequest:
        """As sent to the gateway."""
        return codec.to_proto(feedback.SendRequest("", self.event()), pb.SendRequest)

    def internal(self) -> pb.SendRequest:
        """As the gateway sends it on: its rater a keyed hash."""
        event = self.event()
        rater = dataclasses.replace(event.rater, id=ids.keyed_hash(b"bench", event.rater.id).hex())
        return codec.to_proto(
            feedback.SendRequest(subjects.TENANT, dataclasses.replace(event, rater=rater)), pb.SendRequest
        )


def unary(door: subjects.Door, made: Callable[[], pb.SendRequest], in_flight: int, seconds: float) -> Figure:
    """One call a vote, so many calls in flight on one channel."""

    async def act(stub: feedback_service_pb2_grpc.FeedbackServiceStub) -> int:
        await stub.Send(made(), timeout=_TIMEOUT_S, metadata=_metadata(door))
        return 1

    return asyncio.run(_measured(door, act, in_flight, seconds))


def batches(
    door: subjects.Door, made: Callable[[], pb.SendRequest], size: int, in_flight: int, seconds: float
) -> Figure:
    """`SendBatch` of so many votes, so many calls in flight. Waits are those of a whole batch."""

    async def act(stub: feedback_service_pb2_grpc.FeedbackServiceStub) -> int:
        request = pb.SendBatchRequest(items=[made() for _ in range(size)])
        answer = await stub.SendBatch(request, timeout=_TIMEOUT_S, metadata=_metadata(door))
        refused = [one.refused.message for one in answer.results if one.WhichOneof("outcome") != "accepted"]
        if refused or len(answer.results) != size:
            raise RuntimeError(f"{len(refused)} of {size} votes were refused: {refused[:1]}")
        return size

    return asyncio.run(_measured(door, act, in_flight, seconds))


async def _measured(
    door: subjects.Door,
    act: Callable[[feedback_service_pb2_grpc.FeedbackServiceStub], Awaitable[int]],
    in_flight: int,
    seconds: float,
) -> Figure:
    waits: list[float] = []
    acknowledged = 0
    begins = time.perf_counter() + _WARM_UP_S
    ends = begins + seconds

    async def user(stub: feedback_service_pb2_grpc.FeedbackServiceStub) -> None:
        nonlocal acknowledged
        while (asked := time.perf_counter()) < ends:
            count = await act(stub)
            if begins <= (answered := time.perf_counter()) <= ends:
                acknowledged += count
                waits.append(answered - asked)

    async with grpc.aio.insecure_channel(door.address, options=_EVERY_REPLICA) as channel:
        stub = feedback_service_pb2_grpc.FeedbackServiceStub(channel)
        await asyncio.gather(*(user(stub) for _ in range(in_flight)))
    return _figure(acknowledged, seconds, waits)


def _metadata(door: subjects.Door) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {door.token}"),) if door.token else ()


def bare_kafka(
    servers: Sequence[str], topic: str, made: Callable[[], feedback.FeedbackEvent], in_flight: int, seconds: float
) -> Figure:
    """The records of votes by kafka-python alone, as an idempotent producer with acks=all."""
    producer = kafka.KafkaProducer(
        bootstrap_servers=list(servers), acks="all", enable_idempotence=True, compression_type="zstd", linger_ms=2,
        batch_size=256 * topics.KIB,
    )  # fmt: skip
    room = threading.Semaphore(in_flight)
    waits: list[float] = []
    begins = time.perf_counter() + _WARM_UP_S
    ends = begins + seconds
    while (asked := time.perf_counter()) < ends:
        room.acquire()

        def answered(_: object, asked: float = asked) -> None:
            now = time.perf_counter()
            if begins <= now <= ends:
                waits.append(now - asked)
            room.release()

        record = publish.new_record(topics.FEEDBACK, os.urandom(16), made())
        sent = producer.send(topic, value=record.value, key=record.key, headers=list(record.headers.items()))
        sent.add_callback(answered)
    producer.flush()
    producer.close()
    return _figure(len(waits), seconds, waits)
