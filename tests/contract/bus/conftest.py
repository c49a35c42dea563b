"""The adapters that the contract is held to, and processes of their own that use them.

A new adapter adds an `Adapter` and its name to the fixture's parameters; the suite does not change.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import apsw
import pytest
from tests.broker import cleaning, cluster, shared

from trimtab.bus import kafka, port
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import clock

_CHILD = pathlib.Path(__file__).with_name("log_child.py")


class Adapter(Protocol):
    """One log that outlives its handles."""

    url: str

    def open(self) -> port.EventLog:
        """A new handle; closed with the test."""
        ...

    def clean(self, log: port.EventLog, later: datetime.timedelta = ...) -> None:
        """Lets that much time pass, then runs compaction and retention to their end."""
        ...

    def break_a_thread(self, log: port.EventLog) -> None:
        """Makes what a handle appends next a thing that its own thread cannot have expected."""
        ...

    def close(self) -> None: ...


@dataclasses.dataclass
class SqliteAdapter:
    path: pathlib.Path
    passed: datetime.timedelta = datetime.timedelta()

    def __post_init__(self) -> None:
        self.url = f"sqlite://{self.path}"
        self._opened: list[SqliteLog] = []

    def open(self) -> port.EventLog:
        self._opened.append(SqliteLog(self.path, now=lambda: clock.utc_now() + self.passed))
        return self._opened[-1]

    def clean(self, log: port.EventLog, later: datetime.timedelta = datetime.timedelta()) -> None:
        self.passed += later
        assert isinstance(log, SqliteLog)
        log.clean()

    def break_a_thread(self, log: port.EventLog) -> None:
        with contextlib.closing(apsw.Connection(str(self.path))) as connection:
            connection.execute("DELETE FROM sources")

    def close(self) -> None:
        for log in self._opened:
            log.close()


class _Log(kafka.KafkaLog):
    """Closes the readers that a test leaves open, and with them their connections."""

    def __init__(self, reached: kafka.Cluster) -> None:
        super().__init__(reached)
        self._given: list[port.Reader] = []

    def reader(self, start: Mapping[port.TopicPartition, int]) -> port.Reader:
        self._given.append(super().reader(start))
        return self._given[-1]

    def close(self) -> None:
        super().close()
        for reader in self._given:
            reader.close()


class KafkaAdapter:
    """Topics of its own, by their prefix, on a cluster that the session shares."""

    def __init__(self, reached: kafka.Cluster) -> None:
        self._cluster = reached
        self.url = f"kafka://{','.join(reached.servers)}/{reached.prefix}"
        self._opened: list[kafka.KafkaLog] = []
        self._cleaner: cleaning.Cleaner | None = None
        kafka.create_topics(self._cluster)

    def open(self) -> port.EventLog:
        self._opened.append(_Log(self._cluster))
        return self._opened[-1]

    def clean(self, log: port.EventLog, later: datetime.timedelta = datetime.timedelta()) -> None:
        if self._cleaner is None:
            self._cleaner = cleaning.Cleaner(self._cluster.servers, self._cluster.prefix)
        self._cleaner.clean(log, later)

    def break_a_thread(self, log: port.EventLog) -> None:
        no_bytes: Any = {"a header": "text"}
        log.append([port.NewRecord("examples", b"k", b"v", no_bytes)])

    def close(self) -> None:
        for log in self._opened:
            log.close()
        if self._cleaner is not None:
            self._cleaner.close()


@pytest.fixture(scope="session")
def cleaning_kafka_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a broker that cleans up at once: one that runs already does so every few minutes."""
    if not os.environ.get(shared.EXTERNAL):
        yield request.getfixturevalue("kafka_address")
        return
    with cluster.running() as started:
        yield started.address


@pytest.fixture(params=["sqlite", "kafka"])
def adapter(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Adapter]:
    made: Adapter
    with contextlib.ExitStack() as stack:
        if request.param == "kafka":
            cleans = request.node.get_closest_marker("cleans") is not None
            address = request.getfixturevalue("cleaning_kafka_address" if cleans else "kafka_address")
            made = KafkaAdapter(stack.enter_context(shared.own(address)))
        else:
            made = SqliteAdapter(tmp_path / "log.db")
        stack.callback(made.close)
        yield made


@pytest.fixture
def log(adapter: Adapter) -> port.EventLog:
    return adapter.open()


@dataclasses.dataclass
class Child:
    """A process of its own with the same log open; `log_child.py` says what it does."""

    process: subprocess.Popen[str]

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def rest(self) -> list[str]:
        """All further lines; waits for its end."""
        output, _ = self.process.communicate(timeout=60)
        return output.split()


@pytest.fixture
def children(adapter: Adapter) -> Iterator["Children"]:
    made = Children(adapter.url)
    yield made
    made.end()


class Children:
    def __init__(self, url: str) -> None:
        self._url = url
        self._started: list[Child] = []

    def start(self, act: str, name: str, count: int) -> Child:
        """Returns when the child has the log open; it acts when told to `go`."""
        process = subprocess.Popen(
            [sys.executable, str(_CHILD), self._url, act, name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        child = Child(process)
        self._started.append(child)
        assert child.line() == "open"
        return child

    def end(self) -> None:
        for child in self._started:
            child.process.kill()
            child.process.communicate()
