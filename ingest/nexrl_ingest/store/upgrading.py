"""What SQL alone cannot bring to a new version: stored bytes that change their form."""

from collections.abc import Callable

import zstandard
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from nexrl_ingest import blocks
from nexrl_ingest.store.connection import Connection
from nexrl_ingest.store.dialects import Types

Upgrade = Callable[[Connection, Types], None]
"""A step of a migration."""
AT_ONCE = 64
_ORIGIN_FIELD = 1000
"""Until version 4 each span was stored by itself, with its resource and its scope in this field."""


def spans_to_blocks(connection: Connection, types: Types) -> None:
    """Version 5: put the bodies of single spans into blocks, in the same order and under the same numbers."""
    _go_on_from(connection, types.restart)
    query = (
        "SELECT spans.seq, coalesce(sessions.seq, 0), is_call, trace_id, span_id, at_ns, body FROM spans "
        "LEFT JOIN sessions ON sessions.id = spans.session WHERE spans.seq > ? ORDER BY spans.seq LIMIT ?"
    )
    last = 0
    while rows := connection.fetch(query, (last, AT_ONCE)):
        last = rows[-1][0]
        body = blocks.packed(_found(row[-1]) for row in rows)
        [[block]] = connection.fetch("INSERT INTO blocks (spans, body) VALUES (?, ?) RETURNING seq", (len(rows), body))
        connection.executemany(
            "INSERT INTO span_index (seq, session, is_call, trace_id, span_id, at_ns, block, place) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(*row[:-1], block, place) for place, row in enumerate(rows)],
        )
    connection.execute("INSERT INTO traces (trace_id, session) SELECT DISTINCT trace_id, session FROM span_index")


def bodies_to_segments(connection: Connection, types: Types) -> None:
    """Version 6: put the bodies of blocks into files beside the database, where the backend has such."""
    if not types.blocks:
        return
    connection.execute("ALTER TABLE blocks RENAME TO bodies")
    connection.execute(types.blocks)
    for seq, spans in connection.fetch("SELECT seq, spans FROM bodies ORDER BY seq"):
        [[body]] = connection.fetch("SELECT body FROM bodies WHERE seq = ?", (seq,))
        number = connection.bodies.add(spans, body)
        connection.execute("UPDATE blocks SET seq = ? WHERE seq = ?", (seq, number))
    connection.execute("DROP TABLE bodies")


def _go_on_from(connection: Connection, restart: str | None) -> None:
    """Never give a number twice: somebody may have seen the last ones, though their spans are forgotten."""
    row = "(trace_id, span_id, is_call, body) VALUES (?, ?, 0, ?) RETURNING seq"
    [[number]] = connection.fetch(f"INSERT INTO spans {row}", (b"", b"", b""))
    connection.execute("DELETE FROM spans WHERE seq = ?", (number,))
    query = (
        "INSERT INTO span_index (seq, session, is_call, trace_id, span_id, at_ns, block, place) "
        "VALUES (?, 0, 0, ?, ?, 0, 0, 0)"
    )
    connection.execute(query, (number, b"", b""))
    connection.execute("DELETE FROM span_index WHERE seq = ?", (number,))
    if restart:
        connection.execute(restart.format(next=number))


def _found(body: bytes) -> blocks.Found:
    span = Span.FromString(zstandard.ZstdDecompressor().decompress(body))
    origins = [field.data for field in UnknownFieldSet(span) if field.field_number == _ORIGIN_FIELD]
    origin = ResourceSpans()
    if origins:
        span.DiscardUnknownFields()
        # The last one is ours: a sender may have put in something of that number before.
        origin = ResourceSpans.FromString(origins[-1])
    return blocks.Found(span, origin, origin.scope_spans[0] if origin.scope_spans else ScopeSpans())
