"""Whether an engine in another process serves the very bytes that this policy process verified.

Called by `policy.openai` and `policy.tgi`, before anything is served. Docs: docs/decisions/0024.
"""

import dataclasses
import ipaddress
import pathlib
import urllib.parse

from trimtab.core import errors

_UNPROVEN = "A shared remote engine cannot prove which weights it serves"
# a process's start is told to the second; vLLM takes several to come to reading weights
_CLOCK_S = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What is known of an engine. root: the folder it says it was started on; started_at: seconds since the epoch, None
    when its process cannot be seen from here."""

    root: str
    started_at: float | None


def check(url: str, served: Served | None, folder: pathlib.Path, model_id: str, start: str) -> None:
    """WrongState unless the engine is on this machine and was started on `folder` as it has been ever since.

    served: None when the engine serves no model of this id; start: the command that starts one that does.
    """
    why = _doubt(url, served, folder, model_id)
    if why:
        raise errors.WrongState(
            f"{_UNPROVEN}: {why}. Start one beside this process, after the folder was fetched: `{start}`."
        )


def _doubt(url: str, served: Served | None, folder: pathlib.Path, model_id: str) -> str:
    if not _loopback(url):
        return f"{url} is not an address of this machine"
    if served is None:
        return f"{url} serves no model with the id {model_id}"
    if pathlib.Path(served.root) != folder.resolve():
        return f"{url} was started on {served.root!r}, not on the folder that was verified"
    if served.started_at is None:
        return f"no process that listens at {url} can be seen from here, so nobody knows when it read its weights"
    changed = max(path.stat().st_ctime for path in (folder, *folder.rglob("*")))
    if changed > served.started_at + _CLOCK_S:
        return f"{url} was started before the verified folder was made, so it holds bytes of another"
    return ""


def _loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
