"""Blocks: OTLP requests as they are stored, zstd, with the spans of many sessions in each.

Compressed together they are smaller, and one that arrived as zstd is stored as it came. A span is found by its place.
Pure; which span stands where is `span_log.py`'s part.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import zstandard
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

BLOCK_BYTES = 1024 * 1024
"""Of a block's spans before compression, unless it has only one: to read one span all of its block is unpacked."""


class Found(NamedTuple):
    """A span and where it came from."""

    span: Span
    resource: ResourceSpans
    scope: ScopeSpans

    def origin(self) -> ResourceSpans:
        """Return the resource and the scope of the span, without spans."""
        bare = ResourceSpans(schema_url=self.resource.schema_url)
        if self.resource.HasField("resource"):
            bare.resource.CopyFrom(self.resource.resource)
        _add_scope(bare, self.scope)
        return bare


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Found]:
    """Yield a request's spans in order; the number of each, from 0, is its place."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Found(span, resource, scope)


def spans_in(body: bytes) -> list[Found]:
    """Return the spans of a block by their places."""
    return list(spans_of(ExportTraceServiceRequest.FromString(zstandard.ZstdDecompressor().decompress(body))))


def packed(found: Iterable[Found]) -> bytes:
    """Return a block of these spans, each under the resource and the scope that it came with."""
    request = ExportTraceServiceRequest()
    last: Found | None = None
    scope = ScopeSpans()
    for one in found:
        if last is None or one.resource is not last.resource:
            request.resource_spans.append(one.origin())
            scope = request.resource_spans[-1].scope_spans[0]
        elif one.scope is not last.scope:
            scope = _add_scope(request.resource_spans[-1], one.scope)
        scope.spans.append(one.span)
        last = one
    return compressed(request.SerializeToString())


def compressed(request: bytes) -> bytes:
    """Return a block of one serialised request."""
    return zstandard.ZstdCompressor(level=1).compress(request)


def cut(found: Iterable[Found]) -> Iterator[list[Found]]:
    """Yield the spans in parts that each fill a block."""
    part: list[Found] = []
    size = 0
    for one in found:
        own = one.span.ByteSize()
        if part and size + own > BLOCK_BYTES:
            yield part
            part, size = [], 0
        part.append(one)
        size += own
    if part:
        yield part


def fits(packed_bytes: bytes, plain_bytes: int) -> bool:
    """Whether a request can be stored as it came: one zstd frame that says how large it is, and not too large."""
    return 0 < plain_bytes <= BLOCK_BYTES and zstandard.frame_content_size(packed_bytes) == plain_bytes


def _add_scope(resource: ResourceSpans, scope: ScopeSpans) -> ScopeSpans:
    added = resource.scope_spans.add(schema_url=scope.schema_url)
    if scope.HasField("scope"):
        added.scope.CopyFrom(scope.scope)
    return added
