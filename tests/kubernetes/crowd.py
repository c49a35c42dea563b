"""Apps on a platform of pods, sixteen where nobody says otherwise: they ask, vote and stream all the time, each as a
process of its own would."""

import contextlib
import dataclasses
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping

import trimtab_client
from trimtab_client import Trimtab

APPS = 16
# What an app does between calls: sixteen that never rest would measure how long the queue is.
_RESTS_S = 1.0
# Every so many calls of an app, one is a stream.
_STREAMS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """kind: `chat`, `vote` or `stream`. begun, ended: by the clock. policy: that answered. problem: what the app got in
    place of an answer, error: its class. pieces: of a stream, that came."""

    kind: str
    begun: float
    ended: float
    policy: str = ""
    problem: str = ""
    error: str = ""
    pieces: int = 0


class Crowd:
    """likes: how often an answer with these words in it gets a thumb up; others get one three times in ten.
    apps: how many there are."""

    def __init__(
        self, address: str, api_key: str, line: str, question: str, likes: Mapping[str, float], *, apps: int = APPS
    ) -> None:
        self._address, self._api_key, self._line, self._question, self._likes = (
            address,
            api_key,
            line,
            question,
            likes,
        )
        self._apps = apps
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.calls: list[Call] = []

    @contextlib.contextmanager
    def there(self) -> Iterator["Crowd"]:
        """For as long as the context lasts; then every call has ended."""
        apps = [threading.Thread(target=self._app, args=(number,)) for number in range(self._apps)]
        for one in apps:
            one.start()
        try:
            yield self
        finally:
            self._stop.set()
            for one in apps:
                one.join()

    def count(self, kind: str) -> int:
        return sum(one.kind == kind for one in list(self.calls))

    def failed(self, *kinds: str) -> list[Call]:
        return [one for one in list(self.calls) if one.problem and one.kind in kinds]

    def longest_s(self) -> float:
        return max(one.ended - one.begun for one in self.calls)

    def _app(self, number: int) -> None:
        rng = random.Random(number)
        with Trimtab(self._address, api_key=self._api_key, line=self._line) as app:
            while not self._stop.is_set():
                if rng.random() * _STREAMS < 1:
                    self._stream(app)
                else:
                    self._visit(app, rng)
                self._stop.wait(_RESTS_S * rng.random())

    def _visit(self, app: Trimtab, rng: random.Random) -> None:
        begun = time.time()
        try:
            answer = app.chat(self._question, session=uuid.uuid4().hex)
        except trimtab_client.errors.TrimtabError as problem:
            self._failed("chat", begun, problem)
            return
        self._note(Call("chat", begun, time.time(), answer.policy_id))
        likes = next((share for words, share in self._likes.items() if words in answer.text), 0.3)
        begun = time.time()
        try:
            app.feedback.thumb(answer, up=rng.random() < likes, surface="chat")
        except trimtab_client.errors.TrimtabError as problem:
            self._failed("vote", begun, problem)
            return
        self._note(Call("vote", begun, time.time(), answer.policy_id))

    def _stream(self, app: Trimtab) -> None:
        begun, pieces = time.time(), []
        try:
            pieces.extend(app.stream(self._question, session=uuid.uuid4().hex))
        except trimtab_client.errors.TrimtabError as problem:
            self._failed("stream", begun, problem, len(pieces))
            return
        answer = pieces[-1].answer if pieces else None
        if answer is None:
            self._note(Call("stream", begun, time.time(), problem="ended without an answer", pieces=len(pieces)))
        else:
            self._note(Call("stream", begun, time.time(), answer.policy_id, pieces=len(pieces)))

    def _failed(self, kind: str, begun: float, problem: Exception, pieces: int = 0) -> None:
        said = Call(kind, begun, time.time(), problem=str(problem), error=type(problem).__name__, pieces=pieces)
        self._note(said)

    def _note(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)
