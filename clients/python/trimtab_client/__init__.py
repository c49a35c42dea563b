"""Client of a Trimtab platform: ask it, and tell it what people think of its answers.

    from trimtab_client import Trimtab

    with Trimtab("127.0.0.1:8081", api_key=KEY, line="main") as trimtab:
        answer = trimtab.chat("Why is the sky blue?")
        trimtab.feedback.thumb(answer, up=True)

`AsyncTrimtab` is the same for asyncio. Whatever fails is a `TrimtabError`, by its reason one of `errors`. `connect` and
`from_rpc` are for services, which speak to each other in the generated stubs of `trimtabapi`.
"""

from trimtab_client import errors
from trimtab_client.aio import AsyncTrimtab
from trimtab_client.answers import Answer, Choice, Piece
from trimtab_client.channel import connect
from trimtab_client.client import Trimtab
from trimtab_client.errors import TrimtabError, from_rpc
from trimtab_client.sending import Receipt

__all__ = [
    "Answer",
    "AsyncTrimtab",
    "Choice",
    "Piece",
    "Receipt",
    "Trimtab",
    "TrimtabError",
    "connect",
    "errors",
    "from_rpc",
]
