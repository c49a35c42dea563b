"""One codec between core dataclasses and protobuf messages that share their field names.

Called by `wire.schemas` (records on topics) and by the servicers. The rules:
- a dataclass field meets the message field of the same name, or the oneof of the same name, whose member is chosen
  by message name (class `Thumb` <-> message `Thumb`) or, for scalars, by Python type;
- `X | None` is an absent message or `optional` scalar; tuple is repeated; dict is map; datetime (UTC) is Timestamp;
- a StrEnum `RunKind.SFT` is the enum value `RUN_KIND_SFT`; *_UNSPECIFIED is None where None is allowed, otherwise an
  InvalidField that names the field;
- an absent message is the dataclass's default where it has one, otherwise an InvalidField;
- message fields that the dataclass lacks are ignored (an older reader of a newer writer).

What a class and a message have in common is looked up once and kept as functions (`_writer`, `_reader`), whose source
is written out (`_Function`): this is the cost of every call and every record.
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
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

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


# --- functions made from source ---


class _Function:
    """One function on its way: lines that name Python objects, and what they name.

    A message is read and written field by field, a few hundred bytes at a time, for every call and every record. A loop
    over fields with a closure each takes twice as long as the same statements in a row: so they are written out, as
    `dataclasses` writes out `__init__`.
    """

    def __init__(self, head: str) -> None:
        self._lines = [f"def made({head}):", "    at = ''", "    try:"]
        self._names: dict[str, Any] = {"_Misfit": _Misfit, "_unfit": _unfit}

    def line(self, text: str) -> None:
        self._lines.append(f"        {text}")

    def at(self, field: str) -> None:
        """What follows is about this field: a misfit says so."""
        self.line(f"at = {field!r}")

    def named(self, value: Any) -> str:
        """A name for an object."""
        name = f"x{len(self._names)}"
        self._names[name] = value
        return name

    def later(self, make: Callable[[], Callable[..., Any]]) -> str:
        """A name for a function that is made when it is first called: messages may hold messages of their own kind."""

        def first(*given: Any) -> Any:
            self._names[name] = made = make()
            return made(*given)

        name = self.named(first)
        return name

    def made(self) -> Callable[..., Any]:
        self._lines += ["    except _Misfit as problem:", "        raise problem.within(at) from None"]
        self._lines += ["    except ValueError as problem:", "        raise _unfit(problem).within(at) from None"]
        exec("\n".join(self._lines), self._names)  # names of fields of our own classes, and nothing else
        return cast(Callable[..., Any], self._names["made"])


def _unfit(problem: ValueError) -> _Misfit:
    """Lone surrogates and numbers out of range are the caller's mistake, not ours."""
    return _invalid(f"cannot be written ({problem})", "give valid Unicode and a number in range")


# --- writing ---


@functools.cache
def _writer(kind: type, into: _Descriptor) -> _Write:
    """Fills a message of this descriptor from a dataclass of this class."""
    function = _Function("target, value")
    for name, shape in _shapes(kind).items():
        function.at(name)
        function.line(f"item = value.{name}")
        oneof, field = into.oneofs_by_name.get(name), into.fields_by_name.get(name)
        if oneof is not None:
            put = f"if item is not None: {function.named(_Members(oneof))}[item.__class__](target, item)"
        elif shape.mapping:
            put = f"if item: target.{name}.update(item)"
        elif shape.repeated:
            put = f"if item: {_many_written(function, field, shape)}"
        elif field.message_type is not None or field.enum_type is not None or field.has_presence:
            put = f"if item is not None: {_one_written(function, field, shape)}"
        else:
            # a zero is what is there already, but for -0.0
            given = "item is not None" if shape.members[0] is float else "item"
            put = f"if {given}: target.{name} = item"
        function.line(put)
    return function.made()


def _one_written(function: _Function, field: _Field, shape: _Shape) -> str:
    name, kind = field.name, shape.members[0]
    if field.enum_type is not None:
        return f"target.{name} = {function.named(_numbers(field.enum_type))}[item._name_]"
    if field.message_type is None:
        return f"target.{name} = item"
    write = function.later(functools.partial(_message_writer, kind, field.message_type))
    return f"{write}(target.{name}, item)"


def _many_written(function: _Function, field: _Field, shape: _Shape) -> str:
    name = field.name
    if field.enum_type is not None:
        return f"target.{name}.extend([{function.named(_numbers(field.enum_type))}[one._name_] for one in item])"
    if field.message_type is None:
        return f"target.{name}.extend(item)"
    write = function.later(functools.partial(_many_writer, shape.members[0], field.message_type))
    return f"{write}(target.{name}, item)"


def _message_writer(kind: type, into: _Descriptor) -> _Write:
    """Of one that is there from then on, also when nothing in it is set."""
    if kind is datetime.datetime:
        return _write_moment
    write = _writer(kind, into)

    def put(part: message.Message, item: Any) -> None:
        write(part, item)
        part.SetInParent()

    return put


def _write_moment(part: Any, item: datetime.datetime) -> None:
    since = item - _EPOCH
    part.seconds, part.nanos = since.days * 86_400 + since.seconds, since.microseconds * 1000
    part.SetInParent()


def _many_writer(kind: type, into: _Descriptor) -> Callable[[Any, Any], None]:
    write = _writer(kind, into)

    def put(many: Any, items: Any) -> None:
        for position, item in enumerate(items):
            try:
                write(many.add(), item)
            except _Misfit as problem:
                raise problem.within(f"[{position}]") from None

    return put


class _Members(dict[type, _Write]):
    """What puts a value of a class into a oneof."""

    def __init__(self, oneof: _Oneof) -> None:
        super().__init__()
        self._oneof = oneof

    def __missing__(self, kind: type) -> _Write:
        field = next((field for field in self._oneof.fields if _matches(field, kind)), None)
        if field is None:
            raise TypeError(f"no member of oneof {self._oneof.name} takes a {kind.__name__}")
        self[kind] = write = _member_writer(field, kind)
        return write


def _member_writer(field: _Field, kind: type) -> _Write:
    name = field.name
    if field.message_type is None:
        return lambda target, item: setattr(target, name, item)
    write = _message_writer(kind, field.message_type)
    return lambda target, item: write(getattr(target, name), item)


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
    function, shapes = _Function("given"), _shapes(kind)
    values = []
    for field in dataclasses.fields(kind):
        value = _read(function, source, shapes[field.name], field)
        values.append(f"{field.name}={value}" if field.kw_only else value)
    function.line(f"return {function.named(kind)}({', '.join(values)})")
    return function.made()


def _read(function: _Function, source: _Descriptor, shape: _Shape, into: "dataclasses.Field[Any]") -> str:
    """An expression for the value, after the lines it needs."""
    name = into.name
    oneof, field = source.oneofs_by_name.get(name), source.fields_by_name.get(name)
    if oneof is not None:
        value = f"{function.named(_oneof_reader(oneof, shape))}(given)"
    elif shape.mapping:
        return f"dict(given.{name})"
    elif shape.repeated:
        if field.message_type is None and field.enum_type is None:
            return f"tuple(given.{name})"
        value = f"{function.later(functools.partial(_many_reader, field, shape))}(given.{name})"
    elif field.message_type is None and field.enum_type is None and not field.has_presence:
        return f"given.{name}"
    else:
        value = f"given.{name}"
        if field.message_type is not None or field.enum_type is not None:
            value = f"{function.later(functools.partial(_value_reader, field, shape))}({value})"
        if field.has_presence:
            value = f"{value} if given.HasField({name!r}) else {_absent(function, field, shape, into)}"
    function.at(name)
    function.line(f"the_{name} = {value}")
    return f"the_{name}"


def _absent(function: _Function, field: _Field, shape: _Shape, into: "dataclasses.Field[Any]") -> str:
    """What a field is that the message lacks."""
    if field.message_type is not None and into.default is not dataclasses.MISSING:
        return function.named(into.default)
    if field.message_type is not None and into.default_factory is not dataclasses.MISSING:
        return f"{function.named(into.default_factory)}()"
    return "None" if shape.optional else f"{function.named(_missing)}()"


def _missing() -> NoReturn:
    raise _invalid("is missing", "set it")


def _value_reader(field: _Field, shape: _Shape) -> Callable[[Any], Any]:
    kind = shape.members[0]
    if kind is datetime.datetime:
        return _moment
    if field.enum_type is not None:
        return _Choices(field.enum_type, kind, shape.optional).__getitem__
    return _reader(kind, field.message_type)


def _many_reader(field: _Field, shape: _Shape) -> _Take:
    one = _value_reader(field, shape)

    def take(elements: Any) -> Any:
        found = []
        for position, element in enumerate(elements):
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
            # looked up when it is needed: messages may hold messages of their own kind
            return lambda given: _reader(member, field.message_type)(get(given))
    return _unknown(field)


def _unknown(field: _Field) -> _Take:
    def take(given: message.Message) -> Any:
        raise _Misfit(
            lambda where: errors.MalformedRecord(
                f"`{where}` holds a {field.message_type.name}, which this version does not know."
            )
        )

    return take


class _Choices(dict[int, enum.Enum | None]):
    """An enum's members by their numbers."""

    def __init__(self, enum_type: _EnumType, kind: type[enum.Enum], optional: bool) -> None:
        super().__init__(
            {number: kind[name] for name, number in _numbers(enum_type).items() if name in kind.__members__}
        )
        self._kind = kind
        if optional:
            self[0] = None

    def __missing__(self, number: int) -> NoReturn:
        choices = ", ".join(member.name for member in self._kind)
        raise _invalid(f"has no usable value ({number})", f"set one of {choices}")


def _moment(value: Any) -> datetime.datetime:
    try:
        if 0 <= value.nanos < 1_000_000_000:
            return _EPOCH + datetime.timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    except OverflowError:
        pass
    raise _invalid("is no moment between the years 1 and 9999", "set seconds since 1970")
