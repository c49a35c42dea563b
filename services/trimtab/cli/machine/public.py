"""The public door of the platform on this machine, for commands that do what an app does."""

import trimtab_client
from trimtab.cli.machine import platform
from trimtab.core import errors
from trimtab.rpc import secrets


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


def core_error(problem: trimtab_client.TrimtabError) -> errors.TrimtabError:
    """The error that the service raised, with its sentence."""
    known = errors.restore(problem.reason, str(problem), problem.details)
    return known or errors.InternalFault(f"A call ({problem})")
