"""The PostgreSQL store: what several ingest replicas share.

Tables live in a schema of their own. Exclusive works of all replicas follow one another by an advisory lock, which
PostgreSQL frees when a replica dies. A server that goes away is found again by the next work.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg
from psycopg import errors, sql

from nexrl.errors import ConfigError
from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.store.committing import Fault, GroupCommit, Work
from nexrl_ingest.store.connection import Connection
from nexrl_ingest.store.dialects import POSTGRES
from nexrl_ingest.store.hearing import TELL, Hearing
from nexrl_ingest.store.leading import Leading
from nexrl_ingest.store.postgres_connection import SCHEMA, PostgresConnection, Raw, alive, connect, line, where
from nexrl_ingest.store.schema import VERSION, migrate, refuse_newer
from nexrl_ingest.store.telling import Bell

T = TypeVar("T")
READERS = 4
ROW_BYTES = 200
"""Of a span in the index, and what its session adds."""
_TAKE_TURNS = "SELECT pg_advisory_xact_lock(474148794988)"
"""The lock's key is "nexrl" as a number."""
_RACES = (errors.DeadlockDetected, errors.SerializationFailure)
_WORKS_FAULT = (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError, psycopg.NotSupportedError)
_OTHER_TABLES = (
    *(errors.DuplicateTable, errors.DuplicateColumn, errors.DuplicateObject),
    *(errors.UndefinedTable, errors.UndefinedColumn),
)
_log = logging.getLogger(__name__)


class PostgresStore:
    """Durable storage in a PostgreSQL database."""

    def __init__(self, url: str) -> None:
        self.where = where(url)
        try:
            with contextlib.closing(connect(url)) as raw:
                _prepare(raw, self.where)
        except psycopg.Error as error:
            raise ConfigError(f"{self.where}: {line(error)}; {_remedy(error)}") from error
        self._url = url
        self.bell = Bell()
        self._commits = GroupCommit(_Transactions(url, self.where), self.bell)
        self._hearing = Hearing(url, self.where, self.bell.ring)
        self._leading = Leading(url, self.where)
        self._local = threading.local()
        self._reading: set[Raw] = set()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="nexrl-store-reader")

    async def write(self, work: Work[T], *, exclusive: bool = True, tells: bool = False) -> T:
        return await self._commits.write(work, exclusive=exclusive, tells=tells)

    async def read(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._snapshot, work)

    def hears(self) -> bool:
        return self._hearing.works

    async def leads(self, task: str) -> bool:
        return await asyncio.to_thread(self._leading.leads, task)

    async def size(self) -> int:
        return await self.read(_used)

    async def reclaim(self) -> None:
        await asyncio.to_thread(_reclaim, self._url, self.where)

    def close(self) -> None:
        self._readers.shutdown()
        for raw in self._reading:
            raw.close()
        self._leading.close()
        self._hearing.close()
        self._commits.close()

    def _snapshot(self, work: Work[T]) -> T:
        try:
            with _reading(self._reader()) as connection:
                return work(connection)
        except psycopg.OperationalError as error:
            raise UnavailableError(f"{self.where} cannot be read: {line(error)}; try again") from error

    def _reader(self) -> Raw:
        """Return this thread's connection, a new one where the server went away."""
        raw: Raw | None = getattr(self._local, "raw", None)
        if raw is not None and alive(raw):
            return raw
        if raw is not None:
            raw.close()
            self._reading.discard(raw)
        raw = self._local.raw = connect(self._url)
        self._reading.add(raw)
        return raw


class _Transactions:
    """Transactions on one connection, which is made anew when it was lost."""

    def __init__(self, url: str, where: str) -> None:
        self.where = where
        self._url = url
        self._raw: Raw | None = None

    def begin(self, *, exclusive: bool) -> Connection:
        if self._raw is None or not alive(self._raw):
            self.close()
            self._raw = connect(self._url)
        self._raw.execute("BEGIN")
        if exclusive:
            self._raw.execute(_TAKE_TURNS)
        return PostgresConnection(self._raw)

    def tell(self) -> None:
        assert self._raw
        self._raw.execute(TELL)

    def commit(self) -> None:
        assert self._raw
        self._raw.execute("COMMIT")

    def rollback(self) -> None:
        try:
            if self._raw:
                self._raw.execute("ROLLBACK")
        except psycopg.Error:
            self.close()

    def fault(self, error: Exception) -> Fault:
        if isinstance(error, _RACES):
            return "again"
        return "away" if isinstance(error, psycopg.Error) and not isinstance(error, _WORKS_FAULT) else "work"

    def close(self) -> None:
        if self._raw:
            self._raw.close()
        self._raw = None


@contextlib.contextmanager
def _reading(raw: Raw) -> Generator[Connection]:
    raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        yield PostgresConnection(raw)
    finally:
        with contextlib.suppress(psycopg.OperationalError):
            raw.execute("ROLLBACK")


def _used(connection: Connection) -> int:
    # Not the size of the tables: room that is free inside of them is still part of that.
    [[size]] = connection.fetch("SELECT coalesce(sum(octet_length(body)), 0) FROM blocks")
    [[spans]] = connection.fetch("SELECT count(*) FROM span_index")
    return int(size) + spans * ROW_BYTES


def _reclaim(url: str, name: str) -> None:
    """Make the room of deleted rows free for new ones; only what is free at the end goes back to the disk."""
    try:
        with contextlib.closing(connect(url)) as raw:
            tables = raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (SCHEMA,)).fetchall()
            for [table] in tables:
                raw.execute(sql.SQL("VACUUM {}").format(sql.Identifier(table)))
    except psycopg.OperationalError as error:
        raise UnavailableError(f"{name} cannot be vacuumed: {line(error)}; try again") from error


def _remedy(error: psycopg.Error) -> str:
    if isinstance(error, _OTHER_TABLES):
        return (
            f"its schema {SCHEMA} has other tables than its version says: restore it from a backup, drop it, or give "
            "the URL of another database"
        )
    return "give the URL of a database that can be written"


def _prepare(raw: Raw, name: str) -> None:
    """Make or upgrade the tables, one replica at a time."""
    raw.execute("BEGIN")
    raw.execute(_TAKE_TURNS)
    raw.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
    raw.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = raw.execute("SELECT version FROM schema_version").fetchone()
    version = row[0] if row else 0
    refuse_newer(name, version)
    if version < VERSION:
        migrate(PostgresConnection(raw), version, POSTGRES)
        # Blocks are packed already: trying again would cost time and win nothing.
        raw.execute("ALTER TABLE blocks ALTER COLUMN body SET STORAGE EXTERNAL")
        raw.execute("DELETE FROM schema_version")
        raw.execute("INSERT INTO schema_version VALUES (%s)", (VERSION,))
    raw.execute("SELECT 1 FROM blocks LIMIT 0")
    raw.execute("COMMIT")
    if raw.execute("SHOW fsync").fetchone() == ("off",):
        _log.warning("%s runs with fsync = off: what is acknowledged is lost in a power cut", name)
