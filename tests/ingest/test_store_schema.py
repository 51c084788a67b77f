"""Databases of other versions: older ones are upgraded when they are opened, newer ones are refused."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import zstandard
from ingest_world import call, group

from nexrl.errors import ConfigError
from nexrl.records import encode
from nexrl.spans import span_of
from nexrl_ingest import ledger
from nexrl_ingest.span_log import calls_of
from nexrl_ingest.store.embedded import FILE, EmbeddedStore, read_only
from nexrl_ingest.store.postgres import PostgresStore
from nexrl_ingest.store.schema import VERSION

VERSION_1 = """
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
PRAGMA user_version = 1;
"""
"""As the first release made them."""


def of_version_1(directory: Path, *calls) -> Path:
    directory.mkdir()
    with closing(sqlite3.connect(directory / FILE)) as raw:
        raw.executescript(VERSION_1)
        for item in calls:
            span = span_of(item, prompt_tokens=1)
            body = zstandard.ZstdCompressor(level=1).compress(span.SerializeToString())
            row = (span.trace_id, span.span_id, item.session, body)
            raw.execute("INSERT INTO spans (trace_id, span_id, session, is_call, body) VALUES (?, ?, ?, 1, ?)", row)
        raw.execute(
            "INSERT INTO groups (id, run, mode, size, body) VALUES ('group-1', 'run-1', 'train', 2, ?)",
            (encode(group()),),
        )
        raw.commit()
    return directory


def tables(path: Path) -> dict[str, list[tuple]]:
    with closing(sqlite3.connect(path)) as raw:
        names = [name for [name] in raw.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")]
        return {name: raw.execute("SELECT name, type FROM pragma_table_xinfo(?)", (name,)).fetchall() for name in names}


async def test_a_file_of_version_1_is_upgraded_with_everything_in_it(tmp_path):
    sent = [call([1], [2]), call([3], [4], session="session-2"), call([5], [6])]
    store = EmbeddedStore(of_version_1(tmp_path / "old", *sent))
    assert await store.read(lambda connection: calls_of(connection, "session-1")) == [sent[0], sent[2]]
    known = await store.read(lambda connection: connection.fetch("SELECT id FROM sessions ORDER BY seq"))
    assert known == [("session-1",), ("session-2",)]
    await store.write(lambda connection: ledger.put_group(connection, group()))
    store.close()


def test_an_upgraded_file_has_the_tables_of_a_new_one(tmp_path):
    EmbeddedStore(of_version_1(tmp_path / "old")).close()
    EmbeddedStore(tmp_path / "new").close()
    assert tables(tmp_path / "old" / FILE) == tables(tmp_path / "new" / FILE)


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(tmp_path):
    directory = of_version_1(tmp_path / "old")
    with closing(sqlite3.connect(directory / FILE)) as raw:
        raw.execute("CREATE TABLE sessions (in_the_way)")
    before = tables(directory / FILE)
    with pytest.raises(ConfigError, match="sessions already exists"):
        EmbeddedStore(directory)
    assert tables(directory / FILE) == before


def test_opening_a_current_file_again_changes_nothing(tmp_path):
    EmbeddedStore(tmp_path).close()
    before = tables(tmp_path / FILE)
    EmbeddedStore(tmp_path).close()
    assert tables(tmp_path / FILE) == before


def test_a_file_of_a_newer_nexrl_is_refused(tmp_path):
    EmbeddedStore(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as raw:
        raw.execute("PRAGMA user_version = 700")
    with pytest.raises(ConfigError, match=f"{FILE} has schema version 700, this NexRL knows {VERSION}"):
        EmbeddedStore(tmp_path)
    with pytest.raises(ConfigError, match="install a newer NexRL"), read_only(tmp_path / FILE):
        pass


def test_an_older_file_is_refused_where_it_is_only_read(tmp_path):
    path = of_version_1(tmp_path / "old") / FILE
    with pytest.raises(ConfigError, match=r"has schema version 1.*start `nexrl ingest` on it once"), read_only(path):
        pass


def test_a_database_of_a_newer_nexrl_is_refused(postgres):
    url = postgres.new_database()
    PostgresStore(url).close()
    PostgresStore(url).close()
    with psycopg.connect(url) as raw:
        assert raw.execute("UPDATE nexrl_ingest.schema_version SET version = version + 600").rowcount == 1
    with pytest.raises(ConfigError, match=f"PostgreSQL database.*knows {VERSION}: install a newer NexRL"):
        PostgresStore(url)
