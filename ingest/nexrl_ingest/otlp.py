"""OTLP/HTTP bodies: bytes in, rows for the log and a reply out.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp. Pure; storing is `span_log.py`'s part.
"""

import base64
import zlib
from typing import Any, NamedTuple

import msgspec
import zstandard
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl import attributes as at
from nexrl.errors import PayloadError
from nexrl.records import Call, decode, encode
from nexrl.spans import call_of, python_value
from nexrl_ingest.refusals import ForbiddenError, RefusedError, TooLargeError, UnsupportedError
from nexrl_ingest.span_log import SpanRow

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
SESSION_NAMES = (at.CONVERSATION, "session.id")
"""What other instrumentations call a session, in the order asked."""
TRACE_ID_BYTES, SPAN_ID_BYTES = 16, 8
_HEX_FIELDS = ("traceId", "spanId", "parentSpanId")
_SHOWN_ERRORS = 5
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 413: 3, 415: 3, 503: 14}
_CODE_UNKNOWN = 2
_ZSTD_STEP = 1024
"""Compressed bytes taken at once: they hold 256 blocks of 128 KiB at most."""


class Batch(NamedTuple):
    """What a request's spans came to."""

    rows: list[SpanRow]
    errors: list[str]
    """One per rejected span."""


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding; raises TooLargeError before more than `limit` bytes are held."""
    try:
        match encoding.strip().lower():
            case "" | "identity":
                plain = data
            case "gzip":
                plain = _gunzip(data, limit + 1)
            case "zstd":
                plain = _unzstd(data, limit + 1)
            case _:
                raise UnsupportedError(f"Content-Encoding {encoding[:80]!r}: use identity, gzip or zstd")
    except (zlib.error, zstandard.ZstdError) as error:
        raise RefusedError(f"the body is not {encoding}: {error}") from error
    if len(plain) > limit:
        raise TooLargeError(f"the body is larger than {limit} bytes once decompressed: send fewer spans at a time")
    return plain


def parse(data: bytes, content_type: str) -> ExportTraceServiceRequest:
    """Decode a request; raises RefusedError where it is malformed, UnsupportedError where it is neither wire format."""
    try:
        if content_type == PROTOBUF:
            return ExportTraceServiceRequest.FromString(data)
        if content_type == JSON:
            message = _with_base64_ids(msgspec.json.decode(data, type=dict[str, Any]))
            return json_format.ParseDict(message, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (DecodeError, json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"the body is no ExportTraceServiceRequest: {error}") from error
    raise UnsupportedError(f"Content-Type {content_type[:80]!r}: use {PROTOBUF} or {JSON}")


def batch(request: ExportTraceServiceRequest, attempt: str | None) -> Batch:
    """Turn spans into rows; a span that cannot be kept is an error among them, and the others stay.

    `attempt` is set where an attempt key sent them: spans that name no session are then its own. Raises
    ForbiddenError where one names another session, or claims to be a model call.
    """
    rows: list[SpanRow] = []
    errors: list[str] = []
    compressor = zstandard.ZstdCompressor(level=1)
    for resource_spans in request.resource_spans:
        for span in (span for scope in resource_spans.scope_spans for span in scope.spans):
            try:
                session, is_call = _judge(span, resource_spans.resource, attempt)
            except PayloadError as error:
                errors.append(str(error))
                continue
            body = compressor.compress(span.SerializeToString())
            rows.append(SpanRow(span.trace_id, span.span_id, session, is_call, body))
    return Batch(rows, errors)


def response(content_type: str, errors: list[str]) -> bytes:
    """Return the body of a 200: empty, or how many spans were rejected and why."""
    reply = ExportTraceServiceResponse()
    if errors:
        shown = "; ".join(errors[:_SHOWN_ERRORS]) + ("; ..." if len(errors) > _SHOWN_ERRORS else "")
        reply.partial_success.CopyFrom(ExportTracePartialSuccess(rejected_spans=len(errors), error_message=shown))
    if content_type == JSON:
        return json_format.MessageToJson(reply, indent=None).encode()
    return reply.SerializeToString()


def status(content_type: str, http_status: int, message: str) -> bytes:
    """Return a `google.rpc.Status`: field 1 the code, field 2 the message."""
    code = _CODES.get(http_status, _CODE_UNKNOWN)
    if content_type == JSON:
        return msgspec.json.encode({"code": code, "message": message})
    text = message.encode(errors="replace")
    return b"\x08" + _varint(code) + b"\x12" + _varint(len(text)) + text


def _judge(span: Span, resource: Resource, attempt: str | None) -> tuple[str | None, bool]:
    """Return a span's session and whether it is a model call; raises PayloadError where it cannot be kept."""
    if len(span.trace_id) != TRACE_ID_BYTES or len(span.span_id) != SPAN_ID_BYTES or not any(span.span_id):
        raise PayloadError(f"span {span.name!r}: trace id {span.trace_id.hex()!r} or span id {span.span_id.hex()!r}")
    is_call = any(item.key == at.COMPLETION for item in span.attributes)
    if is_call and attempt is not None:
        # What is trained must have been sampled: an agent could otherwise report tokens of its own invention.
        raise ForbiddenError("an attempt key cannot report model calls: the proxy does, with the admin key")
    named = _checked(span).session if is_call else _named_session(span, resource, at.SESSION)
    if attempt is None:
        elsewhere = (_named_session(span, resource, name) for name in SESSION_NAMES)
        return named or next(filter(None, elsewhere), None), is_call
    if named not in {None, attempt}:
        raise ForbiddenError(f"the key of attempt {attempt!r} cannot report for session {named!r}; use that one's key")
    return attempt, is_call


def _checked(span: Span) -> Call:
    try:
        # Attributes have any type; a record read back has the declared ones.
        call = decode(encode(call_of(span)), Call)
    except (msgspec.MsgspecError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise PayloadError(f"span {span.span_id.hex()}: {type(error).__name__}: {error}") from error
    if not call.session:
        raise PayloadError(f"span {call.id}: {at.SESSION} is empty; give the attempt id")
    return call


def _named_session(span: Span, resource: Resource, name: str) -> str | None:
    for item in (*span.attributes, *resource.attributes):
        if item.key == name and isinstance(value := python_value(item.value), str) and value:
            return value
    return None


def _with_base64_ids(message: dict[str, Any]) -> dict[str, Any]:
    """Rewrite trace and span ids: OTLP/JSON has them in hexadecimal, protobuf's JSON mapping in base64."""
    for resource_spans in message.get("resourceSpans") or ():
        for scope_spans in resource_spans.get("scopeSpans") or ():
            for span in scope_spans.get("spans") or ():
                for owner in (span, *(span.get("links") or ())):
                    for field in _HEX_FIELDS:
                        if owner.get(field):
                            owner[field] = base64.b64encode(bytes.fromhex(owner[field])).decode()
    return message


def _gunzip(data: bytes, most: int) -> bytes:
    plain = bytearray()
    while data and len(plain) < most:
        member = zlib.decompressobj(wbits=31)
        plain += member.decompress(data, most - len(plain))
        if not member.eof and not member.unconsumed_tail:
            raise zlib.error("the stream ends in the middle")
        data = member.unused_data
    return bytes(plain)


def _unzstd(data: bytes, most: int) -> bytes:
    """Decompress little by little: a frame cut short is seen, and a bomb is not swallowed whole."""
    plain = bytearray()
    frame = zstandard.ZstdDecompressor().decompressobj()
    for start in range(0, len(data), _ZSTD_STEP):
        rest = data[start : start + _ZSTD_STEP]
        while rest:
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            plain += frame.decompress(rest)
            rest = frame.unused_data
        if len(plain) >= most:
            return bytes(plain)
    if data and not frame.eof:
        raise zstandard.ZstdError("the frame ends in the middle")
    return bytes(plain)


def _varint(value: int) -> bytes:
    """Return protobuf's base-128 integer."""
    coded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*coded, value])
