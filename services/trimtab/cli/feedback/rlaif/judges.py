"""Who is asked which of two answers is better: a model behind an OpenAI-compatible endpoint, or a reward model."""

import asyncio
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import httpx

from trimtab.cli.feedback.rlaif import questions
from trimtab.cli.machine import platform
from trimtab.core import errors, scoring, text

_ATTEMPTS = 5
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504, 529})


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """To a pair in both orders, each in terms of the first: None where it could not be read."""

    in_order: questions.Preference | None
    turned_back: questions.Preference | None
    shortened: bool = False


class Judge(Protocol):
    """rater: its id as a rater; another one whenever anything that decides its verdicts is another."""

    rater: str

    async def compare(
        self, turns: Sequence[text.Message], first: questions.Shown, second: questions.Shown
    ) -> Reply: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """Of a comment, to the question in both orders: None where it says neither good nor bad."""

    in_order: questions.Opinion | None
    turned_back: questions.Opinion | None
    shortened: bool = False


class Endpoint:
    """A model behind `POST URL/chat/completions`, asked at temperature 0, once in each order."""

    def __init__(self, client: httpx.AsyncClient, url: str, model: str, guideline: str, limit: int) -> None:
        self._client = client
        self._url, self._model = f"{url.rstrip('/')}/chat/completions", model
        self._guideline, self._limit = guideline, limit
        empty = questions.question((), questions.Shown(""), questions.Shown(""), guideline, limit)
        said = "\x1f".join((url, str(limit), *(message["content"] for message in empty.messages)))
        self.rater = f"model {model} {hashlib.sha256(said.encode()).hexdigest()[:12]}"
        read = questions.reading((), "", "", limit=limit)
        said = "\x1f".join((url, str(limit), *(message["content"] for message in read.messages)))
        # who reads comments is another rater: what decides its verdicts is another question
        self.reader = f"model {model} reading {hashlib.sha256(said.encode()).hexdigest()[:12]}"

    async def compare(self, turns: Sequence[text.Message], first: questions.Shown, second: questions.Shown) -> Reply:
        said = [(turn.role.value, turn.content.read()) for turn in turns]
        asked = questions.question(said, first, second, self._guideline, self._limit)
        swapped = questions.question(said, second, first, self._guideline, self._limit)
        replies = await asyncio.gather(self._ask(asked), self._ask(swapped))
        return Reply(questions.read(replies[0]), questions.turned(questions.read(replies[1])), asked.shortened)

    async def read(self, turns: Sequence[text.Message], answer: str, comment: str, part: str) -> Read:
        """What the comment says of the answer."""
        said = [(turn.role.value, turn.content.read()) for turn in turns]
        asked, swapped = (
            questions.reading(said, answer, comment, part, turned_back=turned_back, limit=self._limit)
            for turned_back in (False, True)
        )
        replies = await asyncio.gather(self._ask(asked), self._ask(swapped))
        return Read(questions.read_opinion(replies[0]), questions.read_opinion(replies[1]), asked.shortened)

    async def _ask(self, question: questions.Question) -> str:
        """What it replies; empty where its reply holds no text. ServiceUnavailable when it cannot be reached."""
        body = {"model": self._model, "messages": list(question.messages), "temperature": 0, "max_tokens": 512}
        wait, why = _FIRST_WAIT_S, ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            try:
                response = await self._client.post(self._url, json=body)
            except httpx.TransportError as problem:
                why = f"{problem!r}"
                continue
            if response.status_code == httpx.codes.OK:
                return _content(response)
            why = f"{response.status_code}: {response.text[:200]}"
            if response.status_code not in _TRY_AGAIN:
                raise errors.InvalidField(
                    "--url", f"{self._url} refuses the question ({why})", "look at --url, --model and the API key"
                )
        raise errors.ServiceUnavailable(
            f"The judge at {self._url} did not answer in {_ATTEMPTS} attempts ({why}); what was sent so far counts, "
            "and the same command goes on from there."
        )


def _content(response: httpx.Response) -> str:
    try:
        content: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""


class RewardService:
    """A reward model: the higher score is the better answer. It sees one answer at a time, so order cannot matter."""

    def __init__(self, doors: platform.Doors, model_id: str) -> None:
        self._doors, self._model_id = doors, model_id
        self.rater = f"reward model {model_id}"

    async def compare(self, turns: Sequence[text.Message], first: questions.Shown, second: questions.Shown) -> Reply:
        items = tuple(scoring.ScoreItem(tuple(turns), text.Text(answer.text)) for answer in (first, second))
        request = scoring.ScoreRequest(self._model_id, items)
        answer = await platform.patiently(lambda: self._doors.reward.score(request, timeout_s=120))
        one, other = (score.outcome for score in answer.scores)
        if isinstance(one, str) or isinstance(other, str):
            return Reply(None, None)
        verdict = questions.Preference.TIE
        if one != other:
            verdict = questions.Preference.FIRST if one > other else questions.Preference.SECOND
        return Reply(verdict, verdict)
