"""The queue before the scoring thread is bounded, and a caller that has gone costs nothing."""

import asyncio
import pathlib
import threading
from collections.abc import Sequence

import pytest
from tests import timing
from tests.services.reward.conftest import Installation, item

from trimtab.bus import connect, fold, topics
from trimtab.core import errors, scoring
from trimtab.reward import catalog, shelf
from trimtab.reward import scoring as domain


class Counting:
    """A reward model that counts: the score of an answer is its length."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, items: Sequence[scoring.ScoreItem], batch: int) -> list[scoring.Score]:
        self.batches.append(len(items))
        return [scoring.Score(float(len(one.response.read()))) for one in items]


def known_models(installation: Installation) -> catalog.Catalog:
    known, stop = catalog.Catalog(), threading.Event()
    log = connect.open_log(f"sqlite://{installation.folder}/log.db")
    fold.follow(log, topics.MODELS, known.apply, stop, stop.set)
    log.close()
    return known


async def test_what_does_not_fit_into_the_queue_is_refused_and_the_rest_is_scored_in_one_batch(
    installation: Installation, weights: list[pathlib.Path]
) -> None:
    model_id = installation.publish(weights[0])
    model = Counting()
    scorer = domain.Scoring(
        known_models(installation),
        shelf.Shelf(installation.registry, lambda _: model, 1),
        max_items=4,
        max_queued=8,
        batch=64,
    )
    request = scoring.ScoreRequest(model_id, (item("q", "abc"), item("q", "")))
    waiting = [asyncio.ensure_future(scorer.score(request)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(errors.Overloaded):
        await scorer.score(request)
    waiting[0].cancel()
    await asyncio.sleep(0)
    stop = threading.Event()
    thread = threading.Thread(target=scorer.run, args=(stop,))
    thread.start()
    answers = await asyncio.wait_for(asyncio.gather(*waiting[1:]), timing.PATIENCE_S)
    stop.set()
    await asyncio.to_thread(thread.join, 10)
    assert [[one.outcome for one in answer.scores] for answer in answers] == [[3.0, "empty answer"]] * 3
    assert model.batches == [3]
