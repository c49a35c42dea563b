"""One codec between core dataclasses and protobuf messages that share their field names.

Called by `wire.schemas` (records on topics) and by the servicers. The rules:
- a dataclass field meets the message field of the same name, or the oneof of the same name, whose member is chosen
  by message name (class `Thumb` <-> message `Thumb`) or, for scalars, by Python type;
- `X | None` is an absent message or `optional` scalar; tuple is repeated; dict is map; datetime (UTC) is Timestamp;
- a StrEnum `RunKind.SFT` is the enum value `RUN_KIND_SFT`; *_UNSPECIFIED is None where None is allowed, otherwise an
  InvalidField that names the field;
- an absent message is the dataclass's default where it has one, otherwise an InvalidField;
- message fields that the dataclass lacks are ignored (an older reader of a newer writer).
"""

import dataclasses
import datetime
import enum
import functools
import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

from google.protobuf import message

from trimtab.core import errors

# Descriptors of google.protobuf; its stubs name two classes for each.
_Field: TypeAlias = Any
_Oneof: TypeAlias = Any
_EnumType: TypeAlias = Any
_Core = TypeVar("_Core")
_Message = TypeVar("_Message", bound=message.Message)


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """A type hint taken apart: `X | None` -> optional, tuple -> repeated, the rest in `members`."""

    members: tuple[Any, ...]
    optional: bool
    repeated: bool
    mapping: bool


@functools.cache
def _shapes(kind: type) -> dict[str, _Shape]:
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


def to_proto(value: Any, into: type[_Message]) -> _Message:
    """The message of class `into` that says what the dataclass says; InvalidField when a value does not fit."""
    result = into()
    _fill(value, result, "")
    return result


def from_proto(source: message.Message, kind: type[_Core]) -> _Core:
    """The dataclass of class `kind` that says what the message says; InvalidField when it cannot."""
    return cast(_Core, _read(source, kind, ""))


def _fill(value: Any, into: message.Message, where: str) -> None:
    for name, shape in _shapes(value.__class__).items():
        item = getattr(value, name)
        path = f"{where}.{name}" if where else name
        oneof = into.DESCRIPTOR.oneofs_by_name.get(name)
        if item is None:
            continue
        if oneof is not None:
            _set(into, _oneof_member(oneof, item), item, path)
            continue
        field = into.DESCRIPTOR.fields_by_name[name]
        if shape.mapping or shape.repeated:
            _fill_many(getattr(into, name), field, item, path)
        else:
            _set(into, field, item, path)


def _fill_many(target: Any, field: _Field, items: Any, where: str) -> None:
    if isinstance(items, dict):
        _fitting(lambda: target.update(items), where)
    elif field.enum_type is not None:
        target.extend(_scalar(field, element) for element in items)
    elif field.message_type is None:
        _fitting(lambda: target.extend(items), where)
    else:
        for position, element in enumerate(items):
            _fill(element, target.add(), f"{where}[{position}]")


def _set(into: message.Message, field: _Field, item: Any, where: str) -> None:
    if field.message_type is None:
        _fitting(lambda: setattr(into, field.name, _scalar(field, item)), where)
    elif isinstance(item, datetime.datetime):
        _fitting(lambda: getattr(into, field.name).FromDatetime(item), where)
    else:
        target = getattr(into, field.name)
        target.SetInParent()
        _fill(item, target, where)


def _fitting(write: Callable[[], None], where: str) -> None:
    """Lone surrogates and numbers out of range are the caller's mistake, not ours."""
    try:
        write()
    except ValueError as problem:
        raise errors.InvalidField(
            where, f"cannot be written ({problem})", "give valid Unicode and a number in range"
        ) from None


def _scalar(field: _Field, item: Any) -> Any:
    if isinstance(item, enum.Enum):
        return field.enum_type.values_by_name[_enum_prefix(field.enum_type) + item.name].number
    return item


def _enum_prefix(kind: _EnumType) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"


def _oneof_member(oneof: _Oneof, item: Any) -> _Field:
    for field in oneof.fields:
        if _matches(field, type(item)):
            return field
    raise TypeError(f"no member of oneof {oneof.name} takes a {type(item).__name__}")


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


def _read(source: message.Message, kind: type, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        values = {}
        for name, shape in _shapes(kind).items():
            if name in _defaulted(kind) and _is_absent_message(source, name):
                continue
            values[name] = _read_field(source, name, shape, f"{where}.{name}" if where else name)
        return kind(**values)
    raise TypeError(f"{kind!r} is not a dataclass")


@functools.cache
def _defaulted(kind: type) -> frozenset[str]:
    return frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )


def _is_absent_message(source: message.Message, name: str) -> bool:
    field = source.DESCRIPTOR.fields_by_name.get(name)
    return field is not None and field.message_type is not None and field.has_presence and not source.HasField(name)


def _read_field(source: message.Message, name: str, shape: _Shape, where: str) -> Any:
    oneof = source.DESCRIPTOR.oneofs_by_name.get(name)
    if oneof is not None:
        return _read_oneof(source, oneof, shape, where)
    field = source.DESCRIPTOR.fields_by_name[name]
    value = getattr(source, name)
    if shape.mapping:
        return dict(value)
    if shape.repeated and field.message_type is None and field.enum_type is None:
        return tuple(value)
    if shape.repeated:
        return tuple(
            _read_value(field, element, shape, f"{where}[{position}]") for position, element in enumerate(value)
        )
    if field.has_presence and not source.HasField(name):
        if shape.optional:
            return None
        raise errors.InvalidField(where, "is missing", "set it")
    return _read_value(field, value, shape, where)


def _read_oneof(source: message.Message, oneof: _Oneof, shape: _Shape, where: str) -> Any:
    chosen = source.WhichOneof(oneof.name)
    if chosen is None:
        if shape.optional:
            return None
        raise errors.InvalidField(where, "is missing", f"set one of {', '.join(f.name for f in oneof.fields)}")
    field = source.DESCRIPTOR.fields_by_name[chosen]
    value = getattr(source, chosen)
    if field.message_type is None:
        return value
    for member in shape.members:
        if member.__name__ == field.message_type.name:
            return _read(value, member, where)
    raise errors.MalformedRecord(f"`{where}` holds a {field.message_type.name}, which this version does not know.")


def _read_value(field: _Field, value: Any, shape: _Shape, where: str) -> Any:
    kind = shape.members[0]
    if kind is datetime.datetime:
        return _read_time(value, where)
    if field.enum_type is not None:
        return _read_enum(field.enum_type, value, kind, shape.optional, where)
    if field.message_type is not None:
        return _read(value, kind, where)
    return value


def _read_time(value: Any, where: str) -> datetime.datetime:
    try:
        return cast(datetime.datetime, value.ToDatetime(tzinfo=datetime.UTC))
    except (ValueError, OverflowError):
        raise errors.InvalidField(
            where, "is no moment between the years 1 and 9999", "set seconds since 1970"
        ) from None


def _read_enum(
    enum_type: _EnumType, number: int, kind: type[enum.Enum], optional: bool, where: str
) -> enum.Enum | None:
    if number == 0 and optional:
        return None
    known = enum_type.values_by_number.get(number)
    name = known.name.removeprefix(_enum_prefix(enum_type)) if known else ""
    if name not in kind.__members__:
        choices = ", ".join(member.name for member in kind)
        raise errors.InvalidField(where, f"has no usable value ({number})", f"set one of {choices}")
    return kind[name]
