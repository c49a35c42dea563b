"""The desired-state table of this machine: which processes are wanted, where they listen, how they are.

Written by `rollout.local` (policies) and by `trimtab up` through `cli.machine.supervisor` (everything else); made true
by `cli.machine.supervisor`, the only one that writes the observed half of a row. A SQLite file in the state folder,
because the writers are several processes and any of them may be killed. No secrets in here: processes read those from a
file.
"""

import contextlib
import dataclasses
import datetime
import enum
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import apsw

from trimtab.core import clock, errors, failpoints
from trimtab.rpc import ports

FILE = "processes.sqlite"
# In an argument of a spec: replaced by the address that the process was given.
ADDRESS = "{address}"
_BUSY_MS = 10_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS processes (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  argv TEXT NOT NULL,
  env TEXT NOT NULL,
  wanted INTEGER NOT NULL,
  address TEXT NOT NULL,
  status TEXT NOT NULL,
  pid INTEGER NOT NULL DEFAULT 0,
  restarts INTEGER NOT NULL DEFAULT 0,
  last_exit TEXT NOT NULL DEFAULT '',
  updated_at TEXT NOT NULL
)
"""


class Status(enum.StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    CRASHED = "crashed"


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run. `{address}` in an argument becomes the address the table gives; env is added to the supervisor's.

    address: host:port that it shall be; empty: the one it had, a free loopback port the first time.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    address: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One process. `argv` has its address filled in."""

    sequence: int
    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    wanted: bool
    address: str
    status: Status
    pid: int
    restarts: int
    last_exit: str
    updated_at: datetime.datetime


_COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


class Table:
    """The table in a state folder. Safe to use from several threads and processes."""

    def __init__(self, state: pathlib.Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = apsw.Connection(str(state / FILE))
        self._database.set_busy_timeout(_BUSY_MS)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(_SCHEMA)

    def ensure(self, spec: ProcessSpec) -> Row:
        """Wants the process as specified and returns its row."""
        if not spec.name or "/" in spec.name or not spec.argv:
            raise errors.InvalidField("name", f"or argv of process {spec.name!r} is not usable", "name both, without /")
        with self._transaction():
            found = self._select("WHERE name = ?", (spec.name,))
            known = found[0] if found else None
            address = spec.address or (known.address if known else self._free_address())
            argv = tuple(argument.replace(ADDRESS, address) for argument in spec.argv)
            if (
                known is not None
                and known.wanted
                and (known.argv, known.env, known.address) == (argv, spec.env, address)
            ):
                return known
            self._database.execute(
                "INSERT INTO processes (name, argv, env, wanted, address, status, updated_at) "
                "VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "argv = excluded.argv, env = excluded.env, wanted = 1, address = excluded.address, "
                "updated_at = excluded.updated_at",
                (spec.name, json.dumps(argv), json.dumps(spec.env), address, Status.STOPPED, _now()),
            )
            return self._select("WHERE name = ?", (spec.name,))[0]

    def release(self, name: str) -> None:
        """The process is no longer wanted; the supervisor stops it. An unknown name is as good as released."""
        with self._transaction():
            self._database.execute(
                "UPDATE processes SET wanted = 0, updated_at = ? WHERE name = ? AND wanted = 1", (_now(), name)
            )

    def observe(self, name: str, status: Status, *, pid: int = 0, restarts: int = 0, last_exit: str = "") -> None:
        """What the supervisor found; it alone calls this."""
        with self._transaction():
            self._database.execute(
                "UPDATE processes SET status = ?, pid = ?, restarts = ?, last_exit = ?, updated_at = ? WHERE name = ?",
                (status, pid, restarts, last_exit, _now(), name),
            )

    def rows(self) -> list[Row]:
        """All processes, in the order they were first asked for."""
        with self._lock:
            return self._select("ORDER BY sequence", ())

    def get(self, name: str) -> Row | None:
        with self._lock:
            found = self._select("WHERE name = ?", (name,))
        return found[0] if found else None

    def close(self) -> None:
        with self._lock:
            self._database.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                failpoints.reach("processes.table.before_commit")
                self._database.execute("COMMIT")
                failpoints.reach("processes.table.committed")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    def _select(self, clause: str, bindings: tuple[str, ...]) -> list[Row]:
        found = self._database.execute(f"SELECT {', '.join(_COLUMNS)} FROM processes {clause}", bindings)
        return [_row(values) for values in found]

    def _free_address(self) -> str:
        taken = {row.address for row in self._select("", ())}
        while True:
            # The process binds it itself, so it stays the same over restarts.
            address = f"127.0.0.1:{ports.free_port()}"
            if address not in taken:
                return address


def _row(values: tuple[Any, ...]) -> Row:
    read = dict(zip(_COLUMNS, values, strict=True))
    return Row(
        **read
        | {
            "argv": tuple(json.loads(read["argv"])),
            "env": json.loads(read["env"]),
            "wanted": bool(read["wanted"]),
            "status": Status(read["status"]),
            "updated_at": datetime.datetime.fromisoformat(read["updated_at"]),
        }
    )


def _now() -> str:
    return clock.utc_now().isoformat()
