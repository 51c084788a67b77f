"""Spans of a trace request, judged one by one: rows for the log, and reasons for those that cannot be kept.

Pure; storing is `span_log.py`'s part. What a span means to people is `steps`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import zstandard
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from nexrl import attributes as at
from nexrl.errors import PayloadError
from nexrl.spans import call_of
from nexrl_ingest.otlp import bodies, naming
from nexrl_ingest.refusals import ForbiddenError
from nexrl_ingest.span_log import SpanRow

ORIGIN_FIELD = 1000
"""Of a stored span: the `ResourceSpans` it came in, without spans. Readers of the span alone pass over it."""
_ORIGIN_TAG = b"\xc2\x3e"  # field 1000, length-delimited


class Batch(NamedTuple):
    """What a request's spans came to."""

    rows: list[SpanRow]
    errors: list[str]
    """One per rejected span."""


def batch(request: ExportTraceServiceRequest, attempt: str | None) -> Batch:
    """Turn spans into rows; a span that cannot be kept is an error among them, and the others stay.

    `attempt` is set where an attempt key sent them: spans that name no session are then its own. Raises
    ForbiddenError where one names another session, or claims to be a model call.
    """
    rows: list[SpanRow] = []
    errors: list[str] = []
    compressor = zstandard.ZstdCompressor(level=1)
    for spans, scope in _scopes(request):
        origin = _origin(spans, scope)
        for span in scope.spans:
            try:
                session, is_call = _judge(span, spans, attempt)
            except PayloadError as error:
                errors.append(bodies.printable(str(error)))
                continue
            body = compressor.compress(span.SerializeToString() + origin)
            rows.append(SpanRow(span.trace_id, span.span_id, session, is_call, body))
    return Batch(rows, errors)


def response(errors: list[str]) -> ExportTraceServiceResponse:
    """Return the reply of a 200: empty, or how many spans were rejected and why."""
    if not errors:
        return ExportTraceServiceResponse()
    rejected = ExportTracePartialSuccess(rejected_spans=len(errors), error_message=bodies.summary(errors))
    return ExportTraceServiceResponse(partial_success=rejected)


def origin_of(span: Span) -> ResourceSpans:
    """Return the resource and the scope that a stored span came from."""
    # The last one is ours: a sender may have put in something of that number before.
    found = [field.data for field in UnknownFieldSet(span) if field.field_number == ORIGIN_FIELD]
    return ResourceSpans.FromString(found[-1]) if found else ResourceSpans()


def _scopes(request: ExportTraceServiceRequest) -> Iterator[tuple[ResourceSpans, ScopeSpans]]:
    for spans in request.resource_spans:
        for scope in spans.scope_spans:
            yield spans, scope


def _origin(spans: ResourceSpans, scope: ScopeSpans) -> bytes:
    bare = ScopeSpans(scope=scope.scope, schema_url=scope.schema_url)
    origin = ResourceSpans(resource=spans.resource, schema_url=spans.schema_url, scope_spans=[bare])
    data = origin.SerializeToString()
    return _ORIGIN_TAG + bodies.varint(len(data)) + data


def _judge(span: Span, spans: ResourceSpans, attempt: str | None) -> tuple[str | None, bool]:
    """Return a span's session and whether it is a model call; raises PayloadError where it cannot be kept."""
    naming.check_ids(span.trace_id, span.span_id, f"span {span.name[:80]!r}")
    is_call = any(item.key == at.COMPLETION for item in span.attributes)
    if is_call and attempt is not None:
        # What is trained must have been sampled: an agent could otherwise report tokens of its own invention.
        raise ForbiddenError("an attempt key cannot report model calls: the proxy does, with the admin key")
    if is_call:
        session = naming.checked(call_of(span).session)
        if not session:
            raise PayloadError(f"span {span.span_id.hex()}: {at.SESSION} is empty; give the attempt id")
        return session, True
    return naming.session_of(span.attributes, spans.resource.attributes, attempt), False
