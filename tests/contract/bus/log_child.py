"""A producer process of the contract suite: URL ACT NAME COUNT. Says `open`, waits for a line, then acts.

together: COUNT records at once, then waits for all, closes, says `done`.
serial: COUNT records, each acknowledged before the next; says each one's number once acknowledged.
"""

import sys

from trimtab.bus import connect, port


def main() -> None:
    url, act, name, count = sys.argv[1:]
    log = connect.open_log(url)
    _say("open")
    sys.stdin.readline()
    records = (
        port.NewRecord("examples", f"{name}-{n % 5}".encode(), f"{name} {n}".encode()) for n in range(int(count))
    )
    if act == "together":
        for waiting in [log.append([record]) for record in records]:
            waiting.result()
        log.close()
        _say("done")
        return
    for number, record in enumerate(records):
        log.append([record]).result()
        _say(str(number))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
