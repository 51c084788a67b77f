"""Spans of a trace request, judged one by one: blocks for the log, and reasons for those that cannot be kept.

A request in which nothing is odd is stored as it is, and only skimmed (`skimming.py`); of every other one official
messages are made, and each span is judged by itself. Pure; storing is `span_log.py`'s part. What a span means to people
is `steps`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl import attributes as at
from nexrl.errors import PayloadError
from nexrl.spans import call_of
from nexrl_ingest import blocks
from nexrl_ingest.blocks import Found
from nexrl_ingest.otlp import bodies, naming, skimming
from nexrl_ingest.otlp.bodies import Body
from nexrl_ingest.otlp.skimming import Attributes, OddError
from nexrl_ingest.otlp.soundness import COMPLETION, SESSION, is_sound
from nexrl_ingest.refusals import ForbiddenError
from nexrl_ingest.span_log import Block, SpanRow

PROXY = "nexrl_proxy"
"""The scope of what the proxy sends, with the admin key."""
_NAMES = tuple((name, name.encode()) for name in naming.SESSION_NAMES)


class Batch(NamedTuple):
    """What a request's spans came to."""

    blocks: list[Block]
    errors: list[str]
    """One per rejected span."""

    @property
    def traces(self) -> set[bytes]:
        return {row.trace_id for block in self.blocks for row in block.rows}


def received(body: Body, attempt: str | None) -> Batch:
    """Judge a request's spans and put them into blocks; one that cannot be kept is an error, and the others stay.

    `attempt` is set where an attempt key sent it: spans that name no session are then its own. Raises RefusedError
    where the request is malformed, ForbiddenError where a span names another session, or claims to be a model call.
    """
    request = bodies.parse(body.plain, body.content_type, ExportTraceServiceRequest)
    as_it_is = body.content_type == bodies.PROTOBUF and len(body.plain) <= blocks.BLOCK_BYTES
    if as_it_is and (rows := rows_of(body.plain, attempt)):
        return Batch([Block(body.packed or blocks.compressed(body.plain), rows)], [])
    return batch(request, attempt, body.packed)


def rows_of(data: bytes, attempt: str | None) -> list[SpanRow] | None:
    """Return the rows of a well-formed request's spans where all surely can be kept, None where `batch` should look."""
    rows: list[SpanRow] = []
    try:
        for resource in skimming.traces(data).resource_spans:
            shared = naming.texts_of(resource.resource.attributes)
            for scope in resource.scope_spans:
                ours = attempt is None and scope.scope.name == PROXY
                rows += [_row(span, shared, attempt, ours=ours) for span in scope.spans]
    except (OddError, PayloadError, ForbiddenError):
        return None
    return rows


def batch(request: ExportTraceServiceRequest, attempt: str | None, packed: bytes | None = None) -> Batch:
    """Judge spans and put them into blocks, where all can stay the request as it is packed; raises as `received`."""
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


def _row(span: Any, resource: Mapping[str, str], attempt: str | None, *, ours: bool) -> SpanRow:
    """Return the row of a skimmed span; raises OddError where it may be one that `_judged` refuses."""
    trace_id, span_id = span.trace_id, span.span_id
    naming.check_ids(trace_id, span_id)
    found = skimming.attributes(span.attributes)
    if COMPLETION not in found:
        return SpanRow(trace_id, span_id, naming.session_of(_named(found), resource, attempt), is_call=False)
    if attempt is not None:
        raise OddError
    if is_sound(found, ours=ours):
        session = found[SESSION].decode()
    elif not (session := call_of(Span.FromString(span.SerializeToString())).session):
        raise OddError
    return SpanRow(trace_id, span_id, naming.checked(session), is_call=True)


def _named(found: Attributes) -> dict[str, str]:
    """Return what a span calls its session; of a value of another type the text is empty."""
    return {name: found[key].decode() if type(found[key]) is bytes else "" for name, key in _NAMES if key in found}


def _judged(found: Found, attempt: str | None) -> SpanRow:
    """Return a span's row; raises PayloadError where it cannot be kept."""
    span = found.span
    naming.check_ids(span.trace_id, span.span_id, lambda: f"span {span.name[:80]!r}")
    own = naming.texts_of(span.attributes)
    if at.COMPLETION not in own:
        shared = naming.texts_of(found.resource.resource.attributes)
        return SpanRow(span.trace_id, span.span_id, naming.session_of(own, shared, attempt), is_call=False)
    if attempt is not None:
        # What is trained must have been sampled: an agent could otherwise report tokens of its own invention.
        raise ForbiddenError("an attempt key cannot report model calls: the proxy does, with the admin key")
    session = call_of(span).session
    if not session:
        raise PayloadError(f"span {span.span_id.hex()}: {at.SESSION} is empty; give the attempt id")
    return SpanRow(span.trace_id, span.span_id, naming.checked(session), is_call=True)
