"""Which store: PostgreSQL where a database is named, else the file in the data directory."""

from pathlib import Path

from nexrl.errors import ConfigError
from nexrl_ingest.store import Store
from nexrl_ingest.store.embedded import EmbeddedStore

SCHEMES = ("postgresql://", "postgres://")


def open_store(data: Path, database: str | None) -> Store:
    """Open the store; raises ConfigError where it cannot be, without ever naming a password."""
    if not database:
        return EmbeddedStore(data)
    if not database.startswith(SCHEMES):
        raise ConfigError("--database: not a PostgreSQL URL; give postgresql://USER:PASSWORD@HOST:PORT/NAME")
    try:
        from nexrl_ingest.store.postgres import PostgresStore
    except ImportError as error:
        raise ConfigError(f"--database needs psycopg ({error}): pip install 'nexrl[postgres]'") from error
    return PostgresStore(database)
