"""What released versions wrote, and what has to be found in it. Made by `tools/record_platform.py`."""

import contextlib
import dataclasses
import datetime
import json
import pathlib
import sqlite3
import sys
import tarfile
from typing import Any

from tests.faults import reading
from tools import record_platform

from trimtab.bus import connect, letters, port, topics
from trimtab.cli.machine import platform
from trimtab.core import clock, errors, ledger
from trimtab.rpc import ports
from trimtab.wire import schemas


@dataclasses.dataclass(frozen=True)
class Recording:
    """version: of the distribution that wrote it. golden: what that one counted."""

    version: str
    golden: dict[str, Any]

    def unpack(self, folder: pathlib.Path) -> platform.Layout:
        """The state folder, as old as if its platform had ended a moment ago: else the log's retention would, some
        months from now, take away what the test is about."""
        with tarfile.open(record_platform.RECORDINGS / f"{self.version}.tar.xz") as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not yet in Python 3.11.3
            archive.extractall(folder)
        layout = platform.Layout(folder / "state")
        _take_over(layout)
        with contextlib.closing(sqlite3.connect(layout.state / "log.sqlite")) as log, log:
            [[newest]] = log.execute("SELECT max(at_us) FROM records")
            now = clock.microseconds(clock.utc_now() - datetime.timedelta(minutes=1))
            log.execute("UPDATE records SET at_us = at_us + ?", (now - newest,))
        return layout


def _take_over(layout: platform.Layout) -> None:
    """Its processes are those of this folder and of this Python, as after an upgrade in place, on ports that are free
    here."""
    with contextlib.closing(sqlite3.connect(layout.state / "processes.sqlite")) as table, table:
        rows = table.execute("SELECT address, env FROM processes").fetchall()
        free = (f"127.0.0.1:{port}" for port in ports.free_ports(len(rows)))
        instead = dict(zip((address for address, _ in rows), free, strict=True))
        instead[str(pathlib.Path(json.loads(rows[0][1])["TRIMTAB_CACHE"]).parent)] = str(layout.state)
        instead['"python3"'] = json.dumps(sys.executable)
        for column in ("address", "argv", "env"):
            for before, now in instead.items():
                table.execute(f"UPDATE processes SET {column} = replace({column}, ?, ?)", (before, now))


ALL = tuple(
    Recording(file.stem, json.loads(file.read_text())) for file in sorted(record_platform.RECORDINGS.glob("*.json"))
)


def refused(layout: platform.Layout) -> set[letters.Place]:
    """Where records stand that the platform itself could not read then."""
    with contextlib.closing(connect.open_log(layout.log_url)) as log, contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
        return {place for place, _ in known.entries}


def plain(counts: ledger.CountsResponse) -> dict[str, Any]:
    """As JSON would have it, less how far the ledger has read."""
    document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(counts)))
    document.pop("consumed")
    return document


def known_then(recording: Recording, counts: dict[str, Any]) -> dict[str, Any]:
    """Of `plain` counts, those that the version had that was recorded: later ones may count more."""
    return {name: counts[name] for name in recording.golden["counts"]}


def unreadable(log: port.EventLog) -> set[letters.Place]:
    """Where records stand that this version cannot read."""
    found = set()
    for record in (one for topic in topics.ALL.values() for one in reading.records(log, topic)):
        try:
            schemas.decode_any(record.value, record.headers)
        except errors.MalformedRecord:
            found.add(letters.place_of(record))
    return found
