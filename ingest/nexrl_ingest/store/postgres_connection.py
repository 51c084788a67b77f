"""One connection to PostgreSQL: how it is made, how SQL is said to it, and what it is called without its password."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import conninfo

from nexrl.errors import ConfigError
from nexrl_ingest.refusals import RefusedError
from nexrl_ingest.store.bodies import TableBodies
from nexrl_ingest.store.connection import Row, Value

Raw = psycopg.Connection[tuple[Any, ...]]
SCHEMA = "nexrl_ingest"
PATIENCE_S = 20
"""How long a replica waits for another's transaction and for a silent network, and may stand idle in its own."""
CONNECT_S = 5


class PostgresConnection:
    """A connection to PostgreSQL."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.bodies = TableBodies(self)

    def execute(self, query: str, parameters: Sequence[Value] = ()) -> int:
        return self._run(query, parameters).rowcount

    def executemany(self, query: str, rows: Iterable[Sequence[Value]]) -> int:
        given = [_values(row) for row in rows]
        if not given:
            return 0
        cursor = self.raw.cursor()
        cursor.executemany(_translated(query), given)
        return cursor.rowcount

    def fetch(self, query: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return self._run(query, parameters).fetchall()

    def fetch_one(self, query: str, parameters: Sequence[Value] = ()) -> Row | None:
        return self._run(query, parameters).fetchone()

    def _run(self, query: str, parameters: Sequence[Value]) -> psycopg.Cursor[tuple[Any, ...]]:
        return self.raw.execute(_translated(query), _values(parameters), binary=True)


def connect(url: str) -> Raw:
    # Transactions are begun by hand, as in the embedded store.
    raw = psycopg.connect(
        url,
        autocommit=True,
        application_name="nexrl-ingest",
        connect_timeout=CONNECT_S,
        tcp_user_timeout=PATIENCE_S * 1000,
    )
    settings = {
        "search_path": SCHEMA,
        "lock_timeout": f"{PATIENCE_S}s",
        "idle_in_transaction_session_timeout": f"{PATIENCE_S}s",
    }
    for name, value in settings.items():
        raw.execute("SELECT set_config(%s, %s, false)", (name, value))
    # A server may be configured to acknowledge before it is durable.
    raw.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    return raw


def alive(raw: Raw) -> bool:
    """Whether the server still answers on an idle connection: a restart is noticed before work is lost to it."""
    try:
        raw.execute("")
    except psycopg.OperationalError:
        return False
    return True


def where(url: str) -> str:
    """Name a database without its password; raises ConfigError for what is no PostgreSQL URL."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        # The error may quote the password.
        raise ConfigError("--database: not a PostgreSQL URL; give postgresql://USER:PASSWORD@HOST:PORT/NAME") from None
    host, port = parts.get("host") or "localhost", parts.get("port") or 5432
    return f"PostgreSQL database {parts.get('dbname') or parts.get('user') or 'default'!r} at {host}:{port}"


def line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


@lru_cache(maxsize=1000)
def _translated(query: str) -> bytes:
    return query.replace("%", "%%").replace("?", "%s").encode()


def _values(parameters: Sequence[Value]) -> list[Value]:
    """Return what PostgreSQL stores: truth values are numbers, and no text holds a NUL."""
    for value in parameters:
        if isinstance(value, str) and "\0" in value:
            raise RefusedError(f"{value[:80]!r} holds a NUL character, which PostgreSQL cannot store; send it without")
    return [int(value) if value is True or value is False else value for value in parameters]
