"""Writes what an app gives into messages, so that a value that does not fit is named. Used by `chat` and `feedback`."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import message

from trimtab_client import errors
from trimtabapi.common.v1 import common_pb2

_ROLES = {
    "system": common_pb2.ROLE_SYSTEM,
    "user": common_pb2.ROLE_USER,
    "assistant": common_pb2.ROLE_ASSISTANT,
}


def put(into: message.Message, where: str = "", **values: Any) -> None:
    """Sets the fields of scalars that are given; None is not. InvalidField names the first that does not fit.

    where: the name to say instead of the field's own.
    """
    for name, value in values.items():
        try:
            if isinstance(value, list):
                getattr(into, name).extend(value)
            elif value is not None:
                setattr(into, name, value)
        except (TypeError, ValueError) as problem:
            raise errors.invalid_field(
                where or name, f"cannot be sent ({problem})", "give valid Unicode, or a number in range"
            ) from problem


def put_messages(into: Any, messages: Iterable[Mapping[str, str]]) -> None:
    """Appends a conversation to a repeated field of messages."""
    for position, said in enumerate(messages):
        where = f"messages[{position}]"
        for name in said.keys() - {"role", "content"}:
            raise errors.invalid_field(f"{where}.{name}", "is not known", "send `role` and `content` only")
        if said.get("role") not in _ROLES:
            raise errors.invalid_field(f"{where}.role", f"is {said.get('role')!r}", f"send one of {', '.join(_ROLES)}")
        put(into.add(role=_ROLES[said["role"]]).content, f"{where}.content", plain=said.get("content", ""))


def conversation(messages: str | Iterable[Mapping[str, str]]) -> tuple[Mapping[str, str], ...]:
    """The messages; a string is one of the user."""
    return ({"role": "user", "content": messages},) if isinstance(messages, str) else tuple(messages)
