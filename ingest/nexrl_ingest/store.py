"""The embedded store: one SQLite file, one writer thread, group commit.

What is submitted while a commit runs becomes the next transaction: one fsync for all of it. A submission's future
resolves after that commit, so whoever awaits it may acknowledge. What is written is decided in `span_log.py`,
`ledger.py` and `pool.py`; each of their functions takes the connection it works on.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nexrl.errors import ConfigError
from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.schema import create, open_database

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
FILE = "ingest.sqlite"
READERS = 2
_OWN_FAULT = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, sqlite3.IntegrityError)
"""Errors of the submission itself; every other SQLite error is the disk's, and undoes the whole transaction."""


class _Submission(NamedTuple):
    work: Work[Any]
    future: "Future[Any]"


class Store:
    """Durable storage in a directory; `write` returns once the change would survive a power cut."""

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.path = directory / FILE
            self.connection = open_database(self.path)
            create(self.connection, self.path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"data directory {directory}: {error}; give a directory that can be written") from error
        self._queue: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_until_closed, name="nexrl-store-writer", daemon=True)
        self._writer.start()
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="nexrl-store-reader")

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction and return its result once that is on disk.

        Raises whatever `work` raises, with its changes undone, or UnavailableError where the disk refused.
        """
        future: Future[T] = Future()
        self._queue.put(_Submission(work, future))
        return await asyncio.wrap_future(future)

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a consistent snapshot, beside the writer."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._snapshot, work)

    def close(self) -> None:
        """Finish what was submitted, then close the file."""
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        for connection in (*self._reading, self.connection):
            connection.close()

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            closing = None in batch
            self._commit([item for item in batch if item and item.future.set_running_or_notify_cancel()])

    def _commit(self, batch: list[_Submission]) -> None:
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            settled = [(item.future, *self._run(item.work)) for item in batch]
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            refused = UnavailableError(f"{self.path} cannot be written: {error}; nothing was stored, try again")
            settled = [(item.future, None, refused) for item in batch]
        for future, result, error in settled:
            if error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def _run(self, work: Work[Any]) -> tuple[Any, Exception | None]:
        """Run one submission so that its failure undoes its own changes and nobody else's."""
        self.connection.execute("SAVEPOINT submission")
        try:
            outcome: tuple[Any, Exception | None] = (work(self.connection), None)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _OWN_FAULT):
                raise
            self.connection.execute("ROLLBACK TO submission")
            outcome = (None, error)
        self.connection.execute("RELEASE submission")
        return outcome

    def _snapshot(self, work: Work[T]) -> T:
        connection = getattr(self._local, "connection", None)
        try:
            if connection is None:
                connection = self._local.connection = open_database(self.path)
                connection.execute("PRAGMA query_only = ON")
                self._reading.append(connection)
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise UnavailableError(f"{self.path} cannot be read: {error}; try again") from error
