"""A real PostgreSQL for tests and for people: `python -m tests.postgres.server` starts one until Ctrl-C.

Debian's package, installed where it is missing. The server never runs as root: where we do, it runs as user `postgres`.
It listens on the loopback interface alone, unless it is told another address, and syncs what it commits.
"""

import argparse
import contextlib
import fcntl
import functools
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from trimtab.rpc import ports

_INSTALLED = pathlib.Path("/usr/lib/postgresql")
_LOCK = pathlib.Path(tempfile.gettempdir()) / "trimtab-postgres.lock"
_READY_WITHIN_S = 60.0
_USER = "trimtab"
_SETTINGS = {
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "logging_collector": "off",
}


@functools.cache
def programs() -> pathlib.Path:
    """The folder with `initdb` and `postgres`; installed where it is not there yet."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(_INSTALLED.glob("*/bin/initdb")):
            _install()
    return max(_INSTALLED.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])).parent


def _install() -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise RuntimeError("The tests need a PostgreSQL server: install Debian's package `postgresql`, or run as root.")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "postgresql"]):
        subprocess.run(["apt-get", "--quiet", "--quiet", *words], env=environment, check=True)


class Server:
    """One server with data of its own in a folder. A kill or a stop keeps them; `start` goes on with them.

    password: what it asks everybody for; empty: it lets everybody in. address: of this machine, where those get in that
    are on the same network. port: a free one unless given.
    """

    def __init__(self, folder: pathlib.Path, password: str = "", address: str = "127.0.0.1", port: int = 0) -> None:
        self._password = password
        self._address = address
        self._folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or ports.free_port()
        self._free: list[str] = []
        if self._owner is not None:
            os.chown(folder, self._owner.pw_uid, self._owner.pw_gid)
        words = ["-D", str(self._data), "-U", _USER, "-E", "UTF8", "--locale=C.UTF-8", "-A"]
        words += ["scram-sha-256", f"--pwfile={self._password_file()}"] if password else ["trust"]
        subprocess.run([str(programs() / "initdb"), *words], stdout=subprocess.DEVNULL, check=True, **self._as_owner)
        with (self._data / "pg_hba.conf").open("a") as who:
            who.write(f"host all all samenet {'scram-sha-256' if password else 'trust'}\n")

    def _password_file(self) -> pathlib.Path:
        path = self._folder / "password"
        path.write_text(self._password)
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        path.chmod(0o600)
        return path

    @functools.cached_property
    def _owner(self) -> pwd.struct_passwd | None:
        return pwd.getpwnam("postgres") if os.geteuid() == 0 else None

    @property
    def _as_owner(self) -> dict[str, object]:
        own = {"user": self._owner.pw_uid, "group": self._owner.pw_gid} if self._owner else {}
        return {"cwd": self._folder, "extra_groups": [] if self._owner else None, **own}

    @property
    def log(self) -> pathlib.Path:
        return self._folder / "postgres.out"

    def start(self) -> None:
        """Returns when it answers; RuntimeError with the end of its output when it does not."""
        settings = {"listen_addresses": self._address, **_SETTINGS}
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(programs() / "postgres"), "-D", str(self._data), "-p", str(self.port), *flags]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **self._as_owner
            )
        give_up_at = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < give_up_at and self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError), self._connect():
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not come up:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Ends every connection and shuts down."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """As if the power had failed: nothing is written any more."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def create(self) -> str:
        """The URL of an empty database."""
        if self._free:
            return self._free.pop()
        return self._made("template0")

    def copy(self, url: str) -> str:
        """The URL of a copy of a database that nobody is connected to."""
        return self._made(_name(url))

    def recycle(self, url: str) -> None:
        """Ends who is still connected, and empties a database for the next who wants one."""
        with self._connect() as connection:
            theirs = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(theirs, (_name(url),))
        with self._connect(_name(url)) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        self._free.append(url)

    def ask(self, url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a query in that database, past every ledger."""
        with self._connect(_name(url)) as connection:
            found = connection.execute(query, values or None)
            return found.fetchall() if found.description else []

    def _made(self, template: str) -> str:
        name = f"ledger_{secrets.token_hex(6)}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"postgresql+psycopg://{_USER}@{self._address}:{self.port}/{name}"

    def _connect(self, name: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host=self._address,
            port=self.port,
            user=_USER,
            password=self._password,
            dbname=name,
            autocommit=True,
            connect_timeout=5,
        )


def _name(url: str) -> str:
    return url.rpartition("/")[2]


@contextlib.contextmanager
def running(password: str = "", address: str = "127.0.0.1", port: int = 0) -> Iterator[Server]:
    """A server of its own for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="trimtab-postgres-") as folder:
        server = Server(pathlib.Path(folder), password, address, port)
        try:
            server.start()
            yield server
        finally:
            server.crash()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.postgres.server", description="A PostgreSQL on this machine, until Ctrl-C."
    )
    parser.parse_args()
    with running() as server:
        sys.stdout.write(f"{server.create()}\nCtrl-C ends it and throws its data away.\n")
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
