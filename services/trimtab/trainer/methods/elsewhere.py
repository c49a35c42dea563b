"""Other processes that a run asks: how it reaches them, and its journal of what they said. Called by
`trainer.methods.remote_rollouts` and `trainer.methods.remote_scores`.

What came over the wire cannot be asked for again to the last bit, so it is written into the run folder, whole and
durable, before anything is learned from it; a resumed run reads it there and asks nobody:

    journal/rollouts/12.json    the answers of iteration 12 in the order asked for, refused ones with their reason
    journal/scores/12.json      the scores of its answers, with a digest of what was scored

The journal is published with the run's models, so that the run can be made again from the registry.
"""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio

import trimtab_client
from trimtab.core import errors, files
from trimtab.trainer import record

_AWAY = (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.Overloaded)
ROLLOUTS, SCORES = f"{record.JOURNAL}/rollouts", f"{record.JOURNAL}/scores"


@dataclasses.dataclass(frozen=True, slots=True)
class Door:
    """Of another process. setting: the one that names it. token: empty where the run was given none.

    ready_s: how long it is waited for, if it is just starting.
    """

    setting: str
    address: str
    token: str
    ready_s: float = 120.0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to it. InvalidField without a token, ServiceUnavailable when it is not ready in time."""
        field = f"settings_json.{self.setting}"
        if not self.token:
            missing = f"needs the internal token and {record.SECRETS_FILE} is not set"
            raise errors.InvalidField(field, missing, "name its file")
        async with trimtab_client.connect(self.address, self.token, assigns_ids=True) as channel:
            try:
                await asyncio.wait_for(channel.channel_ready(), self.ready_s)
            except TimeoutError:
                raise errors.ServiceUnavailable(
                    f"No process at {self.address} was ready within {self.ready_s:g} s; start it, or leave "
                    f"`{self.setting}` out to do without it."
                ) from None
            yield channel


def nothing_came(what: str, problems: Sequence[errors.TrimtabError]) -> errors.TrimtabError:
    """Of a process that answered nothing. what: in a clause. ServiceUnavailable where asking later may help."""
    away = all(isinstance(one, _AWAY) for one in problems)
    return (errors.ServiceUnavailable if away else errors.WrongState)(f"{what}: {problems[0]}")


def entry(folder: pathlib.Path, of: str, iteration: int) -> pathlib.Path:
    """The journal's file of an iteration, counted from 0. folder: of the run; of: ROLLOUTS or SCORES."""
    return folder / of / f"{iteration + 1}.json"


def write(path: pathlib.Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, json.dumps(document))


def read(path: pathlib.Path) -> Any:
    """ArtifactCorrupt when it is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise unreadable(path, problem) from problem


def unreadable(path: pathlib.Path, problem: Exception) -> errors.ArtifactCorrupt:
    return errors.ArtifactCorrupt(f"{path} is no record of what a run was told: {problem!r}.")
