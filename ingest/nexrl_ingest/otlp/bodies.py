"""OTLP messages as HTTP bodies, in protobuf and in OTLP's own JSON; a reply is in the request's encoding."""

import base64
import binascii
from typing import Any, NamedTuple, TypeVar

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from nexrl import wire
from nexrl_ingest.refusals import RefusedError, UnsupportedError

MessageT = TypeVar("MessageT", bound=Message)
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
_HEX_FIELDS = frozenset({"traceId", "spanId", "parentSpanId"})
_SHOWN_ERRORS = 5
_LONGEST_ERROR = 500
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 413: 3, 415: 3, 429: 8, 503: 14}
_CODE_UNKNOWN = 2
_UNREADABLE = (DecodeError, json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError)


class Body(NamedTuple):
    """A request's body."""

    plain: bytes
    content_type: str
    packed: bytes | None = None
    """As one zstd frame, where it came as one that can be stored."""


def parse(data: bytes, content_type: str, kind: type[MessageT]) -> MessageT:
    """Decode a request; raises RefusedError where it is malformed, UnsupportedError where it is neither wire format."""
    try:
        if content_type == PROTOBUF:
            return kind.FromString(data)
        if content_type == JSON:
            message = msgspec.json.decode(data, type=dict[str, Any])
            _to_base64_ids(message)
            return json_format.ParseDict(message, kind(), ignore_unknown_fields=True)
    except _UNREADABLE as error:
        raise RefusedError(f"the body is no {kind.__name__}: {printable(str(error))}") from error
    raise UnsupportedError(f"Content-Type {content_type[:80]!r}: use {PROTOBUF} or {JSON}")


def written(message: Message, content_type: str) -> bytes:
    """Return a reply's body."""
    if content_type == JSON:
        return json_format.MessageToJson(message, indent=None).encode()
    return message.SerializeToString()


def status(content_type: str, http_status: int, message: str) -> bytes:
    """Return a `google.rpc.Status`: field 1 the code, field 2 the message."""
    code = _CODES.get(http_status, _CODE_UNKNOWN)
    text = printable(message)
    if content_type == JSON:
        return msgspec.json.encode({"code": code, "message": text})
    return bytes((0x08, code)) + wire.field(2, text.encode())


def reply_type(content_type: str) -> str:
    """Return the Content-Type of the reply to a request of this one."""
    return JSON if content_type == JSON else PROTOBUF


def summary(errors: list[str]) -> str:
    """Return the first few of the reasons why something was rejected, each of them once."""
    different = list(dict.fromkeys(errors))
    shown = "; ".join(different[:_SHOWN_ERRORS])
    return f"{shown}; ..." if len(different) > _SHOWN_ERRORS else shown


def printable(text: str) -> str:
    """Return text that any reply and log can hold: not too long, and no half of a surrogate pair."""
    return text[:_LONGEST_ERROR].encode(errors="replace").decode()


def _to_base64_ids(message: Any) -> None:
    """Rewrite ids in place: OTLP/JSON has them in hexadecimal, protobuf's JSON mapping in base64.

    Attributes and the bodies of log records hold most of a message, and no ids, so they are not looked through.
    """
    if isinstance(message, list):
        for item in message:
            _to_base64_ids(item)
    elif isinstance(message, dict):
        for name, value in message.items():
            if name in _HEX_FIELDS and isinstance(value, str):
                message[name] = _base64_of(name, value)
            elif name not in {"attributes", "body"}:
                _to_base64_ids(value)


def _base64_of(name: str, value: str) -> str:
    try:
        return base64.b64encode(binascii.unhexlify(value)).decode()
    except ValueError as error:
        raise ValueError(f"{name} {value[:80]!r} is not hexadecimal") from error


def varint(value: int) -> bytes:
    """Return protobuf's base-128 integer."""
    coded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*coded, value])
