"""The log of what happened: spans as they came, each stored once.

What a span says is decided in `otlp`; here it is bytes under an id.
"""

from collections.abc import Sequence
from typing import NamedTuple

import zstandard
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl.records import Call
from nexrl.spans import call_of
from nexrl_ingest.store import Connection


class SpanRow(NamedTuple):
    """One span as it is stored."""

    trace_id: bytes
    span_id: bytes
    session: str | None
    """The attempt id; None for a span that names none."""
    is_call: bool
    """Whether the span holds a model call with its tokens."""
    body: bytes
    """The serialised span, zstd."""


def append(connection: Connection, rows: Sequence[SpanRow], now_ns: int) -> None:
    """Store spans; one that is there already is left as it is."""
    connection.executemany(
        "INSERT INTO spans (trace_id, span_id, session, is_call, body, at_ns) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (trace_id, span_id) DO NOTHING",
        [(*row, now_ns) for row in rows],
    )
    sessions = sorted({row.session for row in rows if row.session is not None})
    connection.executemany(
        "INSERT INTO sessions (id, first_ns, last_ns) VALUES (?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET last_ns = excluded.last_ns",
        [(session, now_ns, now_ns) for session in sessions],
    )


def calls_of(connection: Connection, session: str) -> list[Call]:
    """Return a session's calls in order of arrival."""
    query = "SELECT body FROM spans WHERE session = ? AND is_call = 1 ORDER BY seq"
    return [call_of(span_in(body)) for [body] in connection.fetch(query, (session,))]


def span_in(body: bytes) -> Span:
    """Return the span that a stored body holds."""
    return Span.FromString(zstandard.ZstdDecompressor().decompress(body))


def count_calls(connection: Connection, session: str) -> int:
    query = "SELECT count(*) FROM spans WHERE session = ? AND is_call = 1"
    [[count]] = connection.fetch(query, (session,))
    return count
