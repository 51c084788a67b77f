"""What happened, in order, read from the log: new calls, outcomes, rewards and leases after a cursor.

No queue and no copy: whoever watches reads rows from where they stopped, so that a restart loses nothing and a slow
reader costs no memory. With several replicas on one database an event may be missed that was committed late.
"""

import re
from typing import Any, NamedTuple

from nexrl.records import Outcome, decode
from nexrl_ingest.store import Connection

PER_READ = 200
"""Rows of each kind."""
_CURSOR = re.compile(r"(\d{1,18})\.(\d{1,18})\.(\d{1,18})\.(\d{1,18})")


class Cursor(NamedTuple):
    """The last row seen of each kind; written `12.5.3.8` in `id:` and `Last-Event-ID`."""

    calls: int = 0
    outcomes: int = 0
    rewards: int = 0
    leases: int = 0

    def __str__(self) -> str:
        return ".".join(map(str, self))


class Event(NamedTuple):
    """One thing that happened, and where to go on after it."""

    kind: str
    cursor: Cursor
    data: dict[str, Any]


def cursor_of(text: str) -> Cursor | None:
    """Read a cursor; None where it is none of ours."""
    match = _CURSOR.fullmatch(text)
    return Cursor(*map(int, match.groups())) if match else None


def now(connection: Connection) -> Cursor:
    """Return the cursor after which nothing happened yet."""
    tables = ("spans", "outcomes", "rewards", "leases")
    rows = [connection.fetch_one(f"SELECT coalesce(max(seq), 0) FROM {table}") for table in tables]  # noqa: S608
    return Cursor(*(row[0] for row in rows if row))


def after(connection: Connection, cursor: Cursor) -> tuple[list[Event], Cursor]:
    """Return what happened after a cursor, and the cursor to go on from."""
    found: list[Event] = []
    for kind, query, read in _KINDS:
        place = Cursor._fields.index(kind)
        for seq, *row in connection.fetch(query, (cursor[place], PER_READ)):
            cursor = cursor._replace(**{kind: seq})
            if (data := read(*row)) is not None:
                found.append(Event(kind.removesuffix("s"), cursor, data))
    return found, cursor


def _call(span_id: bytes, session: str | None, is_call: int) -> dict[str, Any] | None:
    return {"session": session, "call": bytes(span_id).hex()} if is_call else None


def _outcome(attempt: str, final: int, body: bytes, group: str | None, run: str | None) -> dict[str, Any]:
    outcome = decode(body, Outcome)
    return {
        "session": attempt,
        "group": group,
        "run": run,
        "status": outcome.status,
        "reason": outcome.reason,
        "final": bool(final),
    }


def _reward(session: str, name: str, value: float, call: str | None, by: str) -> dict[str, Any]:
    return {"session": session, "name": name, "value": value, "call": call, "by": by}


def _lease(group: str, run: str) -> dict[str, Any]:
    return {"group": group, "run": run}


_CALLS = "SELECT seq, span_id, session, is_call FROM spans WHERE seq > ? ORDER BY seq LIMIT ?"
_OUTCOMES = (
    "SELECT outcomes.seq, attempt, final, outcomes.body, groups.id, run FROM outcomes "
    "LEFT JOIN attempts ON attempts.id = attempt LEFT JOIN groups ON groups.id = attempts.group_id "
    "WHERE outcomes.seq > ? ORDER BY outcomes.seq LIMIT ?"
)
_REWARDS = "SELECT seq, session, name, value, call, by FROM rewards WHERE seq > ? ORDER BY seq LIMIT ?"
_LEASES = "SELECT seq, group_id, run FROM leases WHERE seq > ? ORDER BY seq LIMIT ?"
_KINDS = (
    ("calls", _CALLS, _call),
    ("outcomes", _OUTCOMES, _outcome),
    ("rewards", _REWARDS, _reward),
    ("leases", _LEASES, _lease),
)
