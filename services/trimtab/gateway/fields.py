"""Reads a JSON object field by field: each with its type and limits, null as absent, and nothing left over unseen.

Called by `gateway.openai` and `gateway.voting`, the two bodies people send.
"""

import json
from typing import Any

from trimtab.core import errors
from trimtab.gateway import errors as gateway_errors


def read_object(raw: bytes) -> "Fields":
    """The JSON object in a body; MalformedBody says what is wrong with it."""
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as problem:
        raise gateway_errors.MalformedBody(f"is not UTF-8 (byte {problem.start})") from problem
    except (ValueError, RecursionError) as problem:
        raise gateway_errors.MalformedBody(f"is not JSON ({problem})") from problem
    if not isinstance(body, dict):
        raise gateway_errors.MalformedBody("is no JSON object")
    return Fields(body)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class Fields:
    """The fields of one object that were not read yet. `where`: its own name, for messages."""

    def __init__(self, body: dict[str, Any], where: str = "") -> None:
        self._where = where
        self._left = {key: value for key, value in body.items() if value is not None}

    def name(self, field: str) -> str:
        return f"{self._where}.{field}" if self._where else field

    def take(self, field: str) -> Any:
        """The value as it stands, or None."""
        return self._left.pop(field, None)

    def left(self) -> list[str]:
        """Full names of the fields nobody read."""
        return [self.name(field) for field in self._left]

    def text(self, field: str, limit: int | None = None) -> str:
        """A string, empty when absent."""
        value = self.take(field)
        if value is None:
            return ""
        readable = as_text(value, self.name(field))
        if limit is not None and len(readable) > limit:
            raise errors.InvalidField(self.name(field), f"has {len(readable)} characters", f"send at most {limit}")
        return readable

    def number(self, field: str, low: float, high: float) -> float | None:
        value = self.take(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise errors.InvalidField(
                self.name(field), f"is {_shown(value)}", f"send a number from {low:g} to {high:g}"
            )
        return float(value)

    def integer(self, field: str, low: int, high: int) -> int | None:
        value = self.take(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise errors.InvalidField(self.name(field), f"is {_shown(value)}", f"send an integer from {low} to {high}")
        return value

    def flag(self, field: str) -> bool | None:
        value = self.take(field)
        if value is not None and not isinstance(value, bool):
            raise errors.InvalidField(self.name(field), f"is {_shown(value)}", "send true or false")
        return value

    def items(self, field: str) -> list[Any]:
        """A list, empty when absent."""
        value = self.take(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise errors.InvalidField(self.name(field), f"is {_shown(value)}", "send a list")
        return value

    def table(self, field: str) -> "Fields | None":
        value = self.take(field)
        return None if value is None else as_fields(value, self.name(field))


def as_fields(value: Any, where: str) -> Fields:
    if not isinstance(value, dict):
        raise errors.InvalidField(where, f"is {_shown(value)}", "send an object")
    return Fields(value, where)


def as_text(value: Any, where: str) -> str:
    """A string that UTF-8 can say: JSON's escapes can spell half of a character."""
    if not isinstance(value, str):
        raise errors.InvalidField(where, f"is {_shown(value)}", "send a string")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise errors.InvalidField(
            where, "is not valid Unicode (a lone surrogate)", "send whole characters"
        ) from problem
    return value


def _shown(value: Any) -> str:
    """A short ASCII spelling of a wrong value."""
    spelled = json.dumps(value)
    return spelled if len(spelled) <= 40 else spelled[:37] + "..."
