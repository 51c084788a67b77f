"""The tables, by version: forward migrations in order, the same for SQLite and PostgreSQL.

A released version is never edited: what changes is a new version at the end of the list. A database of an older version
is upgraded when it is opened, one of a newer NexRL is refused. Names in braces are the backend's types; a semicolon
ends a statement and stands nowhere else.
"""

import time
from itertools import chain

from nexrl.errors import ConfigError
from nexrl_ingest.store.connection import Connection
from nexrl_ingest.store.dialects import Types
from nexrl_ingest.store.upgrading import Upgrade, bodies_to_segments, spans_to_blocks

_VERSION_1 = """
CREATE TABLE spans (seq {serial}, trace_id {blob} NOT NULL, span_id {blob} NOT NULL, session TEXT, is_call {integer}
    NOT NULL, body {blob} NOT NULL, UNIQUE (trace_id, span_id));
CREATE INDEX spans_by_session ON spans (session, is_call);
CREATE TABLE groups (seq {serial}, id TEXT NOT NULL UNIQUE, run TEXT NOT NULL, mode TEXT NOT NULL, size {integer}
    NOT NULL, body {blob} NOT NULL, ready {integer}, done {integer} NOT NULL DEFAULT 0);
CREATE INDEX groups_by_run ON groups (run, done, ready);
CREATE TABLE attempts (seq {serial}, id TEXT NOT NULL UNIQUE, group_id TEXT NOT NULL, rollout {integer} NOT NULL);
CREATE INDEX attempts_by_group ON attempts (group_id, rollout);
CREATE TABLE outcomes (seq {serial}, attempt TEXT NOT NULL UNIQUE, final {integer} NOT NULL, body {blob} NOT NULL);
CREATE TABLE rewards (seq {serial}, session TEXT NOT NULL, name TEXT NOT NULL, value {real} NOT NULL, call TEXT, by
    TEXT NOT NULL, at_ns {integer} NOT NULL);
CREATE INDEX rewards_by_session ON rewards (session);
CREATE TABLE leases (seq {serial}, id TEXT NOT NULL UNIQUE, group_id TEXT NOT NULL, run TEXT NOT NULL, state TEXT
    NOT NULL, expires_ns {integer} NOT NULL);
CREATE INDEX leases_by_group ON leases (group_id, state);
CREATE INDEX leases_by_run ON leases (run, state);
"""
_VERSION_2 = """
-- When a session was first and last heard of: what is listed, and what retention goes by.
CREATE TABLE sessions (seq {serial}, id TEXT NOT NULL UNIQUE, first_ns {integer} NOT NULL, last_ns {integer} NOT
    NULL);
CREATE INDEX sessions_by_age ON sessions (last_ns);
INSERT INTO sessions (id, first_ns, last_ns) SELECT session, {now_ns}, {now_ns} FROM spans WHERE session IS NOT NULL
    GROUP BY session ORDER BY min(seq);
ALTER TABLE spans ADD COLUMN at_ns {integer} NOT NULL DEFAULT 0;
"""
_VERSION_3 = """
-- When a rollout became final: rules count from there.
ALTER TABLE outcomes ADD COLUMN at_ns {integer} NOT NULL DEFAULT 0;
ALTER TABLE rewards ADD COLUMN given_id TEXT;
ALTER TABLE rewards ADD COLUMN explanation TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX rewards_by_given_id ON rewards (session, given_id);
ALTER TABLE leases ADD COLUMN request TEXT;
CREATE INDEX leases_by_request ON leases (run, request);
-- What rules dropped: whole groups (rollout -1) and single rollouts, each with its reason.
CREATE TABLE drops (seq {serial}, run TEXT NOT NULL, group_id TEXT NOT NULL, rollout {integer} NOT NULL, reason TEXT
    NOT NULL, UNIQUE (group_id, rollout));
CREATE INDEX drops_by_run ON drops (run, reason);
CREATE TABLE rules (run TEXT PRIMARY KEY, body {blob} NOT NULL);
-- What assembly said of a session when `arrived` of its calls were here, and its oldest weight version.
CREATE TABLE measures (session TEXT PRIMARY KEY, arrived {integer} NOT NULL, sequences {integer} NOT NULL, calls
    {integer} NOT NULL, tokens {integer} NOT NULL, trained {integer} NOT NULL, drifted {integer} NOT NULL, oldest
    {integer});
-- Sessions nobody planned, once somebody asked for them, and the key by which they form groups.
CREATE TABLE externals (session TEXT PRIMARY KEY, group_key TEXT);
"""
_VERSION_4 = """
-- Judgements that came before the span they point to.
CREATE TABLE judgements (seq {serial}, id TEXT NOT NULL UNIQUE, trace_id {blob} NOT NULL, body {blob} NOT NULL);
CREATE INDEX judgements_by_trace ON judgements (trace_id);
-- The last span that another OTLP endpoint has taken.
CREATE TABLE forwarding (target TEXT PRIMARY KEY, seq {integer} NOT NULL);
"""
_VERSION_5_TABLES = """
-- Spans in blocks, many together, with an index in which neighbours in time are neighbours.
CREATE TABLE blocks (seq {serial}, spans {integer} NOT NULL, body {blob} NOT NULL);
CREATE TABLE span_index (seq {serial}, session {integer} NOT NULL, is_call {integer} NOT NULL, trace_id {blob} NOT
    NULL, span_id {blob} NOT NULL, at_ns {integer} NOT NULL, block {integer} NOT NULL, place {integer} NOT NULL,
    UNIQUE (session, is_call, trace_id, span_id));
CREATE INDEX span_index_by_block ON span_index (block);
-- The sessions that have spans of a trace, 0 stands for spans that name none.
CREATE TABLE traces (trace_id {blob} NOT NULL, session {integer} NOT NULL, PRIMARY KEY (trace_id, session));
"""
_VERSION_5_VIEW = """
DROP TABLE spans;
CREATE VIEW spans AS SELECT span_index.seq AS seq, trace_id, span_id, span_index.session AS session_seq, sessions.id AS
    session, is_call, at_ns, block, place FROM span_index LEFT JOIN sessions ON sessions.seq = span_index.session;
"""
_VERSION_6 = """
-- When a judgement came: one whose span never does is forgotten in the end.
ALTER TABLE judgements ADD COLUMN at_ns {integer} NOT NULL DEFAULT 0;
UPDATE judgements SET at_ns = {now_ns};
"""
_VERSION_7 = """
-- Words about sessions: of one name the latest counts.
CREATE TABLE tags (session TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (session, name));
-- Sessions that have feedback of a name are found from their rewards.
CREATE INDEX rewards_by_name ON rewards (name, session);
"""
MIGRATIONS: list[list[str | Upgrade]] = [
    [_VERSION_1],
    [_VERSION_2],
    [_VERSION_3],
    [_VERSION_4],
    [_VERSION_5_TABLES, spans_to_blocks, _VERSION_5_VIEW],
    [_VERSION_6, bodies_to_segments],
    [_VERSION_7],
]
VERSION = len(MIGRATIONS)


def migrate(connection: Connection, version: int, types: Types) -> None:
    """Bring tables of `version` (0: there are none) to this NexRL's."""
    words = types._asdict() | {"now_ns": time.time_ns()}
    for step in chain.from_iterable(MIGRATIONS[version:]):
        if callable(step):
            step(connection, types)
            continue
        for statement in step.split(";")[:-1]:
            connection.execute(statement.format_map(words))


def refuse_newer(where: str, version: int) -> None:
    if version > VERSION:
        raise ConfigError(f"{where} has schema version {version}, this NexRL knows {VERSION}: install a newer NexRL")


def refuse_older(where: str, version: int) -> None:
    if version < VERSION:
        raise ConfigError(
            f"{where} has schema version {version}, this NexRL reads {VERSION}: start `nexrl ingest` on it once"
        )
