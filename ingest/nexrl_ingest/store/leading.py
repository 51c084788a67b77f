"""Which of several replicas does a task that one of them should do: the one that holds its lock, as long as it lives.

An advisory lock of PostgreSQL, held by a connection of its own: it is freed when that ends, however it ends. A replica
that lost its connection may not know it yet, so what is done twice must do no harm.
"""

import hashlib
import threading

import psycopg

from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.store.postgres_connection import Raw, alive, connect, line


class Leading:
    """The tasks that this replica does; used from any thread."""

    def __init__(self, url: str, where: str) -> None:
        self._url = url
        self._where = where
        self._raw: Raw | None = None
        self._held: set[str] = set()
        self._turn = threading.Lock()
        self._closed = False

    def leads(self, task: str) -> bool:
        """Whether the task is this replica's; takes it where it is nobody's. Raises UnavailableError.

        Once closed, nothing is.
        """
        try:
            with self._turn:
                if self._closed:
                    return False
                raw = self._connection()
                if task not in self._held:
                    [taken] = raw.execute("SELECT pg_try_advisory_lock(%s)", (_key(task),)).fetchone() or (False,)
                    if taken:
                        self._held.add(task)
                return task in self._held
        except psycopg.OperationalError as error:
            raise UnavailableError(f"{self._where} cannot be asked: {line(error)}; try again") from error

    def close(self) -> None:
        """Leave all tasks to others, for good."""
        with self._turn:
            self._closed = True
            self._leave()

    def _leave(self) -> None:
        if self._raw is not None:
            self._raw.close()
        self._raw = None
        self._held.clear()

    def _connection(self) -> Raw:
        if self._raw is None or not alive(self._raw):
            self._leave()
            self._raw = connect(self._url)
        return self._raw


def _key(task: str) -> int:
    """Return the lock of a task: a number of 64 bits."""
    return int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], signed=True)
