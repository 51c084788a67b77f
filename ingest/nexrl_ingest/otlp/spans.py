"""Spans of a trace request, judged one by one: blocks for the log, and reasons for those that cannot be kept.

Pure; storing is `span_log.py`'s part. What a span means to people is `steps`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from nexrl import attributes as at
from nexrl.errors import PayloadError
from nexrl.spans import call_of
from nexrl_ingest import blocks
from nexrl_ingest.blocks import Found
from nexrl_ingest.otlp import bodies, naming
from nexrl_ingest.otlp.soundness import is_sound
from nexrl_ingest.refusals import ForbiddenError
from nexrl_ingest.span_log import Block, SpanRow


class Batch(NamedTuple):
    """What a request's spans came to."""

    blocks: list[Block]
    errors: list[str]
    """One per rejected span."""

    @property
    def traces(self) -> set[bytes]:
        return {row.trace_id for block in self.blocks for row in block.rows}


def batch(request: ExportTraceServiceRequest, attempt: str | None, packed: bytes | None = None) -> Batch:
    """Judge spans and put them into blocks; a span that cannot be kept is an error, and the others stay.

    `packed` is the request as one zstd frame, where it came as that. `attempt` is set where an attempt key sent it:
    spans that name no session are then its own. Raises ForbiddenError where one names another session, or claims to be
    a model call.
    """
    kept: list[tuple[Found, SpanRow]] = []
    errors: list[str] = []
    for found in blocks.spans_of(request):
        try:
            kept.append((found, _judged(found, attempt)))
        except PayloadError as error:
            errors.append(bodies.printable(str(error)))
    if packed is not None and kept and not errors:
        return Batch([Block(packed, [row for _, row in kept])], errors)
    return Batch(_blocks(kept), errors)


def response(errors: list[str]) -> ExportTraceServiceResponse:
    """Return the reply of a 200: empty, or how many spans were rejected and why."""
    if not errors:
        return ExportTraceServiceResponse()
    rejected = ExportTracePartialSuccess(rejected_spans=len(errors), error_message=bodies.summary(errors))
    return ExportTraceServiceResponse(partial_success=rejected)


def _blocks(kept: Sequence[tuple[Found, SpanRow]]) -> list[Block]:
    made: list[Block] = []
    start = 0
    for part in blocks.cut(found for found, _ in kept):
        end = start + len(part)
        made.append(Block(blocks.packed(part), [row for _, row in kept[start:end]]))
        start = end
    return made


def _judged(found: Found, attempt: str | None) -> SpanRow:
    """Return a span's row; raises PayloadError where it cannot be kept."""
    span = found.span
    trace_id, span_id = span.trace_id, span.span_id
    naming.check_ids(trace_id, span_id, lambda: f"span {span.name[:80]!r}")
    values = {item.key: item.value for item in span.attributes}
    if at.COMPLETION not in values:
        session = naming.session_of(values, found.resource.resource.attributes, attempt)
        return SpanRow(trace_id, span_id, session, is_call=False)
    if attempt is not None:
        # What is trained must have been sampled: an agent could otherwise report tokens of its own invention.
        raise ForbiddenError("an attempt key cannot report model calls: the proxy does, with the admin key")
    session = values[at.SESSION].string_value if is_sound(values) else call_of(span).session
    if not session:
        raise PayloadError(f"span {span_id.hex()}: {at.SESSION} is empty; give the attempt id")
    return SpanRow(trace_id, span_id, naming.checked(session), is_call=True)
