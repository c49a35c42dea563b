"""Answers are scored beside the looks: once each, a bounded number at a time, and what is away stops nothing."""

import asyncio
import contextlib
import dataclasses
import datetime
import math
import pathlib
from collections.abc import AsyncIterator

import pytest
from tests import timing

from trimtab.bus import port, topics
from trimtab.bus.sqlite import log as sqlite_log
from trimtab.core import errors, ledger, lines, releases, scoring, text
from trimtab.rollout import line
from trimtab.rollout import scoring as rollout_scoring
from trimtab.wire import schemas

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
RELEASE = dataclasses.replace(
    line.Line("acme", "support").new("b" * 64, lines.ReleaseConfig(), NOW, reward_id="reward"), salt=b"salt"
)


@dataclasses.dataclass
class Ledger:
    """Lists what it was given, and no more of what it has `read` of the topic. away: raised instead.

    takes_s: by so much an answer moves the clock.
    """

    answers: list[ledger.UnscoredAnswer] = dataclasses.field(default_factory=list)
    read: set[str] = dataclasses.field(default_factory=set)
    away: Exception | None = None
    asked: int = 0
    takes_s: float = 0.0
    clock_s: float = 0.0

    async def unscored(self, request: ledger.UnscoredRequest, *, timeout_s: float = 1.0) -> ledger.UnscoredResponse:
        self.asked += 1
        self.clock_s += self.takes_s
        if self.away is not None:
            raise self.away
        assert (request.tenant, request.release_id) == ("acme", RELEASE.id)
        waiting = [one for one in self.answers if one.completion_id not in self.read]
        return ledger.UnscoredResponse(tuple(waiting[: request.limit]))


@dataclasses.dataclass
class Reward:
    """Gives what stands in the answer, as a number where it is one. hold: waited for before."""

    away: errors.TrimtabError | None = None
    hold: asyncio.Event | None = None
    asked: list[int] = dataclasses.field(default_factory=list)

    async def score(self, request: scoring.ScoreRequest, *, timeout_s: float = 1.0) -> scoring.ScoreResponse:
        assert request.model == "reward"
        self.asked.append(len(request.items))
        if self.hold is not None:
            await self.hold.wait()
        if self.away is not None:
            raise self.away
        return scoring.ScoreResponse("reward", tuple(map(_score, request.items)), "digest")


def _score(item: scoring.ScoreItem) -> scoring.Score:
    said = item.response.read()
    with contextlib.suppress(ValueError):
        return scoring.Score(float(said))
    return scoring.Score(said)


def answer(number: int, said: str = "1.5") -> ledger.UnscoredAnswer:
    question = (text.Message(text.Role.USER, text.Text("where?")),)
    return ledger.UnscoredAnswer(f"chatcmpl-{number}", bytes([number]) * 16, question, text.Text(said))


@dataclasses.dataclass
class World:
    log: sqlite_log.SqliteLog
    ledger: Ledger
    reward: Reward
    scorer: rollout_scoring.Scorer

    async def look(self, release: releases.Release = RELEASE) -> None:
        """A look, and the round that it begins, to its end."""
        self.scorer.look(release)
        await self.rest()

    async def rest(self) -> None:
        """Returns once nothing is under way."""
        mine = {asyncio.current_task()}
        while others := asyncio.all_tasks() - mine:
            await asyncio.wait(others)

    def records(self) -> list[port.Record]:
        starts = {port.TopicPartition(topics.SCORES.name, place): 0 for place in range(topics.SCORES.partitions)}
        with contextlib.closing(self.log.reader(starts)) as reader:
            return reader.poll(1000, 0.0)

    def scores(self) -> list[scoring.AnswerScore]:
        found = [schemas.decode(one.value, one.headers, scoring.AnswerScore) for one in self.records()]
        return sorted(found, key=lambda one: int(one.completion_id.removeprefix("chatcmpl-")))


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncIterator[World]:
    log, known, reward = sqlite_log.SqliteLog(tmp_path / "log.db"), Ledger(), Reward()
    scorer = rollout_scoring.Scorer(log, known, reward, lambda: NOW, lambda: known.clock_s)
    yield World(log, known, reward, scorer)
    await scorer.stop()
    log.close()


async def test_a_score_says_whose_it_is_and_stands_where_the_completion_does(world: World) -> None:
    world.ledger.answers = [answer(7)]
    await world.look()
    [found] = world.scores()
    assert found == scoring.AnswerScore(
        "chatcmpl-7",
        text.Context("acme", "support", session_hash=bytes([7]) * 16),
        RELEASE.id,
        "reward",
        "digest",
        NOW,
        1.5,
    )
    [record] = world.records()
    assert record.key == bytes([7]) * 16


@pytest.mark.parametrize("said", ["nan", "inf", "-inf", "empty answer"])
async def test_what_is_no_number_is_written_as_unscored_with_the_reason(world: World, said: str) -> None:
    world.ledger.answers = [answer(1, said), answer(2, "0.0")]
    await world.look()
    unscored, zero = (one.outcome for one in world.scores())
    assert isinstance(unscored, str) and said in unscored
    assert zero == 0.0 and not math.isnan(zero)


async def test_a_round_is_bounded_and_no_answer_is_scored_twice(world: World) -> None:
    world.ledger.answers = [answer(number) for number in range(100)]
    await world.look()
    # the ledger has not read them yet
    await world.look()
    assert world.reward.asked == [rollout_scoring.MOST]
    world.ledger.read = {one.completion_id for one in world.ledger.answers[: rollout_scoring.MOST]}
    for _ in range(3):
        await world.look()
    assert world.reward.asked == [64, 36]
    assert len(world.scores()) == 100


@pytest.mark.parametrize(
    "problem",
    [
        errors.ServiceUnavailable("It is away."),
        errors.DeadlineExceeded("It took too long."),
        errors.Overloaded("Too much waits."),
        errors.UnknownModel("reward", ()),
    ],
)
@pytest.mark.parametrize("which", ["ledger", "reward"])
async def test_what_is_away_is_asked_again_at_the_next_look(world: World, which: str, problem) -> None:
    world.ledger.answers = [answer(1)]
    getattr(world, which).away = problem
    await world.look()
    await world.look()
    assert world.scores() == []
    assert world.ledger.asked == 2
    getattr(world, which).away = None
    await world.look()
    assert [one.outcome for one in world.scores()] == [1.5]


async def test_a_look_waits_for_nothing_and_begins_no_second_round_beside_the_first(world: World) -> None:
    world.ledger.answers, world.reward.hold = [answer(1)], asyncio.Event()
    for _ in range(5):
        world.scorer.look(RELEASE)
        await asyncio.sleep(0)
    assert world.ledger.asked == 1
    world.reward.hold.set()
    await world.rest()
    assert len(world.scores()) == 1


async def test_a_ledger_that_takes_long_is_asked_less_often(world: World) -> None:
    world.ledger.takes_s = 2.0
    for _ in range(3):
        await world.look()
    assert world.ledger.asked == 1
    world.ledger.clock_s += 19.0
    await world.look()
    assert world.ledger.asked == 1
    world.ledger.clock_s += 1.5
    await world.look()
    assert world.ledger.asked == 2


async def test_stopping_ends_what_is_under_way_and_the_next_look_begins_anew(world: World) -> None:
    world.ledger.answers, world.reward.hold = [answer(1)], asyncio.Event()
    world.scorer.look(RELEASE)
    await asyncio.sleep(0.01)
    assert world.reward.asked == [1]
    await asyncio.wait_for(world.scorer.stop(), timing.PATIENCE_S)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert world.scores() == []
    world.reward.hold = None
    await world.look()
    assert len(world.scores()) == 1


async def test_a_mistake_in_a_round_is_raised_at_the_next_look(world: World) -> None:
    world.ledger.away = RuntimeError("a mistake")
    await world.look()
    with pytest.raises(RuntimeError, match="a mistake"):
        await world.look()
