"""OTLP trace messages as bytes, written directly: building protobuf objects first takes longer.

Only what spans of this project need. Tests read everything back with the official messages.
Source: https://github.com/open-telemetry/opentelemetry-proto (trace.proto, common.proto), the protobuf wire format.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from nexrl.errors import PayloadError

_VARINT, _FIXED64, _BYTES = 0, 1, 2
_ATTRIBUTE = 9
"""The field of a span."""
_TEXT, _PACKED = 1, 7
"""The fields of a value that hold text and bytes."""
_double = struct.Struct("<d").pack
_fixed64 = struct.Struct("<Q").pack
CLIENT = 3
"""Span kind of a call to a remote service."""


def span(
    *,
    trace_id: bytes,
    span_id: bytes,
    parent_span_id: bytes,
    name: str,
    start_ns: int,
    end_ns: int,
    attributes: bytes,
) -> bytes:
    """Return a `Span` of kind client; `attributes` are what `span_attributes` returned, one behind the other."""
    parts = [
        field(1, trace_id),
        field(2, span_id),
        field(4, parent_span_id) if parent_span_id else b"",
        field(5, name.encode()),
        _KIND,
        _START + _fixed64(start_ns),
        _END + _fixed64(end_ns),
        attributes,
    ]
    return b"".join(parts)


def span_attributes(values: Mapping[str, Any]) -> bytes:
    """Return attributes as a `Span` holds them; raises PayloadError for one of a type that OTLP has no place for."""
    parts: list[bytes] = []
    for key, value in values.items():
        if type(value) is str:
            data = value.encode()
            parts += (_opening(key, _TEXT, len(data)), data)
        elif type(value) is bytes:
            parts += (_opening(key, _PACKED, len(value)), value)
        else:
            parts.append(field(_ATTRIBUTE, key_value(key, value)))
    return b"".join(parts)


@lru_cache(maxsize=8192)
def _opening(key: str, kind: int, size: int) -> bytes:
    """Return what stands in an attribute before so many bytes of a kind: most attributes are text or packed."""
    value = _TAGS[kind] + varint(size)
    pair = _key(key) + varint(len(value) + size) + value
    return _TAGS[_ATTRIBUTE] + varint(len(pair) + size) + pair


def request(spans: Iterable[bytes], *, service: str, scope: str) -> bytes:
    """Return an `ExportTraceServiceRequest` with these spans, of one resource and one scope."""
    resource = field(1, key_value("service.name", service))
    scoped = field(1, field(1, scope.encode())) + b"".join([field(2, body) for body in spans])
    return field(1, field(1, resource) + field(2, scoped))


def key_value(key: str, value: Any) -> bytes:
    """Return a `KeyValue`."""
    data = any_value(value)
    return _key(key) + varint(len(data)) + data


def any_value(value: Any) -> bytes:
    """Return an `AnyValue`."""
    write = _WRITERS.get(type(value))
    if write is None:
        raise PayloadError(f"{type(value).__name__} is no attribute value")
    return write(value)


def field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field; numbers up to 15."""
    return _TAGS[number] + varint(len(data)) + data


@lru_cache(maxsize=256)
def _key(key: str) -> bytes:
    """Return a key, and the tag of the value behind it."""
    return field(1, key.encode()) + _TAGS[2]


@lru_cache(maxsize=4096)
def varint(value: int) -> bytes:
    """Return a number, seven bits a byte, the lowest first."""
    parts = bytearray()
    while value >= SEVEN_BITS:
        parts.append(value & 0x7F | SEVEN_BITS)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _text(value: str) -> bytes:
    return field(_TEXT, value.encode())


def _packed(value: bytes) -> bytes:
    return field(_PACKED, value)


def _boolean(value: bool) -> bytes:
    return b"\x10\x01" if value else b"\x10\x00"


def _integer(value: int) -> bytes:
    return b"\x18" + varint(value & (2**64 - 1))


def _float(value: float) -> bytes:
    return b"\x21" + _double(value)


def _array(value: list[Any]) -> bytes:
    return field(5, b"".join([field(1, any_value(item)) for item in value]))


SEVEN_BITS = 0x80
_TAGS = [bytes((number << 3 | _BYTES,)) for number in range(16)]
_KIND = bytes((6 << 3 | _VARINT, CLIENT))
_START, _END = bytes((7 << 3 | _FIXED64,)), bytes((8 << 3 | _FIXED64,))
_WRITERS: dict[type, Callable[[Any], bytes]] = {
    str: _text,
    bytes: _packed,
    bool: _boolean,
    int: _integer,
    float: _float,
    list: _array,
}
