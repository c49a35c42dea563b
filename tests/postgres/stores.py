"""Databases for tests, of either kind: the same suite runs on both."""

import pathlib
import shutil
import sqlite3
from typing import Protocol

from tests.postgres.server import Server


class Stores(Protocol):
    """Databases by name, gone with the test."""

    def url(self, name: str = "ledger") -> str:
        """Of the database with this name: an empty one, when it is named for the first time."""
        ...

    def copy(self, name: str, to: str) -> None:
        """A backup of a database that nobody has open."""
        ...

    def change(self, name: str, *statements: str) -> None:
        """Runs SQL behind the ledger's back."""
        ...

    def as_an_older_version(self, name: str) -> None:
        """Makes it look like that of a ledger of long ago, which knew nothing of networks."""
        ...

    def set_version(self, name: str, version: int) -> None:
        """Makes its tables look like those of a ledger of this version."""
        ...

    def close(self) -> None: ...


_OLDER = ("DROP INDEX examples_by_session", "ALTER TABLE examples DROP COLUMN network")


class SqliteStores:
    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def url(self, name: str = "ledger") -> str:
        return f"sqlite:///{self._path(name)}"

    def copy(self, name: str, to: str) -> None:
        shutil.copy(self._path(name), self._path(to))

    def change(self, name: str, *statements: str) -> None:
        with sqlite3.connect(self._path(name)) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    def as_an_older_version(self, name: str) -> None:
        self.set_version(name, 0)
        self.change(name, *_OLDER)

    def set_version(self, name: str, version: int) -> None:
        self.change(name, f"PRAGMA user_version = {version}")

    def close(self) -> None: ...

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.db"


class PostgresStores:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._urls: dict[str, str] = {}

    def url(self, name: str = "ledger") -> str:
        if name not in self._urls:
            self._urls[name] = self._server.create()
        return self._urls[name]

    def copy(self, name: str, to: str) -> None:
        self._urls[to] = self._server.copy(self._urls[name])

    def change(self, name: str, *statements: str) -> None:
        for statement in statements:
            self._server.ask(self._urls[name], statement)

    def as_an_older_version(self, name: str) -> None:
        self.set_version(name, 0)
        self.change(name, *_OLDER)

    def set_version(self, name: str, version: int) -> None:
        self.change(name, f"UPDATE version SET version = {version}")

    def close(self) -> None:
        for url in self._urls.values():
            self._server.recycle(url)
