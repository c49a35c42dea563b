"""The one way to read the time, so that tests can turn it."""

import datetime
import time
from collections.abc import Callable

Clock = Callable[[], datetime.datetime]


def utc_now() -> datetime.datetime:
    """The present moment, aware, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def steady(now: Clock = utc_now) -> Clock:
    """A clock that starts at the present moment and goes on evenly, whatever becomes of the machine's clock."""
    begun, at = now(), time.monotonic()
    return lambda: begun + datetime.timedelta(seconds=time.monotonic() - at)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def microseconds(moment: datetime.datetime) -> int:
    """Microseconds since 1970, exactly; `from_microseconds` turns back."""
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)


def from_microseconds(count: int) -> datetime.datetime:
    """The moment, in UTC, that many microseconds after 1970."""
    return _EPOCH + datetime.timedelta(microseconds=count)
