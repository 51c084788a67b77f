"""The log of what happened: spans as they came, each stored once.

What a span says is decided in `otlp.py`; here it is bytes under an id.
"""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

import zstandard
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl.records import Call
from nexrl.spans import call_of


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


def append(connection: sqlite3.Connection, rows: Iterable[SpanRow]) -> None:
    """Store spans; one that is there already is left as it is."""
    connection.executemany(
        "INSERT INTO spans (trace_id, span_id, session, is_call, body) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (trace_id, span_id) DO NOTHING",
        rows,
    )


def calls_of(connection: sqlite3.Connection, session: str) -> list[Call]:
    """Return a session's calls in order of arrival."""
    query = "SELECT body FROM spans WHERE session = ? AND is_call = 1 ORDER BY seq"
    decompressor = zstandard.ZstdDecompressor()
    return [call_of(Span.FromString(decompressor.decompress(body))) for [body] in connection.execute(query, (session,))]


def count_calls(connection: sqlite3.Connection, session: str) -> int:
    query = "SELECT count(*) FROM spans WHERE session = ? AND is_call = 1"
    return connection.execute(query, (session,)).fetchone()[0]
