"""The protocol as other versions speak it: the released one, and one that comes later and knows more."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_RELEASED = pathlib.Path(__file__).parents[2] / "protos" / "released.binpb"
_OURS = "trimtabapi/"
NEWER, NEWER_VALUE, NEWER_MEMBER = "from_the_future", 9999, "future"
_TEXT, _ONE = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL


class Protocol:
    """Message classes by full name, as somebody has them who generated code from these files."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def message(self, name: str) -> Any:
        """The class of a message, e.g. of "trimtabapi.feedback.v1.Thumb"."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))


@functools.cache
def released() -> Protocol:
    """What the last release speaks."""
    return Protocol(_pool(_files()))


@functools.cache
def newer() -> Protocol:
    """The released one, where every message has another field, every oneof another member, every enum another value."""
    files = _files()
    for file in files.file:
        if file.name.startswith(_OURS):
            for kind in file.message_type:
                _grow(kind)
            for enum in file.enum_type:
                enum.value.add(name=f"{enum.value[0].name}_{NEWER.upper()}", number=NEWER_VALUE)
    return Protocol(_pool(files))


def say_more(of_newer: Any) -> int:
    """Sets what only the newer version knows, in the message and in every one within it; how many that were."""
    setattr(of_newer, NEWER, "news")
    inner = [one for one in messages(of_newer) if one.DESCRIPTOR.file.name.startswith(_OURS)]
    return 1 + sum(map(say_more, inner))


def messages(of: Any) -> Iterator[Any]:
    """The messages that stand in the fields of a message."""
    for field, value in of.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            yield from value if field.is_repeated else (value,)


def _files() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(_RELEASED.read_bytes())


def _pool(files: descriptor_pb2.FileDescriptorSet) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _grow(kind: descriptor_pb2.DescriptorProto) -> None:
    if kind.options.map_entry:
        return
    for inner in kind.nested_type:
        _grow(inner)
    kind.field.add(name=NEWER, number=NEWER_VALUE, type=_TEXT, label=_ONE, json_name=NEWER)
    synthetic = {field.oneof_index for field in kind.field if field.proto3_optional}
    for index, oneof in enumerate(kind.oneof_decl):
        if index not in synthetic:
            name = f"{NEWER_MEMBER}_{oneof.name}"
            kind.field.add(name=name, number=9000 + index, type=_TEXT, label=_ONE, json_name=name, oneof_index=index)
