"""`trimtab backup` and `trimtab restore`: what a platform on this machine keeps, in one folder, while it runs.

What is copied first may only know of what is copied later: the trainer's database follows from the log, and what the
log names is in the registry. The ledger is left out, it is made again from the log; so are caches, logs of processes,
and the folders of runs that have not ended, which begin anew and come to the same weights.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from trimtab.bus.sqlite import snapshot
from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.core import clock, errors, files
from trimtab.rpc import secrets

CONTENTS = "backup.json"
_FORMAT = 1
_LOG = "log.sqlite"
_TRAINER = pathlib.Path("trainer", "trainer.db")
_RUNS = pathlib.Path("trainer", "runs")
_SETTINGS = ("lines.toml", "secrets.toml")
# Manifests first: what they are made of was there before them.
_REGISTRY = tuple(pathlib.Path("registry", name) for name in ("manifests", "generations", "blobs"))
_ENDED = "result.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """Of a whole backup; written last. files: sha256, hex, by path. log: per partition the offset after its last."""

    format: int
    made_at: str
    log: Mapping[str, int]
    files: Mapping[str, str]


def back_up(state: pathlib.Path, to: pathlib.Path, as_json: bool) -> None:
    """Copies into a new folder. WrongState when it is not empty, or the log is not this folder's own."""
    layout, screen = platform.Layout(state), show.Screen(as_json)
    if not layout.secrets.exists():
        raise errors.NotFound("platform in", str(layout.state))
    if layout.log_url.startswith("kafka:"):
        raise errors.WrongState(
            f"The log of {layout.state} is {layout.log_url}: copy its topics with Kafka's own tools, and the registry "
            "after them. `trimtab backup` copies a platform with a log of its own."
        )
    _require_empty(to)
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    with screen.step(f"copying {layout.state}") as step:
        for part in _parts(layout.state, to):
            step.say(str(part))
    with screen.step("reading it again") as step:
        digests = {}
        for path in _files(to):
            step.say(path)
            digests[path] = files.digest(to / path)
    contents = Contents(_FORMAT, clock.utc_now().isoformat(), snapshot.ends(to / _LOG), digests)
    files.replace(to / CONTENTS, json.dumps(dataclasses.asdict(contents), indent=2) + "\n")
    _tell(screen, contents, to, "trimtab restore BACKUP --state NEW makes a platform of it.")
    if layout.database_file.exists():
        url = show.literal(layout.database_url)
        screen.say(f"The ledger's database {url} is not in it: a ledger is made again from the log.")


def restore(backup: pathlib.Path, state: pathlib.Path, as_json: bool) -> None:
    """Makes a new state folder of a backup: whole, or not at all. ArtifactCorrupt when a file is not what it was."""
    screen, contents, final = show.Screen(as_json), _read(backup), state.absolute()
    _require_empty(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = final.with_name(f".{final.name}.restored")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    with screen.step(f"copying into {final}") as step:
        for path, digest in contents.files.items():
            step.say(path)
            if not (backup / path).is_file():
                raise errors.ArtifactCorrupt(f"{backup / path} is missing; nothing was restored.")
            _copy(backup / path, scratch / path)
            if files.digest(scratch / path) != digest:
                raise errors.ArtifactCorrupt(f"{backup / path} is not what was backed up; nothing was restored.")
    # the platform that was backed up may run yet, on this machine even: it is another one from here on
    secrets.renew_internal_token(scratch / "secrets.toml")
    if final.exists():
        final.rmdir()
    files.settle(scratch, final)
    _tell(screen, contents, final, f"trimtab up --state {final} starts it; the ledger is made again from the log.")


def _parts(state: pathlib.Path, to: pathlib.Path) -> Iterator[pathlib.Path]:
    """Copies part after part, each in its turn; says which it is at."""
    if (state / _TRAINER).exists():
        yield _TRAINER
        (to / _TRAINER).parent.mkdir()
        snapshot.copy(state / _TRAINER, to / _TRAINER)
    for run in sorted((state / _RUNS).glob("*")):
        if (run / _ENDED).exists():
            yield run.relative_to(state)
            for path in _files(run):
                _copy(run / path, to / _RUNS / run.name / path)
    yield pathlib.Path(_LOG)
    snapshot.copy(state / _LOG, to / _LOG)
    for part in _REGISTRY:
        for path in _files(state / part):
            yield part / path
            _copy(state / part / path, to / part / path)
    for name in _SETTINGS:
        if (state / name).exists():
            _copy(state / name, to / name)


def _copy(source: pathlib.Path, to: pathlib.Path) -> None:
    """With its mode, durable."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, to)
    files.sync(to)
    files.sync(to.parent)


def _files(folder: pathlib.Path) -> list[str]:
    """Paths of the files in a folder, without those that are being written."""
    found = []
    for where, _, names in os.walk(folder):
        found += [pathlib.Path(where, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(map(str, found))


def _read(backup: pathlib.Path) -> Contents:
    try:
        document: dict[str, Any] = json.loads((backup / CONTENTS).read_text())
        contents = Contents(**document)
    except FileNotFoundError:
        raise errors.NotFound("whole backup in", str(backup)) from None
    except (ValueError, TypeError) as problem:
        raise errors.ArtifactCorrupt(f"{backup / CONTENTS} cannot be read ({problem}).") from problem
    if contents.format != _FORMAT:
        raise errors.WrongState(f"{backup} has format {contents.format}; this version reads {_FORMAT}.")
    return contents


def _require_empty(folder: pathlib.Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise errors.WrongState(f"{folder} is not empty; name a folder that does not exist.")


def _tell(screen: show.Screen, contents: Contents, where: pathlib.Path, then: str) -> None:
    screen.say(
        f"{len(contents.files)} files in {show.literal(str(where))}, of {show.literal(contents.made_at)}, with "
        f"{sum(contents.log.values())} records of the log. {show.literal(then)}"
    )
    if screen.as_json:
        screen.json(dataclasses.asdict(contents))
