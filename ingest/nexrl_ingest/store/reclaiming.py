"""Give the room of what was deleted back to the disk: pages of the SQLite file, and segments that nobody names.

A segment of which no more than half is named is emptied first: what is left of it is written anew behind the others.
Who still reads at an older moment, in any process, is waited for; what cannot go yet goes with the next time.
"""

import sqlite3

from nexrl_ingest.store.connection import Connection
from nexrl_ingest.store.segments import Segments

PATIENCE_MS = 1000
"""With readers of older moments: writers wait meanwhile."""
_INCREMENTAL = 2
_PAGES_AT_ONCE = 500


def sparse(connection: Connection, segments: Segments) -> list[int]:
    """Return the segments to be emptied."""
    named = dict(connection.fetch("SELECT segment, sum(length) FROM blocks GROUP BY segment"))
    sizes = segments.sizes()
    # One that may still be written to is left first, even with nothing in it.
    left = {segment for segment in sizes if segment in named or segment >= segments.settled}
    return sorted(segment for segment in left if 2 * named.get(segment, 0) <= sizes[segment])


def move(connection: Connection, segments: Segments, segment: int) -> None:
    """Write the bodies of a segment anew."""
    segments.roll()
    for number, spans in connection.fetch("SELECT seq, spans FROM blocks WHERE segment = ?", (segment,)):
        connection.bodies.replace(number, spans, connection.bodies.read(number))


def reclaim(raw: sqlite3.Connection, segments: Segments) -> None:
    """Cut free pages off the file, in small transactions between which others write, and remove empty segments."""
    if raw.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):
        # A file of version 1 is written anew, once.
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
        raw.execute("VACUUM")
    while raw.execute("PRAGMA freelist_count").fetchone() != (0,):
        raw.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
    # In this order: a transaction that is under way may name what it wrote to segments from here on.
    settled = segments.settled
    named = {segment for [segment] in raw.execute("SELECT DISTINCT segment FROM blocks").fetchall()}
    raw.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}").fetchall()
    [busy, _, _] = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    # Truncated: nobody looks at a moment before that.
    if not busy:
        for segment in sorted(segment for segment in segments.sizes() if segment < settled and segment not in named):
            segments.remove(segment)
