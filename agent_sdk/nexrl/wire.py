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
    attributes: Mapping[str, Any],
) -> bytes:
    """Return a `Span` of kind client; raises PayloadError for an attribute of a type that OTLP has no place for."""
    parts = [
        field(1, trace_id),
        field(2, span_id),
        field(4, parent_span_id) if parent_span_id else b"",
        field(5, name.encode()),
        _tag(6, _VARINT) + _varint(CLIENT),
        _tag(7, _FIXED64) + _fixed64(start_ns),
        _tag(8, _FIXED64) + _fixed64(end_ns),
    ]
    attribute = _tag(9, _BYTES)
    for key, value in attributes.items():
        pair = key_value(key, value)
        parts += (attribute, _varint(len(pair)), pair)
    return b"".join(parts)


def request(spans: Iterable[bytes], *, service: str, scope: str) -> bytes:
    """Return an `ExportTraceServiceRequest` with these spans, of one resource and one scope."""
    resource = field(1, key_value("service.name", service))
    scoped = field(1, field(1, scope.encode())) + b"".join([field(2, body) for body in spans])
    return field(1, field(1, resource) + field(2, scoped))


def key_value(key: str, value: Any) -> bytes:
    """Return a `KeyValue`."""
    data = any_value(value)
    return b"%b%b%b" % (_key(key), _varint(len(data)), data)


def any_value(value: Any) -> bytes:
    """Return an `AnyValue`."""
    write = _WRITERS.get(type(value))
    if write is None:
        raise PayloadError(f"{type(value).__name__} is no attribute value")
    return write(value)


def field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field; numbers up to 15."""
    return b"%b%b%b" % (_tag(number, _BYTES), _varint(len(data)), data)


@lru_cache(maxsize=256)
def _key(key: str) -> bytes:
    """Return a key, and the tag of the value behind it."""
    return field(1, key.encode()) + _tag(2, _BYTES)


def _tag(number: int, kind: int) -> bytes:
    return _SMALL[number << 3 | kind]


def _varint(value: int) -> bytes:
    if value < 0x80:  # noqa: PLR2004 - seven bits
        return _SMALL[value]
    parts = bytearray()
    while value >= 0x80:  # noqa: PLR2004
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_SMALL = [bytes((value,)) for value in range(0x80)]
_WRITERS: dict[type, Callable[[Any], bytes]] = {
    str: lambda value: field(1, value.encode()),
    bytes: lambda value: field(7, value),
    bool: lambda value: _tag(2, _VARINT) + _varint(value),
    int: lambda value: _tag(3, _VARINT) + _varint(value & (2**64 - 1)),
    float: lambda value: _tag(4, _FIXED64) + _double(value),
    list: lambda value: field(5, b"".join([field(1, any_value(item)) for item in value])),
}
