"""What a dead letter holds: its record as JSON where it can be read, else the first bytes. Used by `deadletters`.

What may not be read is left out: text that is sealed, text without consent, and of people who are to be forgotten.
Bytes that cannot be read do not say whose they are; what is recorded without consent has no text to begin with
(`policy.recorder`).
"""

import base64
import contextlib
import dataclasses
from typing import Any

from trimtab.bus import port, tail, topics
from trimtab.cli import show
from trimtab.cli.models import inspecting
from trimtab.core import audit, errors, text
from trimtab.wire import schemas

SHOWN_BYTES = 256
_ROW = 16
_CATCH_UP_S = 60.0
_SEALED = "(sealed)"
# Of a record beside its texts: what the text can be read from.
_TELLING = frozenset({"tokens", "token_ids", "prompt_token_ids", "top_logprobs", "stop", "reason"})


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """record: as JSON, None where the bytes cannot be read; problem: why not. note: what has to be known about it."""

    record: Any
    problem: str = ""
    note: str = ""


def read(log: port.EventLog, letter: audit.DeadLetter) -> Content:
    if letter.value_bytes:
        return Content(None, "The letter has only the beginning of it.")
    note = ""
    try:
        record = schemas.decode_any(letter.value, letter.headers)
    except errors.MalformedRecord as problem:
        try:
            record = schemas.decode_any(letter.value, letter.headers, newer=True)
        except errors.MalformedRecord:
            return Content(None, str(problem))
        note = f"{problem} Shown is what this version understands."
    withheld = _why_withheld(log, record)
    return Content(_plain(record, withheld), note=" ".join(filter(None, (note, withheld))))


def document(letter: audit.DeadLetter, content: Content) -> dict[str, Any]:
    """For programs."""
    found = {
        "key": letter.key.hex(),
        "headers": {name: value.decode(errors="backslashreplace") for name, value in letter.headers.items()},
        "record": content.record,
        "note": content.note,
    }
    if content.record is None:
        found |= {"problem": content.problem, "begins_base64": base64.b64encode(letter.value[:SHOWN_BYTES]).decode()}
    return found


def tell(screen: show.Screen, letter: audit.DeadLetter, content: Content) -> None:
    """For people."""
    screen.say("")
    headers = [(name, value.decode(errors="backslashreplace")) for name, value in sorted(letter.headers.items())]
    screen.table(("header", "value"), [("(key)", letter.key.hex()), *headers])
    screen.say("")
    if content.note:
        screen.say(show.literal(content.note))
    if content.record is not None:
        screen.document(content.record)
        return
    screen.say(show.literal(content.problem))
    screen.say("Its first bytes:")
    for start in range(0, min(len(letter.value), SHOWN_BYTES), _ROW):
        screen.say(show.literal(_hex_row(letter.value[:SHOWN_BYTES], start)))


def _hex_row(value: bytes, start: int) -> str:
    part = value[start : start + _ROW]
    legible = "".join(chr(one) if 32 <= one < 127 else "." for one in part)
    return f"{start:08x}  {part.hex(' '):<{3 * _ROW}} {legible}"


def _why_withheld(log: port.EventLog, record: Any) -> str:
    """Why its words may not be shown, as a sentence; empty when they may."""
    context = getattr(record, "context", None)
    if not isinstance(context, text.Context):
        return "It does not say whose it is: its words are left out."
    if not context.store:
        return "There is no consent to keep its words: they are left out."
    if context.subject_hash and (context.tenant, context.subject_hash) in _forgotten(log):
        return "It is about somebody who is to be forgotten: its words are left out."
    return ""


def _forgotten(log: port.EventLog) -> set[tuple[str, bytes]]:
    """Whom topic `erasures` names, by tenant and keyed hash."""
    found = set()
    with contextlib.closing(tail.Tail(log, topics.ERASURES, within_s=_CATCH_UP_S)) as erasures:
        for record in erasures.read():
            with contextlib.suppress(errors.MalformedRecord):
                asked = schemas.decode(record.value, record.headers, audit.Erasure)
                found.add((asked.context.tenant, asked.context.subject_hash))
    return found


def _plain(value: Any, withheld: str) -> Any:
    """As `inspecting.plain`, without what may not be read."""
    if isinstance(value, text.Text):
        return "(left out)" if withheld else _SEALED if isinstance(value.body, text.Ciphertext) else value.body
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            telling = withheld and field.name in _TELLING and item
            shown[field.name] = "(left out)" if telling else _plain(item, withheld)
        return {"type": type(value).__name__} | shown
    if isinstance(value, dict):
        return {key: _plain(item, withheld) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, withheld) for item in value]
    return inspecting.plain(value)
