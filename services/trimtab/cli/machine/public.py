"""The public door of the platform on this machine, for commands that do what an app does."""

import contextlib
from collections.abc import AsyncGenerator

import trimtab_client
from trimtab.cli.machine import platform
from trimtab.core import errors
from trimtab.rpc import secrets
from trimtab.wire import calls


def client(layout: platform.Layout, line: str = "") -> trimtab_client.Trimtab:
    """An app's client of a line, the platform's own unless named; NotFound when no platform runs."""
    facts = layout.read_facts()
    key = secrets.local_api_key(layout.secrets)
    return trimtab_client.Trimtab(facts.addresses["gateway"], api_key=key, line=line or facts.line)


def async_client(layout: platform.Layout) -> trimtab_client.AsyncTrimtab:
    """The same for asyncio."""
    facts = layout.read_facts()
    key = secrets.local_api_key(layout.secrets)
    return trimtab_client.AsyncTrimtab(facts.addresses["gateway"], api_key=key, line=facts.line)


@contextlib.asynccontextmanager
async def feedback_calls(layout: platform.Layout) -> AsyncGenerator[calls.FeedbackCalls]:
    """What the SDK has no method for."""
    key = secrets.local_api_key(layout.secrets)
    async with trimtab_client.connect(layout.read_facts().addresses["gateway"], key) as channel:
        yield calls.FeedbackCalls(channel)


def core_error(problem: trimtab_client.TrimtabError) -> errors.TrimtabError:
    """The error that the service raised, with its sentence."""
    known = errors.restore(problem.reason, str(problem), problem.details)
    return known or errors.InternalFault(f"A call ({problem})")
