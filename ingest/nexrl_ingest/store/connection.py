"""What work on the store is written against: one connection, the same for SQLite and PostgreSQL.

SQL is written once, with `?` for parameters, in what both take: `ON CONFLICT`, `RETURNING`, `EXISTS`; no `LIKE`
without thought (SQLite folds case), no `lastrowid` (`RETURNING seq` has it). Truth values are stored as 0 and 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

Value = str | bytes | int | float | None
Row = tuple[Any, ...]


class Bodies(Protocol):
    """The blocks that a connection sees, inside its transaction."""

    def add(self, spans: int, body: bytes) -> int:
        """Store a block of so many spans; return its number."""
        ...

    def read(self, number: int) -> bytes:
        """Return a block's body; raises UnavailableError where the disk does not give it back as it was."""
        ...

    def replace(self, number: int, spans: int, body: bytes) -> None:
        """Store another body under a number."""
        ...

    def withdraw(self, number: int) -> None:
        """Take back the block that the same work has just added."""
        ...

    def remove(self, number: int) -> None: ...


class Connection(Protocol):
    """A connection inside a transaction; whoever hands it out begins and ends that."""

    @property
    def bodies(self) -> Bodies:
        """What spans are stored in."""
        ...

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
