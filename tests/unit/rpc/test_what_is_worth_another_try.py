"""A client tries again what may work a moment later, and not what has already taken as long as it may."""

import pytest

import trimtab_client
from trimtab.core import errors, scoring
from trimtab.rpc import process
from trimtab.wire import calls
from trimtabapi.reward.v1 import reward_service_pb2_grpc


class Away(reward_service_pb2_grpc.RewardServiceServicer):
    """Fails every call with the problem it was given, and counts them."""

    def __init__(self, problem: errors.TrimtabError) -> None:
        self.calls = 0
        self._problem = problem

    async def Score(self, request, context):
        self.calls += 1
        raise self._problem


async def _tries(config, problem: errors.TrimtabError) -> int:
    away, made = Away(problem), process.Process("away", config)
    made.add_service(lambda server: reward_service_pb2_grpc.add_RewardServiceServicer_to_server(away, server), "away")
    async with (
        made.serving() as address,
        trimtab_client.connect(address, made.secrets.internal_token) as channel,
    ):
        with pytest.raises(type(problem), match=str(problem)):
            await calls.RewardCalls(channel).score(scoring.ScoreRequest("m", ()), timeout_s=10)
    return away.calls


async def test_a_service_that_is_away_is_asked_again(config):
    assert await _tries(config, errors.ServiceUnavailable("It restarts.")) == 4


async def test_a_log_that_is_away_has_had_its_time_and_is_not_asked_again(config):
    assert await _tries(config, errors.LogUnavailable("The event log did not answer in time.")) == 1


async def test_what_is_wrong_is_not_asked_again(config):
    assert await _tries(config, errors.InvalidField("model", "is empty", "name it")) == 1
