"""`trimtab up --database`: a whole platform whose ledger stands on a real PostgreSQL that asks for a password."""

import contextlib
import dataclasses
import pathlib
import secrets
from collections.abc import Iterator

import httpx
import pytest
from tests import timing
from tests.integration.loop import living
from tests.postgres import server

from trimtab.core import ids

pytestmark = pytest.mark.slow
PASSWORD = secrets.token_urlsafe(12)


@pytest.fixture(scope="module")
def asking() -> Iterator[server.Server]:
    with server.running(PASSWORD) as started:
        yield started


@pytest.fixture
def password_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)
    monkeypatch.setenv("TRIMTAB_DATABASE_PASSWORD_FILE", str(path))
    return path


def answer(up: living.Up) -> str:
    """The id of a new answer."""
    body = {"model": living.LINE, "messages": [{"role": "user", "content": "Where is the lamp?"}]}
    headers = {"authorization": f"Bearer {up.api_key()}"}
    given = httpx.post(f"{up.url}/v1/chat/completions", json=body, headers=headers, timeout=60).raise_for_status()
    return str(given.json()["id"])


def vote(terminal: living.Terminal, *answers: str) -> None:
    for one in answers:
        terminal.done("feedback", "send", "thumb", one, "up")


def counted(up: living.Up) -> tuple[int, int, int]:
    counts = up.books().counts
    return counts.completions, counts.joined, counts.examples


def show_what_waits_for_an_answer_that_never_was(terminal: living.Terminal) -> None:
    terminal.done("feedback", "send", "thumb", str(ids.uuid7()), "up", "--id", "on-nothing")
    words = "thumb up: unjoinable (completion has not arrived)"
    timing.until(lambda: words in terminal.type("feedback", "trace", "on-nothing").stdout, words)
    assert "3 joined, 1 unjoinable" in " ".join(terminal.done("status").split())


def test_it_comes_up_counts_votes_and_goes_on_after_a_restart(
    policy: pathlib.Path,
    tmp_path: pathlib.Path,
    asking: server.Server,
    password_file: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIMTAB_UNJOINABLE_AFTER_S", "1")
    url = asking.create()
    up = living.Up(tmp_path, policy, "--database", url)
    terminal = living.Terminal(up)
    try:
        up.start()
        answers = [answer(up) for _ in range(3)]
        vote(terminal, *answers)
        assert counted(up) == (3, 3, 3)
        assert asking.ask(url, "SELECT count(*) FROM feedback WHERE status = 'joined'") == [(3,)]
        assert not (up.state / "ledger.sqlite").exists()
        before = up.trace(answers[0])
        assert terminal.told("status")["lines"][0]["counts"]["joined"] == 3
        show_what_waits_for_an_answer_that_never_was(terminal)
        copied = terminal.done("backup", str(tmp_path / "backup"))
        assert f"The ledger's database {url} is not in it: a ledger is made again from the log." in copied
        assert not {"database.url", "ledger.sqlite"} & {path.name for path in (tmp_path / "backup").iterdir()}
        assert up.terminate() == 0
        assert PASSWORD.encode() not in b"".join(path.read_bytes() for path in (up.state / "logs").iterdir())
        again = living.Up(tmp_path, policy)  # the folder knows its database
        again.start()
        with contextlib.ExitStack() as stack:
            stack.callback(again.destroy)
            assert again.trace(answers[0]) == before
            vote(living.Terminal(again), answer(again))
            assert counted(again) == (4, 4, 4)
            assert asking.ask(url, "SELECT count(*) FROM feedback WHERE status = 'joined'") == [(4,)]
            assert again.terminate() == 0
    finally:
        up.destroy()


def test_a_backup_of_it_makes_a_platform_with_a_ledger_of_its_own(
    policy: pathlib.Path, tmp_path: pathlib.Path, asking: server.Server, password_file: pathlib.Path
) -> None:
    url = asking.create()
    up = living.Up(tmp_path, policy, "--database", url)
    restored = living.Up(tmp_path / "restored", policy)
    try:
        up.start()
        vote(living.Terminal(up), answer(up))
        before = dataclasses.replace(up.books().counts, consumed={})
        living.Terminal(up).done("backup", str(tmp_path / "backup"))
        assert up.terminate() == 0
        made = living.trimtab("restore", str(tmp_path / "backup"), "--state", str(restored.state))
        assert made.returncode == 0, made.stderr
        restored.state.parent.mkdir(exist_ok=True)
        restored.start()
        assert dataclasses.replace(restored.books().counts, consumed={}) == before
        assert (restored.state / "ledger.sqlite").exists()
        assert restored.terminate() == 0
    finally:
        up.destroy()
        restored.destroy()


def test_a_database_that_does_not_let_it_in_is_a_sentence_and_starts_nothing(
    tmp_path: pathlib.Path, asking: server.Server, password_file: pathlib.Path
) -> None:
    url = asking.create()
    state = str(tmp_path / "state")
    password_file.write_text("another")
    refused = living.trimtab("up", "--state", state, "--port", "0", "--grpc-port", "0", "--database", url)
    assert refused.returncode == 1
    place = f"PostgreSQL at 127.0.0.1:{asking.port}, database '{url.rpartition('/')[2]}'"
    assert f"{place}, does not serve the ledger (" in refused.stderr
    assert "password authentication failed" in refused.stderr
    assert "Traceback" not in refused.stderr
    password_file.chmod(0o644)
    refused = living.trimtab("up", "--state", state, "--database", url)
    assert (refused.returncode, "is open to every user" in refused.stderr) == (1, True)
    assert not (tmp_path / "state" / "secrets.toml").exists()
