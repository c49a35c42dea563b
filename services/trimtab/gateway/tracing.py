"""The W3C trace context of a request. Called by both doors."""

import re

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent(given: str) -> str:
    """The header, when it is one; a broken one is as good as none, says the standard."""
    return given if _TRACEPARENT.fullmatch(given) else ""
