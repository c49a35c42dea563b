"""How often something costly is asked again. Pure."""

# A tenth of the time goes into it at most, and it is never put off for longer than a minute.
_SHARE_OF_TIME, _WITHIN_S = 10.0, 60.0


def next_at(began_s: float, ended_s: float) -> float:
    """When it may be asked again, on the clock that timed it."""
    return ended_s + min(_WITHIN_S, _SHARE_OF_TIME * (ended_s - began_s))
