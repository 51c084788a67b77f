"""The tables, and how a database file is opened.

Tables only grow by a new version: a file of an older version is upgraded when it is opened, a newer one is refused.
"""

import sqlite3
from pathlib import Path

from nexrl.errors import ConfigError

VERSION = 1
_TABLES = """
CREATE TABLE spans (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, trace_id BLOB NOT NULL, span_id BLOB NOT NULL, session TEXT,
    is_call INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (trace_id, span_id)
);
CREATE INDEX spans_by_session ON spans (session, is_call);
CREATE TABLE groups (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, run TEXT NOT NULL, mode TEXT NOT NULL,
    size INTEGER NOT NULL, body BLOB NOT NULL, ready INTEGER, done INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX groups_by_run ON groups (run, done, ready);
CREATE TABLE attempts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, group_id TEXT NOT NULL, rollout INTEGER NOT NULL
);
CREATE INDEX attempts_by_group ON attempts (group_id, rollout);
CREATE TABLE outcomes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, attempt TEXT NOT NULL UNIQUE, final INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE rewards (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL,
    call TEXT, by TEXT NOT NULL, at_ns INTEGER NOT NULL
);
CREATE INDEX rewards_by_session ON rewards (session);
CREATE TABLE leases (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, group_id TEXT NOT NULL, run TEXT NOT NULL,
    state TEXT NOT NULL, expires_ns INTEGER NOT NULL
);
CREATE INDEX leases_by_group ON leases (group_id, state);
CREATE INDEX leases_by_run ON leases (run, state);
"""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file for reading and writing; every commit reaches the disk before it returns."""
    # Transactions are begun by hand: the module's own would begin them behind our back.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a file that a running ingest may be writing to; raises ConfigError where there is none to read."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the data directory of `nexrl ingest`, or a run directory")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30)
    try:
        known_version(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise ConfigError(f"{path}: {error}; is this the file of `nexrl ingest`?") from error
    except ConfigError:
        connection.close()
        raise
    return connection


def create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables where the file is new."""
    if known_version(connection, path) == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")


def known_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the file's schema version; raises ConfigError where it is newer than this NexRL."""
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise ConfigError(f"{path} has schema version {version}, this NexRL knows {VERSION}: install a newer NexRL")
    return version
