"""Databases of other versions: older ones are upgraded when they are opened, newer ones are refused."""

import sqlite3
from contextlib import closing
from itertools import chain
from pathlib import Path

import psycopg
import pytest
import zstandard
from ingest_world import call, group, request_of
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from nexrl.errors import ConfigError
from nexrl.records import encode
from nexrl.spans import span_of
from nexrl_ingest.groups import ledger
from nexrl_ingest.otlp.spans import batch
from nexrl_ingest.span_log import append, calls_of, spans_at
from nexrl_ingest.store import Connection
from nexrl_ingest.store.dialects import POSTGRES, SQLITE, Types
from nexrl_ingest.store.embedded import FILE, EmbeddedStore, read_only
from nexrl_ingest.store.postgres import PostgresStore
from nexrl_ingest.store.postgres_connection import PostgresConnection
from nexrl_ingest.store.schema import MIGRATIONS, VERSION
from nexrl_ingest.store.segments import Segments
from nexrl_ingest.store.sqlite_connection import SqliteConnection

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
ORIGIN = ResourceSpans(schema_url="https://example.org/1", scope_spans=[ScopeSpans(schema_url="https://example.org/2")])


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


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


def of_version_4(connection: Connection, types: Types, *calls) -> None:
    """Make the tables of version 4, in which each span was stored by itself, with its origin in a field of its own."""
    words = types._asdict() | {"now_ns": 1}
    for script in chain.from_iterable(MIGRATIONS[:4]):
        for statement in script.split(";")[:-1]:
            connection.execute(statement.format_map(words))
    for number, item in enumerate(calls):
        origin = ORIGIN.SerializeToString()
        in_field_1000 = b"\xc2\x3e" + bytes((len(origin),)) + origin
        body = span_of(item, prompt_tokens=1).SerializeToString() + in_field_1000
        connection.execute(
            "INSERT INTO spans (seq, trace_id, span_id, session, is_call, body, at_ns) VALUES (?, ?, ?, ?, 1, ?, ?)",
            (2 * number + 1, b"t" * 16, bytes.fromhex(item.id), item.session, zstd(body), number),
        )
        query = "INSERT INTO sessions (id, first_ns, last_ns) VALUES (?, 1, 1) ON CONFLICT DO NOTHING"
        connection.execute(query, (item.session,))
    query = "INSERT INTO spans (seq, trace_id, span_id, is_call, body) VALUES (700, ?, ?, 0, ?)"
    connection.execute(query, (b"", b"", b""))
    connection.execute("DELETE FROM spans WHERE seq = 700")


def sqlite_of_version_4(directory: Path, *calls) -> EmbeddedStore:
    directory.mkdir()
    with closing(sqlite3.connect(directory / FILE)) as raw:
        of_version_4(SqliteConnection(raw, Segments(directory / "blocks")), SQLITE, *calls)
        raw.execute("PRAGMA user_version = 4")
        raw.commit()
    return EmbeddedStore(directory)


def postgres_of_version_4(url: str, *calls) -> PostgresStore:
    with psycopg.connect(url) as raw:
        for statement in ("CREATE SCHEMA nexrl_ingest", "SET search_path TO nexrl_ingest"):
            raw.execute(statement)
        of_version_4(PostgresConnection(raw), POSTGRES, *calls)
        raw.execute("ALTER TABLE spans ALTER COLUMN seq RESTART WITH 701")
        raw.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        raw.execute("INSERT INTO schema_version VALUES (4)")
    return PostgresStore(url)


@pytest.mark.parametrize("kind", ["embedded", "postgres"])
async def test_spans_of_version_4_move_into_blocks_under_their_numbers(kind, tmp_path, request):
    sent = [call([number], [number], session=f"session-{number % 2}") for number in range(130)]
    if kind == "embedded":
        store = sqlite_of_version_4(tmp_path / "old", *sent)
    else:
        store = postgres_of_version_4(request.getfixturevalue("postgres").new_database(), *sent)
    for number in range(2):
        found = await store.read(lambda connection, number=number: calls_of(connection, f"session-{number}"))
        assert found == sent[number::2]

    def origins(connection: Connection) -> list[ResourceSpans]:
        places = connection.fetch("SELECT block, place FROM spans ORDER BY seq")
        return [found.origin() for found in spans_at(connection, places)]

    assert await store.read(origins) == [ORIGIN] * len(sent)
    seqs = await store.read(lambda connection: connection.fetch("SELECT seq, at_ns FROM spans ORDER BY seq"))
    assert seqs == [(2 * number + 1, number) for number in range(130)]
    [block] = batch(request_of(call([1], [2])), None).blocks
    await store.write(lambda connection: append(connection, block, 1))
    [[last]] = await store.read(lambda connection: connection.fetch("SELECT max(seq) FROM spans"))
    assert last > 700  # never again the number of a span that somebody may have seen
    store.close()


def test_a_file_of_a_newer_nexrl_is_refused(tmp_path):
    EmbeddedStore(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as raw:
        raw.execute("PRAGMA user_version = 700")
    with pytest.raises(ConfigError, match=f"{FILE} has schema version 700, this NexRL knows {VERSION}"):
        EmbeddedStore(tmp_path)
    with pytest.raises(ConfigError, match="install a newer NexRL"), read_only(tmp_path / FILE):
        pass


def test_a_file_that_is_no_database_is_refused_with_the_remedy(tmp_path):
    (tmp_path / FILE).write_text("no database at all, but something else that is long enough")
    with pytest.raises(ConfigError, match=f"file is not a database; restore {FILE} from a backup, move it away"):
        EmbeddedStore(tmp_path)


@pytest.mark.parametrize(("version", "reason"), [(0, "table sessions already exists"), (VERSION, "no such table")])
def test_a_file_whose_version_is_not_that_of_its_tables_is_refused_with_the_remedy(tmp_path, version, reason):
    with closing(sqlite3.connect(tmp_path / FILE)) as raw:
        raw.executescript(f"CREATE TABLE sessions (id); PRAGMA user_version = {version};")
    with pytest.raises(ConfigError, match=f"{reason}.*other tables than its schema version says: restore it or give"):
        EmbeddedStore(tmp_path)


def test_a_directory_that_cannot_be_one_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="give a directory that can be written"):
        EmbeddedStore(tmp_path / "file")


def test_an_older_file_is_refused_where_it_is_only_read(tmp_path):
    path = of_version_1(tmp_path / "old") / FILE
    with pytest.raises(ConfigError, match=r"has schema version 1.*start `nexrl ingest` on it once"), read_only(path):
        pass


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DELETE FROM schema_version", 'relation "[a-z_]+" already exists'),
        ("DROP TABLE blocks CASCADE", "does not exist"),
    ],
    ids=["no version", "no table"],
)
def test_a_database_whose_version_is_not_that_of_its_tables_is_refused_with_the_remedy(postgres, change, reason):
    url = postgres.new_database()
    PostgresStore(url).close()
    with psycopg.connect(url) as raw:
        raw.execute("SET search_path TO nexrl_ingest")
        raw.execute(change)
    with pytest.raises(
        ConfigError, match=f"PostgreSQL database.*{reason}.*other tables than its version says: .*drop it"
    ):
        PostgresStore(url)


def test_a_database_of_a_newer_nexrl_is_refused(postgres):
    url = postgres.new_database()
    PostgresStore(url).close()
    PostgresStore(url).close()
    with psycopg.connect(url) as raw:
        assert raw.execute("UPDATE nexrl_ingest.schema_version SET version = version + 600").rowcount == 1
    with pytest.raises(ConfigError, match=f"PostgreSQL database.*knows {VERSION}: install a newer NexRL"):
        PostgresStore(url)
