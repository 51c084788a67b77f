"""Durable storage: what work on it sees (`Connection`), and the two stores, an SQLite file and PostgreSQL.

What is written is decided in `span_log.py`, `ledger.py` and `pool.py`: their functions take the connection they work
on, and run inside `Store.write` or `Store.read`.
"""

from typing import Protocol, TypeVar

from nexrl_ingest.store.committing import Work
from nexrl_ingest.store.connection import Connection
from nexrl_ingest.store.telling import Bell

__all__ = ["Connection", "Store", "Work"]

T = TypeVar("T")


class Store(Protocol):
    """Durable storage that several replicas may share."""

    bell: Bell
    """Rings when a work that tells is committed, in this replica or in another, from any thread."""

    async def write(self, work: Work[T], *, exclusive: bool = True, tells: bool = False) -> T:
        """Run `work` in a transaction and return its result once that would survive a power cut.

        Exclusive works follow one another, across all replicas: they may look and then decide. Others, which only
        add rows that nobody decides on, run beside those. Work may run more than once, before any of it counts.
        `tells`: whoever waits for a change, in any replica, should look again once this is committed.
        Raises whatever `work` raises, with its changes undone, or UnavailableError where the storage refused.
        """
        ...

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a consistent snapshot, beside the writer; raises UnavailableError where it cannot be read."""
        ...

    def hears(self) -> bool:
        """Whether the bell rings for what other replicas do, too; where not, those who wait must look."""
        ...

    async def leads(self, task: str) -> bool:
        """Whether this replica is the one of all that does a task; raises UnavailableError where nobody can say."""
        ...

    async def size(self) -> int:
        """Return how many bytes are in use, about; what was deleted is not."""
        ...

    async def reclaim(self) -> None:
        """Give back the room of what was deleted."""
        ...

    def close(self) -> None:
        """Finish what was submitted, then let go of the storage."""
        ...
