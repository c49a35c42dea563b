"""One call to a toy process from a process of its own: `python ask.py ADDRESS SECRETS_FILE`."""

import asyncio
import pathlib
import sys

import trimtab_client
from trimtab.core import scoring
from trimtab.rpc import secrets
from trimtab.wire import calls


async def ask(address: str, secrets_file: str) -> None:
    token = secrets.load(pathlib.Path(secrets_file)).internal_token
    async with trimtab_client.connect(address, token) as channel:
        await calls.RewardCalls(channel).score(scoring.ScoreRequest("m", ()))


asyncio.run(ask(*sys.argv[1:]))
