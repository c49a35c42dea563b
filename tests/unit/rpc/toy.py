"""A small process over the reward service, for tests that need a real one: `python toy.py --flags`."""

import asyncio
import contextlib
import pathlib
import threading
from typing import Any

import pydantic

from trimtab.bus import deadletter, letters, port
from trimtab.core import clock, errors, scoring
from trimtab.rpc import process, settings
from trimtab.wire import codec
from trimtabapi.reward.v1 import reward_service_pb2, reward_service_pb2_grpc

SERVICE = "trimtabapi.reward.v1.RewardService"


class ToySettings(settings.ProcessSettings):
    """Settings of the toy process."""

    fail_worker: bool = pydantic.Field(False, description="Whether the thread fails at once.")
    appends: bool = pydantic.Field(False, description="Whether the thread appends to the event log all the time.")
    halts: bool = pydantic.Field(False, description="Whether the thread's consumer halts.")
    fail_task: bool = pydantic.Field(False, description="Whether the task fails at once.")
    stubborn: bool = pydantic.Field(False, description="Whether the thread ignores being told to stop.")
    ends: pathlib.Path = pydantic.Field(description="File that says in which order things ended.")


class ToyReward(reward_service_pb2_grpc.RewardServiceServicer):
    """Score of model "wait" returns once `release` is set; of "boom" it fails; ListRewardModels is not written."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def Score(self, request: reward_service_pb2.ScoreRequest, context: Any) -> reward_service_pb2.ScoreResponse:
        asked = codec.from_proto(request, scoring.ScoreRequest)
        if asked.model == "wait":
            self.entered.set()
            await self.release.wait()
        if asked.model == "boom":
            raise RuntimeError("private words")
        if asked.model == "unknown":
            raise errors.UnknownModel(asked.model)
        answer = scoring.ScoreResponse(model_id=asked.model, scores=tuple(scoring.Score(1.0) for _ in asked.items))
        return codec.to_proto(answer, reward_service_pb2.ScoreResponse)


def build(config: ToySettings) -> process.Process:
    toy = process.Process("toy", config)
    register = reward_service_pb2_grpc.add_RewardServiceServicer_to_server
    toy.add_service(lambda server: register(ToyReward(), server), SERVICE)

    log = toy.open_log() if config.halts or config.appends else None

    def note(line: str) -> None:
        with config.ends.open("a") as file:
            file.write(line + "\n")

    def read(stop: threading.Event) -> None:
        if config.fail_worker:
            raise RuntimeError("the disk is gone")
        if log is not None and config.halts:
            _halt_until_allowed(log)
        while log is not None and config.appends and not stop.wait(0.02):
            with contextlib.suppress(errors.LogUnavailable):
                log.append([port.NewRecord("audit", b"k", b"v")]).result()
        stop.wait()
        if config.stubborn:
            threading.Event().wait()
        note("thread")

    async def look(stop: asyncio.Event) -> None:
        if config.fail_task:
            raise RuntimeError("the network is gone")
        await stop.wait()
        note("task")

    async def door(stop: asyncio.Event) -> None:
        await stop.wait()
        note("intake")

    async def close_first_added() -> None:
        note("closed: first added")

    toy.add_thread("reader", read)
    toy.add_task("lookout", look)
    toy.add_task("door", door, intake=True)
    toy.on_close(close_first_added)
    toy.on_close(lambda: note("closed: last added"))
    return toy


def _halt_until_allowed(log: port.EventLog) -> None:
    """As a consumer that may write no dead letter at all, and has met a bad record."""
    with contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
        if "toy" in known.allowed:
            return
    refusing = deadletter.DeadLetters(log, "toy", deadletter.Limit(consecutive=0))
    refusing.recall()
    refusing.bury(port.Record("audit", 0, 0, clock.utc_now(), b"", b"bad", {}), "It is bad.")


def main(argv: list[str] | None = None) -> None:
    process.launch(ToySettings.load(argv, "toy"), "toy", build)


if __name__ == "__main__":
    main()
