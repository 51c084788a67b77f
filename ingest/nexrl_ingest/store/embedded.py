"""The embedded store: one SQLite file, owned by one process.

Nothing to install or to operate. Every commit is an fsync of the write-ahead log (`synchronous = FULL`).
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from nexrl.errors import ConfigError
from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.store.committing import Fault, GroupCommit, Work
from nexrl_ingest.store.connection import Connection, SqliteConnection
from nexrl_ingest.store.schema import SQLITE, VERSION, migrate, refuse_newer, refuse_older

T = TypeVar("T")
FILE = "ingest.sqlite"
READERS = 2
PATIENCE_S = 30.0
"""How long a statement waits for a lock of another process, such as somebody's `sqlite3` on the file."""
PAGE_BYTES = 16 * 1024
"""Of a new file: blocks are long, and each page of one is written by itself."""
CACHE_KIB = 16 * 1024
"""Of pages: what is committed together should find room in it."""
_INCREMENTAL = 2
_PAGES_AT_ONCE = 500
_WORKS_FAULT = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, sqlite3.IntegrityError)
"""Errors of the submission itself; every other SQLite error is the disk's, and undoes the whole transaction."""


class EmbeddedStore:
    """Durable storage in a directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.connection = _open(self.path)
            _upgrade(self.connection, self.path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"data directory {directory}: {error}; give a directory that can be written") from error
        self._commits = GroupCommit(_Transactions(self.connection, str(self.path)))
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="nexrl-store-reader")

    async def write(self, work: Work[T], *, exclusive: bool = True) -> T:
        return await self._commits.write(work, exclusive=exclusive)

    async def read(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._snapshot, work)

    async def size(self) -> int:
        return await self.read(_used)

    async def reclaim(self) -> None:
        await asyncio.to_thread(_reclaim, self.path)

    def close(self) -> None:
        self._readers.shutdown()
        for raw in self._reading:
            raw.close()
        self._commits.close()

    def _snapshot(self, work: Work[T]) -> T:
        try:
            raw = getattr(self._local, "raw", None)
            if raw is None:
                raw = self._local.raw = _open(self.path)
                raw.execute("PRAGMA query_only = ON")
                self._reading.append(raw)
            with _reading(raw) as connection:
                return work(connection)
        except sqlite3.OperationalError as error:
            raise UnavailableError(f"{self.path} cannot be read: {error}; try again") from error


@contextlib.contextmanager
def read_only(path: Path) -> Generator[Connection]:
    """Give a snapshot of a file that a running ingest may be writing to; raises ConfigError where none can be read."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the data directory of `nexrl ingest`, or a run directory")
    address = f"{path.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None, timeout=PATIENCE_S)) as raw:
        try:
            version = _version(raw)
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: {error}; is this the file of `nexrl ingest`?") from error
        refuse_newer(str(path), version)
        refuse_older(str(path), version)
        with _reading(raw) as connection:
            yield connection


class _Transactions:
    """Transactions on the file; its one process is alone by the lock on its directory."""

    def __init__(self, raw: sqlite3.Connection, where: str) -> None:
        self.where = where
        self._raw = raw
        self._connection = SqliteConnection(raw)

    def begin(self, *, exclusive: bool) -> Connection:  # noqa: ARG002 - there is one writer
        self._raw.execute("BEGIN IMMEDIATE")
        return self._connection

    def commit(self) -> None:
        self._raw.execute("COMMIT")

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._raw.execute("ROLLBACK")

    def fault(self, error: Exception) -> Fault:
        return "away" if isinstance(error, sqlite3.Error) and not isinstance(error, _WORKS_FAULT) else "work"

    def close(self) -> None:
        self._raw.close()


@contextlib.contextmanager
def _reading(raw: sqlite3.Connection) -> Generator[Connection]:
    raw.execute("BEGIN")
    try:
        yield SqliteConnection(raw)
    finally:
        raw.execute("ROLLBACK")


def _used(connection: Connection) -> int:
    [[pages]], [[free]] = connection.fetch("PRAGMA page_count"), connection.fetch("PRAGMA freelist_count")
    [[page_size]] = connection.fetch("PRAGMA page_size")
    return (pages - free) * page_size


def _reclaim(path: Path) -> None:
    """Cut free pages off the file; in small transactions, between which others write."""
    with contextlib.closing(_open(path)) as raw:
        if raw.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):
            # A file of version 1 is written anew, once.
            raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
            raw.execute("VACUUM")
        while raw.execute("PRAGMA freelist_count").fetchone() != (0,):
            raw.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _open(path: Path) -> sqlite3.Connection:
    # Transactions are begun by hand: the module's own would begin them behind our back.
    raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=PATIENCE_S)
    # Before anything else: they say how a new file is laid out.
    raw.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return raw


def _upgrade(raw: sqlite3.Connection, path: Path) -> None:
    version = _version(raw)
    refuse_newer(str(path), version)
    raw.execute("BEGIN IMMEDIATE")
    try:
        migrate(SqliteConnection(raw), version, SQLITE)
        raw.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        raw.execute("ROLLBACK")
        raise
    raw.execute("COMMIT")


def _version(raw: sqlite3.Connection) -> int:
    return raw.execute("PRAGMA user_version").fetchone()[0]
