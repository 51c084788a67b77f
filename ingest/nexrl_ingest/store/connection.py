"""What work on the store is written against: one connection, the same for SQLite and PostgreSQL.

SQL is written once, with `?` for parameters, in what both take: `ON CONFLICT`, `RETURNING`, `EXISTS`; no `LIKE`
without thought (SQLite folds case), no `lastrowid` (`RETURNING seq` has it). Truth values are stored as 0 and 1.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

Value = str | bytes | int | float | None
Row = tuple[Any, ...]


class Connection(Protocol):
    """A connection inside a transaction; whoever hands it out begins and ends that."""

    def execute(self, query: str, parameters: Sequence[Value] = ()) -> int:
        """Run a statement; return how many rows it changed."""
        ...

    def executemany(self, query: str, rows: Iterable[Sequence[Value]]) -> int:
        """Run a statement once per row of parameters; return how many rows it changed."""
        ...

    def fetch(self, query: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Return all rows of a query."""
        ...

    def fetch_one(self, query: str, parameters: Sequence[Value] = ()) -> Row | None:
        """Return the first row of a query, None where there is none."""
        ...


class SqliteConnection:
    """A connection to an SQLite file."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw

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
