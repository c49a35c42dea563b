"""One codec between core dataclasses and protobuf messages that share their field names.

Called by `wire.schemas` (records on topics) and by the servicers. The rules:
- a dataclass field meets the message field of the same name, or the oneof of the same name, whose member is chosen
  by message name (class `Thumb` <-> message `Thumb`) or, for scalars, by Python type;
- `X | None` is an absent message or `optional` scalar; tuple is repeated; dict is map; datetime (UTC) is Timestamp;
- a StrEnum `RunKind.SFT` is the enum value `RUN_KIND_SFT`; *_UNSPECIFIED is None where None is allowed, otherwise an
  InvalidField that names the field;
- an absent message is the dataclass's default where it has one, otherwise an InvalidField;
- message fields that the dataclass lacks are ignored (an older reader of a newer writer).

What a class and a message have in common is looked up once and kept as functions (`_writer`, `_reader`): this is the
cost of every call and every record.
"""

import dataclasses
import datetime
import enum
import functools
import operator
import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

from google.protobuf import message

from trimtab.core import errors

# Descriptors of google.protobuf; its stubs name two classes for each.
_Descriptor: TypeAlias = Any
_Field: TypeAlias = Any
_Oneof: TypeAlias = Any
_EnumType: TypeAlias = Any
_Core = TypeVar("_Core")
_Message = TypeVar("_Message", bound=message.Message)
# Puts a value into its place in a message; takes a field's value out of the whole message.
_Write: TypeAlias = Callable[[message.Message, Any], None]
_Take: TypeAlias = Callable[[message.Message], Any]
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
# In place of a value: the dataclass has a default.
_ABSENT = object()


def to_proto(value: Any, into: type[_Message]) -> _Message:
    """The message of class `into` that says what the dataclass says; InvalidField when a value does not fit."""
    result = into()
    try:
        _writer(value.__class__, into.DESCRIPTOR)(result, value)
    except _Misfit as problem:
        raise problem.error() from None
    return result


def from_proto(source: message.Message, kind: type[_Core]) -> _Core:
    """The dataclass of class `kind` that says what the message says; InvalidField when it cannot."""
    try:
        return cast(_Core, _reader(cast(type, kind), source.DESCRIPTOR)(source))
    except _Misfit as problem:
        raise problem.error() from None


class _Misfit(Exception):
    """A value that cannot be written or read; every level it passes on its way out adds where it was."""

    def __init__(self, error_at: Callable[[str], errors.TrimtabError]) -> None:
        super().__init__()
        self._error_at = error_at
        self._where = ""

    def within(self, place: str) -> "_Misfit":
        """place: a field's name, or "[3]"."""
        inner = self._where
        self._where = f"{place}.{inner}" if inner and not inner.startswith("[") else f"{place}{inner}"
        return self

    def error(self) -> errors.TrimtabError:
        return self._error_at(self._where)


def _invalid(problem: str, remedy: str) -> _Misfit:
    return _Misfit(lambda where: errors.InvalidField(where, problem, remedy))


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """A type hint taken apart: `X | None` -> optional, tuple -> repeated, the rest in `members`."""

    members: tuple[Any, ...]
    optional: bool
    repeated: bool
    mapping: bool


def _shapes(kind: type) -> dict[str, _Shape]:
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind!r} is not a dataclass")
    hints = typing.get_type_hints(kind)
    return {field.name: _shape(hints[field.name]) for field in dataclasses.fields(kind)}


def _shape(hint: Any) -> _Shape:
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _Shape(members=_members(typing.get_args(hint)[0])[0], optional=False, repeated=True, mapping=False)
    if origin is dict:
        return _Shape(members=(typing.get_args(hint)[1],), optional=False, repeated=False, mapping=True)
    members, optional = _members(hint)
    return _Shape(members=members, optional=optional, repeated=False, mapping=False)


def _members(hint: Any) -> tuple[tuple[Any, ...], bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        args = typing.get_args(hint)
        return tuple(arg for arg in args if arg is not types.NoneType), types.NoneType in args
    return (hint,), False


# --- writing ---


@functools.cache
def _writer(kind: type, into: _Descriptor) -> _Write:
    """Fills a message of this descriptor from a dataclass of this class."""
    writes = [(name, _field_writer(into, name, shape)) for name, shape in _shapes(kind).items()]

    def write(target: message.Message, value: Any) -> None:
        for name, put in writes:
            item = getattr(value, name)
            if item is not None:
                try:
                    put(target, item)
                except _Misfit as problem:
                    raise problem.within(name) from None

    return write


def _field_writer(into: _Descriptor, name: str, shape: _Shape) -> _Write:
    oneof = into.oneofs_by_name.get(name)
    if oneof is not None:
        return _oneof_writer(oneof)
    field = into.fields_by_name[name]
    if shape.mapping:
        return _fitting(lambda target, item: getattr(target, name).update(item))
    return _many_writer(field) if shape.repeated else _one_writer(field)


def _one_writer(field: _Field) -> _Write:
    name = field.name
    if field.enum_type is not None:
        numbers = _numbers(field.enum_type)
        return lambda target, item: setattr(target, name, numbers[item.name])
    if field.message_type is None:
        return _fitting(lambda target, item: setattr(target, name, item))
    kind = field.message_type

    def write(target: message.Message, item: Any) -> None:
        part = getattr(target, name)
        if isinstance(item, datetime.datetime):
            since = item - _EPOCH
            part.seconds, part.nanos = since.days * 86_400 + since.seconds, since.microseconds * 1000
        else:
            _writer(item.__class__, kind)(part, item)
        part.SetInParent()

    return write


def _many_writer(field: _Field) -> _Write:
    name, kind = field.name, field.message_type
    if field.enum_type is not None:
        numbers = _numbers(field.enum_type)
        return lambda target, items: getattr(target, name).extend([numbers[item.name] for item in items])
    if kind is None:
        return _fitting(lambda target, items: getattr(target, name).extend(items))

    def write(target: message.Message, items: Any) -> None:
        many = getattr(target, name)
        for position, item in enumerate(items):
            try:
                _writer(item.__class__, kind)(many.add(), item)
            except _Misfit as problem:
                raise problem.within(f"[{position}]") from None

    return write


def _oneof_writer(oneof: _Oneof) -> _Write:
    @functools.cache
    def writer_of(kind: type) -> _Write:
        for field in oneof.fields:
            if _matches(field, kind):
                return _one_writer(field)
        raise TypeError(f"no member of oneof {oneof.name} takes a {kind.__name__}")

    return lambda target, item: writer_of(item.__class__)(target, item)


def _fitting(write: _Write) -> _Write:
    """Lone surrogates and numbers out of range are the caller's mistake, not ours."""

    def fitting(target: message.Message, item: Any) -> None:
        try:
            write(target, item)
        except ValueError as problem:
            raise _invalid(f"cannot be written ({problem})", "give valid Unicode and a number in range") from None

    return fitting


def _matches(field: _Field, kind: type) -> bool:
    if field.message_type is not None:
        return bool(field.message_type.name == kind.__name__)
    wanted = {
        field.CPPTYPE_STRING: bytes if field.type == field.TYPE_BYTES else str,
        field.CPPTYPE_DOUBLE: float,
        field.CPPTYPE_FLOAT: float,
        field.CPPTYPE_BOOL: bool,
    }.get(field.cpp_type, int)
    return kind is wanted


def _numbers(kind: _EnumType) -> dict[str, int]:
    """By the name of the StrEnum's member; `RUN_KIND_SFT` is `SFT`."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"
    return {value.name.removeprefix(prefix): value.number for value in kind.values}


# --- reading ---


@functools.cache
def _reader(kind: type, source: _Descriptor) -> _Take:
    """Makes a dataclass of this class from a message of this descriptor."""
    defaulted = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    takes = [(name, _field_reader(source, name, shape, name in defaulted)) for name, shape in _shapes(kind).items()]

    def read(given: message.Message) -> Any:
        values = {}
        for name, take in takes:
            try:
                found = take(given)
            except _Misfit as problem:
                raise problem.within(name) from None
            if found is not _ABSENT:
                values[name] = found
        return kind(**values)

    return read


def _field_reader(source: _Descriptor, name: str, shape: _Shape, defaulted: bool) -> _Take:
    oneof = source.oneofs_by_name.get(name)
    if oneof is not None:
        return _oneof_reader(oneof, shape)
    field = source.fields_by_name[name]
    plain = field.message_type is None and field.enum_type is None
    if shape.mapping:
        return lambda given: dict(getattr(given, name))
    if shape.repeated:
        return (lambda given: tuple(getattr(given, name))) if plain else _many_reader(field, shape)
    if not field.has_presence:
        return operator.attrgetter(name) if plain else _value_reader(field, shape, operator.attrgetter(name))
    present = _value_reader(field, shape, operator.attrgetter(name))
    default = _ABSENT if defaulted and field.message_type is not None else None

    def take(given: message.Message) -> Any:
        if given.HasField(name):
            return present(given)
        if default is _ABSENT or shape.optional:
            return default
        raise _invalid("is missing", "set it")

    return take


def _many_reader(field: _Field, shape: _Shape) -> _Take:
    name, one = field.name, _value_reader(field, shape, lambda element: element)

    def take(given: message.Message) -> Any:
        found = []
        for position, element in enumerate(getattr(given, name)):
            try:
                found.append(one(element))
            except _Misfit as problem:
                raise problem.within(f"[{position}]") from None
        return tuple(found)

    return take


def _oneof_reader(oneof: _Oneof, shape: _Shape) -> _Take:
    name, takes = oneof.name, {field.name: _member_reader(field, shape) for field in oneof.fields}

    def take(given: message.Message) -> Any:
        chosen = given.WhichOneof(name)
        if chosen is not None:
            return takes[chosen](given)
        if shape.optional:
            return None
        raise _invalid("is missing", f"set one of {', '.join(takes)}")

    return take


def _member_reader(field: _Field, shape: _Shape) -> _Take:
    get = operator.attrgetter(field.name)
    if field.message_type is None:
        return get
    for member in shape.members:
        if member.__name__ == field.message_type.name:
            return _message_reader(member, field.message_type, get)
    return _unknown(field)


def _unknown(field: _Field) -> _Take:
    def take(given: message.Message) -> Any:
        raise _Misfit(
            lambda where: errors.MalformedRecord(
                f"`{where}` holds a {field.message_type.name}, which this version does not know."
            )
        )

    return take


def _value_reader(field: _Field, shape: _Shape, get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """get: the value, of what the reader made here is given."""
    kind = shape.members[0]
    if kind is datetime.datetime:
        return lambda given: _moment(get(given))
    if field.enum_type is not None:
        return _enum_reader(field.enum_type, kind, shape.optional, get)
    if field.message_type is not None:
        return _message_reader(kind, field.message_type, get)
    return get


def _message_reader(kind: type, source: _Descriptor, get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    # looked up when it is first needed: messages may hold messages of their own kind
    return lambda given: _reader(kind, source)(get(given))


def _enum_reader(
    enum_type: _EnumType, kind: type[enum.Enum], optional: bool, get: Callable[[Any], int]
) -> Callable[[Any], enum.Enum | None]:
    members: dict[int, enum.Enum | None] = {
        number: kind[name] for name, number in _numbers(enum_type).items() if name in kind.__members__
    }
    if optional:
        members[0] = None

    def take(given: Any) -> enum.Enum | None:
        number = get(given)
        try:
            return members[number]
        except KeyError:
            choices = ", ".join(member.name for member in kind)
            raise _invalid(f"has no usable value ({number})", f"set one of {choices}") from None

    return take


def _moment(value: Any) -> datetime.datetime:
    try:
        if 0 <= value.nanos < 1_000_000_000:
            return _EPOCH + datetime.timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    except OverflowError:
        pass
    raise _invalid("is no moment between the years 1 and 9999", "set seconds since 1970")
