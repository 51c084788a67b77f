"""The embedded store: an SQLite file and the segments beside it, owned by one process.

Nothing to install or to operate. Every commit is an fsync of the write-ahead log (`synchronous = FULL`), behind that of
the bodies that it names (`segments.py`).
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from nexrl.errors import ConfigError
from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.store import reclaiming
from nexrl_ingest.store.committing import Fault, GroupCommit, Work
from nexrl_ingest.store.connection import Connection
from nexrl_ingest.store.dialects import SQLITE
from nexrl_ingest.store.schema import VERSION, migrate, refuse_newer, refuse_older
from nexrl_ingest.store.segments import Segments
from nexrl_ingest.store.sqlite_connection import SqliteConnection
from nexrl_ingest.store.telling import Bell

T = TypeVar("T")
FILE = "ingest.sqlite"
SEGMENTS = "blocks"
READERS = 2
PATIENCE_S = 30.0
"""How long a statement waits for a lock of another process, such as somebody's `sqlite3` on the file."""
CACHE_KIB = 16 * 1024
"""Of pages: what is committed together should find room in it."""
CHECKPOINT_PAGES = 4000
"""Of the write-ahead log, before they go to their places: some are written many times until then."""
_WORKS_FAULT = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, sqlite3.IntegrityError)
"""Errors of the submission itself; every other SQLite error is the disk's, and undoes the whole transaction."""


class EmbeddedStore:
    """Durable storage in a directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.segments = Segments(directory / SEGMENTS)
            self.connection = _open(self.path)
            _upgrade(self.connection, self.path, self.segments)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"data directory {directory}: {error}; {_remedy(error)}") from error
        self.bell = Bell()
        self._commits = GroupCommit(_Transactions(self.connection, self.segments, str(self.path)), self.bell)
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="nexrl-store-reader")

    async def write(self, work: Work[T], *, exclusive: bool = True, tells: bool = False) -> T:
        return await self._commits.write(work, exclusive=exclusive, tells=tells)

    async def read(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._snapshot, work)

    def hears(self) -> bool:
        return True

    async def leads(self, task: str) -> bool:  # noqa: ARG002 - there is one replica
        return True

    async def size(self) -> int:
        return await self.read(_used)

    async def reclaim(self) -> None:
        for segment in await self.read(partial(reclaiming.sparse, segments=self.segments)):
            await self.write(partial(reclaiming.move, segments=self.segments, segment=segment))
        await asyncio.to_thread(_reclaim, self.path, self.segments)

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
            with _reading(raw, self.segments) as connection:
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
        with _reading(raw, Segments(path.parent / SEGMENTS)) as connection:
            yield connection


class _Transactions:
    """Transactions on the file; its one process is alone by the lock on its directory."""

    def __init__(self, raw: sqlite3.Connection, segments: Segments, where: str) -> None:
        self.where = where
        self._raw = raw
        self._segments = segments
        self._connection = SqliteConnection(raw, segments)

    def begin(self, *, exclusive: bool) -> Connection:  # noqa: ARG002 - there is one writer
        self._raw.execute("BEGIN IMMEDIATE")
        return self._connection

    def tell(self) -> None:
        """There is nobody else."""

    def commit(self) -> None:
        self._segments.sync()
        self._raw.execute("COMMIT")
        self._segments.settle()

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._raw.execute("ROLLBACK")
        self._segments.rewind()
        self._segments.settle()

    def fault(self, error: Exception) -> Fault:
        disks = isinstance(error, sqlite3.Error | OSError) and not isinstance(error, _WORKS_FAULT)
        return "away" if disks else "work"

    def close(self) -> None:
        self._raw.close()
        self._segments.close()


@contextlib.contextmanager
def _reading(raw: sqlite3.Connection, segments: Segments) -> Generator[Connection]:
    raw.execute("BEGIN")
    try:
        yield SqliteConnection(raw, segments)
    finally:
        raw.execute("ROLLBACK")


def _used(connection: Connection) -> int:
    [[pages]], [[free]] = connection.fetch("PRAGMA page_count"), connection.fetch("PRAGMA freelist_count")
    [[page_size]] = connection.fetch("PRAGMA page_size")
    [[bodies]] = connection.fetch("SELECT coalesce(sum(length), 0) FROM blocks")
    return (pages - free) * page_size + bodies


def _reclaim(path: Path, segments: Segments) -> None:
    with contextlib.closing(_open(path)) as raw:
        reclaiming.reclaim(raw, segments)


def _open(path: Path) -> sqlite3.Connection:
    # Transactions are begun by hand: the module's own would begin them behind our back.
    raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=PATIENCE_S)
    # Before anything else: it says how a new file is laid out.
    raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    raw.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    return raw


def _upgrade(raw: sqlite3.Connection, path: Path, segments: Segments) -> None:
    version = _version(raw)
    refuse_newer(str(path), version)
    raw.execute("BEGIN IMMEDIATE")
    try:
        migrate(SqliteConnection(raw, segments), version, SQLITE)
        raw.execute(f"PRAGMA user_version = {VERSION}")
        segments.sync()
    except BaseException:
        raw.execute("ROLLBACK")
        raise
    raw.execute("COMMIT")
    segments.settle()
    segments.cut(dict(raw.execute("SELECT segment, max(start + length) FROM blocks GROUP BY segment").fetchall()))
    if 0 < version < VERSION:
        _reclaim(path, segments)


def _remedy(error: OSError | sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorcode", None):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return f"restore {FILE} from a backup, move it away, or give another directory"
        case sqlite3.SQLITE_ERROR:
            return f"{FILE} has other tables than its schema version says: restore it or give another directory"
        case _:
            return "give a directory that can be written"


def _version(raw: sqlite3.Connection) -> int:
    return raw.execute("PRAGMA user_version").fetchone()[0]
