"""Trace requests read without making an object of each attribute: that would take most of the time that reading takes.

The schema is OpenTelemetry's own, except that attributes of spans stay bytes. What official serialisers write is known
by how it begins and how long it is; whatever is written in another way is odd here, and official messages read it.
Of requests that official messages have parsed: whether texts are UTF-8, and all the rest, was looked at there.
"""

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from nexrl.spans import python_value
from nexrl.wire import varint

SMALL_BYTES = 128
"""Of an attribute that is remembered."""
MOST_REMEMBERED = 8192
_KEY, _VALUE, _TEXT, _PACKED = 0x0A, b"\x12", b"\x0a", b"\x3a"
"""Tags: of the fields of a `KeyValue`, and of an `AnyValue` that holds text or bytes."""
_HEAD = 2
"""Bytes before a name: its tag and its length."""
_LONGEST_NAME = 0x7F
"""Its length is one byte then."""
_PACKAGE = "nexrl.skimmed"
Attributes = dict[bytes, Any]
"""By name: names and texts as `bytes` in UTF-8, packed bytes as a `memoryview`, anything else as a Python value."""


class OddError(Exception):
    """Written in an unusual way."""


def traces(data: bytes) -> Any:
    """Return the `TracesData` that a request is on the wire, with attributes of spans as bytes."""
    return _TracesData.FromString(data)


def attributes(pairs: Iterable[bytes]) -> Attributes:
    """Return what serialised `KeyValue`s hold, each of another name; raises OddError."""
    count = 0
    found: Attributes = {}
    for pair in pairs:
        count += 1
        name, value = _small[pair] if len(pair) <= SMALL_BYTES else _split(pair)
        found[name] = value
    if len(found) != count:
        raise OddError
    return found


class _Small(dict[bytes, tuple[bytes, Any]]):
    """Small attributes that were read before: most of a span's are as in the spans before it."""

    def __missing__(self, pair: bytes) -> tuple[bytes, Any]:
        if len(self) >= MOST_REMEMBERED:
            self.clear()
        read = self[pair] = _split(pair)
        return read


class _Openings(dict[int, tuple[bytes, bytes]]):
    """What the value of a `KeyValue` begins with where it has so many bytes: if it is text, and if it is packed."""

    def __missing__(self, size: int) -> tuple[bytes, bytes]:
        if len(self) >= MOST_REMEMBERED:
            self.clear()
        whole, held = _delimited(size - len(_VALUE))
        length, _ = _delimited(held - len(_TEXT))
        made = self[size] = (_VALUE + whole + _TEXT + length, _VALUE + whole + _PACKED + length)
        return made


_small, _openings = _Small(), _Openings()


def _split(pair: bytes) -> tuple[bytes, Any]:
    """Return the name and the value of an attribute."""
    if len(pair) <= _HEAD or pair[0] != _KEY or pair[1] > _LONGEST_NAME:
        raise OddError
    end = _HEAD + pair[1]
    name = pair[_HEAD:end]
    text, packed = _openings[len(pair) - end]
    start = end + len(text)
    opening = pair[end:start]
    if opening == text:
        return name, pair[start:]
    if opening == packed:
        return name, memoryview(pair)[start:]
    return name, _other(name, pair)


def _delimited(size: int) -> tuple[bytes, int]:
    """Split so many bytes into a length and as many as it says; return the length, as it is written and as a number."""
    for width in range(1, 6):
        held = size - width
        if held >= 0 and len(written := varint(held)) == width:
            return written, held
    raise OddError


def _other(name: bytes, pair: bytes) -> Any:
    """Return the value of an attribute that is neither text nor packed."""
    read = KeyValue.FromString(pair)
    if read.key.encode() != name or read.value.WhichOneof("value") in {None, "string_value", "bytes_value"}:
        raise OddError
    return python_value(read.value)


def _schema() -> FileDescriptorProto:
    """Return OpenTelemetry's schema of traces under another name, with attributes of spans as bytes."""
    schema = FileDescriptorProto()
    trace_pb2.DESCRIPTOR.CopyToProto(schema)
    official = f".{schema.package}."
    schema.name, schema.package = f"{_PACKAGE}.proto", _PACKAGE
    for message in schema.message_type:
        for field in (*message.field, *(field for inner in message.nested_type for field in inner.field)):
            if field.type_name.startswith(official):
                field.type_name = field.type_name.replace(official, f".{_PACKAGE}.")
    [span] = [message for message in schema.message_type if message.name == "Span"]
    [field] = [field for field in span.field if field.name == "attributes"]
    field.type = FieldDescriptorProto.TYPE_BYTES
    field.ClearField("type_name")
    return schema


def _message() -> Any:
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(_schema().SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.TracesData"))


_TracesData = _message()
