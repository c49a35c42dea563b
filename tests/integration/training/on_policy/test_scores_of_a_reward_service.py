"""Scores may come from the reward service: the same as in process, and what it does not score is no reward."""

import concurrent.futures
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
import torch
from tests.integration.training.on_policy.bench import METHODS, Bench
from tests.services.reward import conftest, harness

from trimtab import registry
from trimtab.core import errors, scoring
from trimtab.rpc import secrets
from trimtab.trainer import recipes
from trimtab.trainer.methods import elsewhere, remote_scores, rollouts
from trimtab.wire import codec
from trimtabapi.reward.v1 import reward_service_pb2 as pb
from trimtabapi.reward.v1 import reward_service_pb2_grpc as pb_grpc

torch.set_num_threads(1)
SETTINGS: recipes.OnPolicySettings = dataclasses.replace(METHODS["rloo"], iterations=2)
Says = Callable[[int, list[scoring.Score]], scoring.ScoreResponse | float]


def service(address: str, bench: Bench, **changes: object) -> remote_scores.RewardService:
    made = remote_scores.RewardService(
        door=elsewhere.Door("scorer", address, "token", ready_s=20.0), folder=bench.folder, model_id="id", digest="d"
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


class _Said(pb_grpc.RewardServiceServicer):
    """A reward service that gives 1, 2, 3, ... and then does to its answer, or for how long, what it was told to."""

    def __init__(self, says: Says) -> None:
        self._says = says
        self.asked = 0

    def Score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
        self.asked += 1
        said = self._says(self.asked, [scoring.Score(float(1 + i)) for i in range(len(request.items))])
        if isinstance(said, float):
            time.sleep(said)
            said = scoring.ScoreResponse("id", (), "d")
        return codec.to_proto(said, pb.ScoreResponse)


@contextlib.contextmanager
def saying(says: Says) -> Iterator[tuple[str, _Said]]:
    server, said = grpc.server(concurrent.futures.ThreadPoolExecutor(2)), _Said(says)
    pb_grpc.add_RewardServiceServicer_to_server(said, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", said
    finally:
        server.stop(0)


def good(scores: list[scoring.Score]) -> scoring.ScoreResponse:
    return scoring.ScoreResponse("id", tuple(scores), "d")


def test_a_run_scored_by_a_service_is_the_run_scored_in_process(
    trained: dict[str, pathlib.Path], bench: Bench, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "installation"
    folder.mkdir()
    secrets.create(folder / "secrets.toml", conftest.TENANT)
    (folder / "lines.toml").write_text(f'[lines.{conftest.LINE}]\ntenant = "{conftest.TENANT}"\n')
    installation = conftest.Installation(folder)
    model_id = installation.publish(trained["reward"])
    with harness.started(installation) as address:
        token = secrets.load(folder / "secrets.toml").internal_token
        remote = remote_scores.RewardService(
            door=elsewhere.Door("scorer", address, token),
            folder=bench.folder,
            model_id=model_id,
            digest=registry.loaded_digest(trained["reward"]),
        )
        bench.train(SETTINGS, scorer=remote.at)
        with pytest.raises(errors.InvalidField, match=r"scores with other bytes .* leave it out to score in process"):
            dataclasses.replace(remote, digest="f" * 64).score([conftest.item("where is red", "left")])
    alone = Bench(trained, tmp_path / "alone")
    alone.folder.mkdir()
    alone.train(SETTINGS)
    for one, same in zip(bench.steps(), alone.steps(), strict=True):
        assert one["score"] == pytest.approx(same["score"], abs=1e-4)
    for ours, theirs in zip(bench.policy.model.parameters(), alone.policy.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda scores: [scoring.Score(math.nan), *scores[1:]], "unscored, the reward is nan"),
        (lambda scores: [scoring.Score("empty answer"), *scores[1:]], "unscored, empty answer"),
    ],
)
def test_a_score_that_is_no_number_is_counted_and_in_no_baseline(
    spoil: Callable[[list[scoring.Score]], list[scoring.Score]], reason: str, bench: Bench
) -> None:
    drawn = bench.drawn()
    with saying(lambda _, scores: good(spoil(scores))) as (address, _):
        found = rollouts.scored(drawn, bench.prompts(), 4, service(address, bench))
    parts = math.ceil(len(drawn) / 64)
    assert found.dropped == {reason: parts} and found.unscored == parts
    assert len(found.kept) == len(drawn) - parts and 0.0 not in {one.score for one in found.kept}


def test_what_got_no_score_in_time_stays_unscored_when_the_run_is_resumed(bench: Bench) -> None:
    items = [conftest.item("where is red", f"answer {number}") for number in range(70)]
    with saying(lambda number, scores: 5.0 if number == 1 else good(scores)) as (address, said):
        # the first part of 64 gets no answer in time, the other is scored
        first = service(address, bench, timeout_s=1.0).score(items)
    assert said.asked == 2
    lost = [one for one in first if isinstance(one.outcome, str)]
    assert len(lost) in (6, 64) and {one.outcome for one in lost} == {"no answer from the reward service"}
    assert service("127.0.0.1:1", bench).score(items) == first


def test_fewer_scores_than_answers_are_no_scores(bench: Bench) -> None:
    with saying(lambda _, scores: good(scores[:-1])) as (address, _):
        scores = service(address, bench).score([conftest.item("where is red", "left")] * 3)
    assert scores == [scoring.Score("the reward service gave another number of scores")] * 3


def test_scores_of_other_answers_are_not_these_answers_scores(bench: Bench) -> None:
    """A run resumed where other answers are drawn asks anew, in place of learning from scores of others."""
    with saying(lambda number, scores: good([scoring.Score(float(number)) for _ in scores])) as (address, said):
        remote = service(address, bench)
        one, other = [conftest.item("where is red", "left")], [conftest.item("where is red", "right")]
        assert [remote.score(asked)[0].outcome for asked in (one, one, other)] == [1.0, 1.0, 2.0]
        assert said.asked == 2


@pytest.mark.parametrize(
    ("says", "expected", "sentence"),
    [
        (
            lambda _, s: dataclasses.replace(good(s), loaded_digest=""),
            errors.InvalidField,
            r"other bytes \(no digest\)",
        ),
        (lambda _, s: dataclasses.replace(good(s), model_id="x"), errors.InvalidField, "leave it out to score in"),
        (lambda _, s: 5.0, errors.ServiceUnavailable, "scored none of 1 answers"),
    ],
)
def test_a_service_that_scores_nothing_or_with_another_model_ends_the_run_with_a_sentence(
    says: Says, expected: type[errors.TrimtabError], sentence: str, bench: Bench
) -> None:
    with saying(says) as (address, _), pytest.raises(expected, match=sentence):
        service(address, bench, timeout_s=0.5).score([conftest.item("where is red", "left")])
    assert not (bench.folder / elsewhere.SCORES).exists()
