"""Whether an engine in another process serves the very bytes that this policy process verified.

Called by `policy.openai`, before anything is served. Docs: docs/decisions/0024.
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
    """What an engine says of itself. root: the folder it was started on; started_at: seconds since the epoch."""

    root: str
    started_at: float


def check(url: str, served: Served | None, folder: pathlib.Path, model_id: str) -> None:
    """WrongState unless the engine is on this machine and was started on `folder` as it has been ever since.

    served: None when the engine serves no model of this id.
    """
    why = _doubt(url, served, folder, model_id)
    if why:
        raise errors.WrongState(
            f"{_UNPROVEN}: {why}. Start one beside this process, after the folder was fetched: "
            f"`vllm serve {folder.resolve()} --served-model-name={model_id} --host=127.0.0.1`."
        )


def _doubt(url: str, served: Served | None, folder: pathlib.Path, model_id: str) -> str:
    if not _loopback(url):
        return f"{url} is not an address of this machine"
    if served is None:
        return f"{url} serves no model with the id {model_id}"
    if pathlib.Path(served.root) != folder.resolve():
        return f"{url} was started on {served.root!r}, not on the folder that was verified"
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
