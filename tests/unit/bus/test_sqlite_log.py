"""What is particular to the embedded log: turns between processes, group commit, a log that is away, refusals."""

import contextlib
import fcntl
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import apsw
import prometheus_client
import pytest
from tests import timing

from trimtab.bus import connect, limits, port
from trimtab.bus.sqlite import SqliteLog, file
from trimtab.core import errors

AUDIT = port.TopicPartition("audit", 0)
COMPLETIONS = port.TopicPartition("completions", 0)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "log.db"


@contextlib.contextmanager
def opened(path: pathlib.Path, deadline_s: float = 30.0) -> Iterator[SqliteLog]:
    with contextlib.closing(SqliteLog(path, deadline_s=deadline_s)) as log:
        yield log


@contextlib.contextmanager
def child(path: pathlib.Path, act: str, name: str = "") -> Iterator[subprocess.Popen[str]]:
    program = pathlib.Path(__file__).with_name("sqlite_child.py")
    command = [sys.executable, str(program), str(path), act, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def record(value: bytes = b"") -> port.NewRecord:
    return port.NewRecord("audit", b"k", value)


def values(log: SqliteLog, source: port.TopicPartition = AUDIT) -> list[bytes]:
    with contextlib.closing(log.reader({source: 0})) as reader:
        found: list[port.Record] = []
        while more := reader.poll(500, 0.0):
            found += more
    return [record.value for record in found]


def commits() -> float:
    return prometheus_client.REGISTRY.get_sample_value("trimtab_log_commits_total") or 0.0


# --- turns and group commit ---


def wait_until_somebody_waits(path: pathlib.Path) -> None:
    """Returns once a process stands at the gate, next in turn."""
    give_up_at = time.monotonic() + 30.0
    with path.with_name(path.name + ".gate").open() as gate:
        while time.monotonic() < give_up_at:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            fcntl.flock(gate, fcntl.LOCK_UN)
    raise AssertionError("nobody came to wait for a turn")


def test_a_process_that_asks_again_at_once_does_not_get_ahead_of_one_that_waits(path):
    turnstile = file.Turnstile(path)
    with child(path, "turns", "x") as other:
        assert line(other) == "open"
        for turn in range(1, 51):
            with turnstile.held():
                other.stdin.write("take a turn\n")
                other.stdin.flush()
                wait_until_somebody_waits(path)
            with turnstile.held():
                assert path.with_suffix(".turns").stat().st_size == turn


def test_two_processes_that_hammer_the_log_both_get_their_commits(path):
    with child(path, "hammer", "a") as first, child(path, "hammer", "b") as second:
        assert [line(first), line(second)] == ["open", "open"]
        for process in (first, second):
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [first.wait(60), second.wait(60)] == [0, 0]
    with opened(path) as log, contextlib.closing(log.reader({AUDIT: 0})) as reader:
        keys = [record.key for record in reader.poll(600, 1.0)]
    both_at_it = keys[max(keys.index(b"a"), keys.index(b"b")) :]
    assert min(both_at_it.count(b"a"), both_at_it.count(b"b")) >= len(both_at_it) * 0.25


def test_what_comes_while_the_writer_waits_for_its_turn_is_one_commit(path):
    with opened(path) as log:
        log.append([record()]).result()
        before = commits()
        with child(path, "hold") as holder:
            assert line(holder) == "held"
            waiting = [log.append([record(str(n).encode())]) for n in range(1000)]
            holder.communicate("release\n")
        assert [future.result()[0].offset for future in waiting] == list(range(1, 1001))
        assert commits() == before + 1


def test_a_killed_holder_of_the_turn_blocks_nobody(path):
    with opened(path) as log, child(path, "hold") as holder:
        assert line(holder) == "held"
        waiting = log.append([record(b"v")])
        holder.kill()
        assert waiting.result()[0].offset == 0


# --- the log is away ---


def test_an_append_fails_within_the_deadline_while_a_stopped_process_holds_the_turn_and_is_not_stored(path):
    with opened(path, deadline_s=0.5) as log, child(path, "hold") as holder:
        assert line(holder) == "held"
        holder.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        lost = log.append([record(b"lost")])
        with pytest.raises(errors.LogUnavailable, match="not stored"):
            lost.result()
        assert time.monotonic() - started < 5.0
        holder.kill()
        with opened(path) as other:
            other.append([record(b"kept")]).result()
        assert values(log) == [b"kept"]


def test_waiting_appends_are_bounded_and_the_next_is_refused_at_once(path):
    with opened(path) as log, child(path, "hold") as holder:
        assert line(holder) == "held"
        large = port.NewRecord("completions", b"k", bytes(8_000_000), partition=0)
        waiting = [log.append([large]) for _ in range(limits.MAX_WAITING_BYTES // 8_000_000)]
        with pytest.raises(errors.Overloaded, match="retry with back-off"):
            log.append([large])
        holder.communicate("release\n")
        assert [future.result()[0].offset for future in waiting] == list(range(len(waiting)))
        assert log.append([large]).result()[0].offset == len(waiting)


def test_a_poll_of_large_records_is_bounded_in_bytes_and_loses_none(path):
    with opened(path) as log:
        for _ in range(6):
            log.append([port.NewRecord("completions", b"k", bytes(8_000_000), partition=0)]).result()
        with contextlib.closing(log.reader({COMPLETIONS: 0})) as reader:
            assert [len(reader.poll(500, 0.0)) for _ in range(3)] == [5, 1, 0]


def test_a_full_disk_is_an_error_to_the_appender_and_the_log_goes_on_once_there_is_room(path):
    with child(path, "full") as process:
        assert line(process).startswith("The event log is not available:")
        acknowledged, offset_after = (int(part) for part in line(process).split())
        assert process.wait(timing.PATIENCE_S) == 0
    assert acknowledged >= 5
    assert offset_after == acknowledged
    with opened(path) as log:
        assert [len(value) for value in values(log, COMPLETIONS)] == [100_000] * acknowledged + [5]


def test_a_damaged_file_is_a_log_that_is_not_available(path):
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(errors.LogUnavailable, match="not a database"):
        SqliteLog(path)


def test_a_cancelled_append_disturbs_no_other(path):
    with opened(path) as log, child(path, "hold") as holder:
        assert line(holder) == "held"
        log.append([record(b"first")])
        head = log.append([record(b"cancelled")])
        last = log.append([record(b"last")])
        assert head.cancel()
        holder.communicate("release\n")
        last.result()
        assert values(log) == [b"first", b"last"]


# --- refusals ---


def test_a_sqlite_with_the_wal_reset_bug_is_refused_with_a_sentence():
    with pytest.raises(file.RefusedToStart, match=r"needs SQLite 3\.51\.3 or newer and this is 3\.51\.2, which can"):
        file.require_safe_sqlite("3.51.2")
    file.require_safe_sqlite("3.51.3")
    file.require_safe_sqlite("3.100.0")


def test_a_log_with_other_partition_counts_is_refused(path):
    with opened(path):
        pass
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute("DELETE FROM sources WHERE topic = 'examples' AND partition > 3")
    with pytest.raises(file.RefusedToStart, match="Topic examples has 4 partitions in this event log and 8"):
        SqliteLog(path)


def test_a_log_of_a_newer_program_is_refused(path):
    with opened(path):
        pass
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.pragma("user_version", 99)
    with pytest.raises(file.RefusedToStart, match="is of version 99, and this program reads up to 1: start the ver"):
        SqliteLog(path)


def test_a_file_that_is_no_database_has_no_version(path):
    path.write_text("what is this? " * 1000)
    with pytest.raises(errors.ArtifactCorrupt, match="cannot be read as a database"):
        file.version(path)


def test_the_log_is_not_usable_after_a_fork(path):
    with child(path, "forked") as process:
        assert "opened before fork" in line(process)


def test_every_commit_is_synchronised_and_written_ahead(path):
    with opened(path), contextlib.closing(file.connect(path, 1.0)) as connection:
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("synchronous") == 2


@pytest.mark.parametrize("url", ["sqlite:relative.db", "sqlite://host/file", "kafka//x", ""])
def test_an_url_that_names_no_log_is_refused(url):
    with pytest.raises(errors.InvalidField, match="`log_url`"):
        connect.open_log(url)


def test_an_url_opens_the_file_it_names(path):
    with contextlib.closing(connect.open_log(f"sqlite://{path}")) as log:
        log.append([record(b"v")]).result()
    assert path.exists()
