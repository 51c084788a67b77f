"""The log of what happened: spans as they came, each stored once, and an index of where each of them stands.

Spans are stored in blocks, many together. Of each the index has its ids, its session and its place; the view `spans`
shows them under their sessions' names. Keys begin with the session's number, so that what is written at the same time
lies together. What a span says is decided in `otlp`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nexrl.errors import PayloadError
from nexrl.records import Call
from nexrl.spans import call_of
from nexrl_ingest import blocks
from nexrl_ingest.blocks import Found
from nexrl_ingest.refusals import UnreadableError
from nexrl_ingest.store import Connection

OF_TRACE = (
    "is_call IN (0, 1) AND trace_id = ? AND session_seq IN (SELECT session FROM traces WHERE traces.trace_id = ?)"
)
"""The condition for the spans of a trace; give its id twice."""


class SpanRow(NamedTuple):
    """One span as it is indexed."""

    trace_id: bytes
    span_id: bytes
    session: str | None
    """The attempt id; None for a span that names none."""
    is_call: bool
    """Whether the span holds a model call with its tokens."""


class Block(NamedTuple):
    """Spans that are stored together."""

    body: bytes
    rows: Sequence[SpanRow]
    """By place."""


def append(connection: Connection, block: Block, now_ns: int) -> None:
    """Store spans; one that is there already is left as it is."""
    rows = block.rows
    sessions = sorted({row.session for row in rows if row.session is not None})
    connection.executemany(
        "INSERT INTO sessions (id, first_ns, last_ns) VALUES (?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET last_ns = excluded.last_ns",
        [(session, now_ns, now_ns) for session in sessions],
    )
    connection.executemany(
        f"INSERT INTO traces (session, trace_id) VALUES ({_SESSION_SEQ}, ?) ON CONFLICT DO NOTHING",  # noqa: S608
        sorted({(row.session, row.trace_id) for row in rows}, key=lambda pair: (pair[0] or "", pair[1])),
    )
    number = connection.bodies.add(len(rows), block.body)
    stored = connection.executemany(
        "INSERT INTO span_index (session, trace_id, span_id, is_call, at_ns, block, place) "  # noqa: S608 - our own
        f"VALUES ({_SESSION_SEQ}, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [
            (row.session, row.trace_id, row.span_id, row.is_call, now_ns, number, place)
            for place, row in enumerate(rows)
        ],
    )
    if not stored:
        connection.bodies.withdraw(number)


_SESSION_SEQ = "coalesce((SELECT seq FROM sessions WHERE id = ?), 0)"


def calls_of(connection: Connection, session: str) -> list[Call]:
    """Return a session's calls in order of arrival; raises UnreadableError where one was none when it was sent."""
    query = "SELECT block, place FROM spans WHERE session = ? AND is_call = 1 ORDER BY seq"
    found = spans_at(connection, connection.fetch(query, (session,)))
    try:
        return [call_of(one.span) for one in found]
    except PayloadError as error:
        # Of what the proxy sends, only tokens are checked when it comes (`otlp/soundness.py`).
        raise UnreadableError(
            f"session {session!r} has a call that cannot be read: {error}; whoever sends spans as the proxy, with the "
            "admin key, has to send what `nexrl.spans` writes"
        ) from error


def spans_at(connection: Connection, places: Iterable[Sequence[int]]) -> Iterator[Found]:
    """Yield the spans at these places, each a block's number and a place in it; neighbours are read once."""
    read: int | None = None
    found: list[Found] = []
    for block, place in places:
        if block != read:
            found = blocks.spans_in(connection.bodies.read(block))
            read = block
        yield found[place]


def count_calls(connection: Connection, session: str) -> int:
    query = "SELECT count(*) FROM spans WHERE session = ? AND is_call = 1"
    [[count]] = connection.fetch(query, (session,))
    return count


def forget(connection: Connection, sessions: Iterable[int]) -> None:
    """Delete all spans of these sessions, given by their numbers; their rows are gone already."""
    touched: set[int] = set()
    for session in sessions:
        query = "SELECT DISTINCT block FROM span_index WHERE session = ?"
        touched.update(block for [block] in connection.fetch(query, (session,)))
        connection.execute(
            "DELETE FROM traces WHERE session = ? AND trace_id IN (SELECT trace_id FROM span_index WHERE session = ?)",
            (session, session),
        )
        connection.execute("DELETE FROM span_index WHERE session = ?", (session,))
    _thin(connection, touched)


def forget_loose(connection: Connection, before_ns: int, limit: int) -> int:
    """Delete the oldest spans that name no session; return how many."""
    query = "SELECT seq, trace_id, block FROM span_index WHERE session = 0 AND at_ns < ? ORDER BY seq LIMIT ?"
    rows = connection.fetch(query, (before_ns, limit))
    connection.executemany("DELETE FROM span_index WHERE seq = ?", [(seq,) for seq, _, _ in rows])
    connection.executemany(
        "DELETE FROM traces WHERE session = 0 AND trace_id = ? AND NOT EXISTS (SELECT 1 FROM span_index "
        "WHERE span_index.session = 0 AND is_call = 0 AND span_index.trace_id = traces.trace_id)",
        [(trace,) for trace in {trace for _, trace, _ in rows}],
    )
    _thin(connection, {block for _, _, block in rows})
    return len(rows)


def _thin(connection: Connection, touched: Iterable[int]) -> None:
    """Delete blocks of which nothing is left, and write those anew of which no more than half is."""
    for block in sorted(touched):
        rows = connection.fetch("SELECT seq, place FROM span_index WHERE block = ? ORDER BY place", (block,))
        [[spans]] = connection.fetch("SELECT spans FROM blocks WHERE seq = ?", (block,))
        if not rows:
            connection.bodies.remove(block)
        elif 2 * len(rows) <= spans:
            body = blocks.packed(spans_at(connection, [(block, place) for _, place in rows]))
            connection.bodies.replace(block, len(rows), body)
            moved = [(place, seq) for place, (seq, _) in enumerate(rows)]
            connection.executemany("UPDATE span_index SET place = ? WHERE seq = ?", moved)
