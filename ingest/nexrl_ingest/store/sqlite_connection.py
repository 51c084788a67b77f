"""One connection to SQLite: how SQL is said to it, and the segments that its blocks are in."""

import sqlite3
from collections.abc import Iterable, Sequence

from nexrl_ingest.store.bodies import SegmentBodies
from nexrl_ingest.store.connection import Row, Value
from nexrl_ingest.store.segments import Segments


class SqliteConnection:
    """A connection to an SQLite file, and the files beside it."""

    def __init__(self, raw: sqlite3.Connection, segments: Segments) -> None:
        self.raw = raw
        self.bodies = SegmentBodies(self, segments)

    def execute(self, query: str, parameters: Sequence[Value] = ()) -> int:
        return self.raw.execute(query, parameters).rowcount

    def executemany(self, query: str, rows: Iterable[Sequence[Value]]) -> int:
        return max(0, self.raw.executemany(query, rows).rowcount)

    def fetch(self, query: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return self.raw.execute(query, parameters).fetchall()

    def fetch_one(self, query: str, parameters: Sequence[Value] = ()) -> Row | None:
        # All of them: a statement left half read would keep its snapshot open.
        rows = self.fetch(query, parameters)
        return rows[0] if rows else None
