"""Processes of the embedded log's tests: PATH ACT NAME. Each says a line when it is ready and waits for lines.

hold: holds the writers' turn until its next line. hammer: appends one record after the other until the topic has 600.
turns: at each line takes one turn and writes its name down in it.
full: may not let files grow; appends large records until one fails, then may again. forked: uses the log in a fork.
"""

import os
import pathlib
import resource
import sys

from trimtab.bus import port
from trimtab.bus.sqlite import SqliteLog, file
from trimtab.core import errors


def main() -> None:
    path, act, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    {"hold": hold, "hammer": hammer, "turns": turns, "full": full, "forked": forked}[act](path, name)


def hold(path: pathlib.Path, _name: str) -> None:
    with file.Turnstile(path).held():
        _say("held")
        sys.stdin.readline()


def hammer(path: pathlib.Path, name: str) -> None:
    log = SqliteLog(path)
    _say("open")
    sys.stdin.readline()
    while log.append([port.NewRecord("audit", name.encode(), b"")]).result()[0].offset < 600:
        pass
    log.close()


def turns(path: pathlib.Path, name: str) -> None:
    turnstile = file.Turnstile(path)
    with path.with_suffix(".turns").open("ab", buffering=0) as taken:
        _say("open")
        for _ in sys.stdin:
            with turnstile.held():
                taken.write(name.encode())


def full(path: pathlib.Path, _name: str) -> None:
    log = SqliteLog(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    acknowledged = 0
    try:
        while True:
            log.append([port.NewRecord("completions", b"k", bytes(100_000), partition=0)]).result()
            acknowledged += 1
    except errors.LogUnavailable as problem:
        _say(str(problem))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (position,) = log.append([port.NewRecord("completions", b"k", b"after", partition=0)]).result()
    _say(f"{acknowledged} {position.offset}")
    log.close()


def forked(path: pathlib.Path, _name: str) -> None:
    log = SqliteLog(path)
    child = os.fork()
    if child == 0:
        try:
            log.append([port.NewRecord("audit", b"k", b"v")])
        except RuntimeError as problem:
            _say(str(problem))
        os._exit(0)
    os.waitpid(child, 0)
    log.close()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
