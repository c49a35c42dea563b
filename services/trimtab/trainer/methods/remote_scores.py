"""Scores that the reward service gives for a run, over gRPC: the other scorer of `trainer.methods.on_policy`.

The model is pinned twice: it is asked for by its id, and every answer must carry the digest of the bytes that the run
was given as its reward model. What has no score (no answer in time, a value that is no number) is "unscored" with its
reason and stays so: the journal (`trainer.methods.elsewhere`) keeps it with the scores.
"""

import asyncio
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

from trimtab.core import errors, failpoints, scoring
from trimtab.trainer.methods import elsewhere
from trimtab.wire import calls

# Answers of one request, and requests under way at once; the service's queue is shared.
_BATCH, _AT_ONCE = 64, 4


@dataclasses.dataclass(frozen=True, slots=True)
class RewardService:
    """The scorer of one iteration; `at` makes that of another.

    folder: of the run. digest: of the reward model's bytes (`registry.loaded_digest`). timeout_s: of one request.
    """

    door: elsewhere.Door
    folder: pathlib.Path
    model_id: str
    digest: str
    timeout_s: float = calls.GENERATE_S
    iteration: int = 0

    def at(self, iteration: int) -> "RewardService":
        return dataclasses.replace(self, iteration=iteration)

    def score(self, items: Sequence[scoring.ScoreItem]) -> list[scoring.Score]:
        """What the journal holds of these very answers, or what the service says now.

        When it scores nothing, ServiceUnavailable if asking later may help and WrongState if not; InvalidField when it
        does not serve the run's reward model.
        """
        if not items:
            return []
        path, asked = elsewhere.entry(self.folder, elsewhere.SCORES, self.iteration), self._digest_of(items)
        if not path.exists() or _asked(path) != asked:
            scores = asyncio.run(self._ask(items))
            failpoints.reach("trainer.scores.before_journal")
            elsewhere.write(path, {"asked": asked, "scores": [dataclasses.asdict(one) for one in scores]})
            failpoints.reach("trainer.scores.journaled")
        return _read(path)

    def _digest_of(self, items: Sequence[scoring.ScoreItem]) -> str:
        """sha256, hex, of the model and all that it is asked: scores of other answers are not these answers' scores."""
        texts = [[[(one.role, one.content.read()) for one in item.prompt], item.response.read()] for item in items]
        return hashlib.sha256(json.dumps([self.digest, texts]).encode()).hexdigest()

    async def _ask(self, items: Sequence[scoring.ScoreItem]) -> list[scoring.Score]:
        parts = [tuple(items[start : start + _BATCH]) for start in range(0, len(items), _BATCH)]
        room = asyncio.Semaphore(_AT_ONCE)
        async with self.door.open() as channel:
            reward = calls.RewardCalls(channel)

            async def ask(part: tuple[scoring.ScoreItem, ...]) -> list[scoring.Score] | errors.TrimtabError:
                async with room:
                    try:
                        request = scoring.ScoreRequest(self.model_id, part)
                        answer = await reward.score(request, timeout_s=self.timeout_s)
                    except errors.UnknownModel:
                        raise self._refused("does not know the run's reward model") from None
                    except errors.TrimtabError as problem:
                        return problem
                return self._scores(answer, len(part))

            answers = await asyncio.gather(*(ask(part) for part in parts))
        problems = [one for one in answers if isinstance(one, errors.TrimtabError)]
        if len(problems) == len(parts):
            what = f"The reward service at {self.door.address} scored none of {len(items)} answers"
            raise elsewhere.nothing_came(what, problems)
        lost = scoring.Score("no answer from the reward service")
        return [
            score
            for part, one in zip(parts, answers, strict=True)
            for score in ([lost] * len(part) if isinstance(one, errors.TrimtabError) else one)
        ]

    def _scores(self, answer: scoring.ScoreResponse, asked: int) -> list[scoring.Score]:
        if (answer.model_id, answer.loaded_digest) != (self.model_id, self.digest):
            served = answer.loaded_digest[:12] or "no digest"
            raise self._refused(f"scores with other bytes ({served}) than the run's reward model ({self.digest[:12]})")
        if len(answer.scores) != asked:
            return [scoring.Score("the reward service gave another number of scores")] * asked
        return [dataclasses.replace(score, outcome=scoring.finite(score.outcome)) for score in answer.scores]

    def _refused(self, what: str) -> errors.InvalidField:
        return errors.InvalidField(
            "settings_json.scorer",
            f"names a reward service that {what}",
            f"name one over the registry that holds {self.model_id[:12]}, or leave it out to score in process",
        )


def _asked(path: pathlib.Path) -> str:
    document = elsewhere.read(path)
    return str(document.get("asked", "")) if isinstance(document, dict) else ""


def _read(path: pathlib.Path) -> list[scoring.Score]:
    try:
        return [scoring.Score(**one) for one in elsewhere.read(path)["scores"]]
    except (TypeError, KeyError) as problem:
        raise elsewhere.unreadable(path, problem) from problem
