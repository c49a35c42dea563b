"""The simulated users say what the taste tells them to, over HTTP, and keep their own books."""

import asyncio
import collections
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from trimtab.cli.demo import taste, users, world

LINE = "support"


class Desk(http.server.ThreadingHTTPServer):
    """A help desk that answers every question with Sound, and notes what it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: dict[str, str] = {}
        self.told: list[dict[str, Any]] = []
        self.writing = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Desk

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.writing:
            reply = self._chat(body) if self.path == "/v1/chat/completions" else self._feedback(body)
        payload = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        identity = f"chatcmpl-{len(self.server.asked)}"
        self.server.asked[identity] = body["messages"][0]["content"]
        texts = [f"{'Gladly: ' * number}look in Sound." for number in range(body["n"])]
        return {"id": identity, "choices": [{"message": {"content": text}} for text in texts]}

    def _feedback(self, body: dict[str, Any]) -> dict[str, Any]:
        self.server.told.append(body)
        return {}

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def desk() -> Iterator[Desk]:
    server = Desk()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def visit(desk: Desk, visits: int, comparing: float, correcting: float) -> users.Books:
    """At least that many visits; what the users have on their books."""

    async def come() -> users.Books:
        crowd = users.Users(desk.url, "key", LINE, seed=3, concurrency=4)
        done = 0

        def count() -> None:
            nonlocal done
            done += 1

        await crowd.visit_while(lambda: done < visits, comparing=comparing, correcting=correcting, progress=count)
        await crowd.close()
        return crowd.books

    return asyncio.run(come())


def test_users_vote_compare_and_correct_as_often_as_they_are_asked_to(desk: Desk) -> None:
    books = visit(desk, 600, comparing=0.5, correcting=0.4)
    kinds = collections.Counter(body["kind"] for body in desk.told)
    wrong = sum(not taste.judge(asked, "Sound").right for asked in desk.asked.values())
    assert books.sent == books.acknowledged == len(desk.told)
    assert kinds["comparison"] / len(desk.asked) == pytest.approx(0.5, abs=0.08)
    assert kinds["thumb"] + kinds["comparison"] == len(desk.asked)
    assert kinds["edit"] / wrong == pytest.approx(0.4, abs=0.08)
    assert len({body["id"] for body in desk.told}) == len(desk.told)


def test_a_correction_is_of_the_answer_that_was_voted_on_or_preferred_and_names_the_right_menu(desk: Desk) -> None:
    visit(desk, 150, comparing=0.5, correcting=1.0)
    preferred = {
        body["preferred"]["completion_id"]: body["preferred"]["choice"]
        for body in desk.told
        if body["kind"] == "comparison"
    }
    edits = [body for body in desk.told if body["kind"] == "edit"]
    for edit in edits:
        question, choice = desk.asked[edit["completion_id"]], edit.get("choice", 0)
        menu = world.MENU_OF[world.entry_of(question)]
        assert choice == preferred.get(edit["completion_id"], 0)
        assert edit["corrected"] == f"{'Gladly: ' * choice}look in {menu}."
        assert menu != "Sound"
    assert any("choice" in edit for edit in edits) and any("choice" not in edit for edit in edits)


def test_nobody_corrects_or_compares_unless_asked_to(desk: Desk) -> None:
    visit(desk, 60, comparing=0.0, correcting=0.0)
    assert {body["kind"] for body in desk.told} == {"thumb"}
