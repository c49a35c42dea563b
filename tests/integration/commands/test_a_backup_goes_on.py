"""A platform that is restored from a backup of a running one goes on: same books, same policy, same keys, new votes."""

import dataclasses
import pathlib

import httpx
from tests import timing
from tests.integration.commands.conftest import Recorded
from tests.integration.loop import living
from tools import record_cli


def ask(url: str, key: str) -> httpx.Response:
    answer = httpx.post(
        f"{url}/v1/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        json={"model": "main", "messages": [{"role": "user", "content": record_cli.QUESTION}]},
        timeout=60,
    )
    assert answer.status_code in {200, 503}, answer.text
    return answer


def test_a_restored_platform_goes_on_where_the_backup_was_made(recorded: Recorded, tmp_path: pathlib.Path) -> None:
    answer = recorded.answer()
    code, _, err = recorded.trimtab("feedback", "send", "thumb", answer, "up")
    assert code == 0, err
    timing.until(lambda: bool(recorded.trace(answer).feedback), "the vote's way into the ledger")
    code, _, err = recorded.trimtab("backup", str(tmp_path / "backup"))
    assert code == 0, err
    before = dataclasses.replace(recorded.counts(), consumed={})
    restored = living.Up(tmp_path, recorded.session.folder / "sky")
    assert living.trimtab("restore", str(tmp_path / "backup"), "--state", str(restored.state)).returncode == 0
    restored.start()
    try:
        books = restored.books()
        assert dataclasses.replace(books.counts, consumed={}) == before
        assert restored.trace(answer) == recorded.trace(answer)
        assert restored.api_key() == recorded.session.key
        # the record names the policy of the one that was backed up, which runs yet: none of it is asked here
        timing.until(lambda: ask(restored.url, recorded.session.key).is_success, "the restored platform's own policy")
        written = restored.books().written
        given = ask(restored.url, recorded.session.key)
        there = ask(f"http://127.0.0.1:{recorded.session.port}", recorded.session.key)
        assert given.json()["choices"] == there.json()["choices"]
        assert given.headers["x-trimtab-policy"] == there.headers["x-trimtab-policy"]
        vote = living.trimtab("feedback", "send", "thumb", given.json()["id"], "up", "--state", str(restored.state))
        assert vote.returncode == 0, vote.stderr
        assert restored.books().written == written + 2
        assert restored.terminate() == 0
    finally:
        restored.destroy()
