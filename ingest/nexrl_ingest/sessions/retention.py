"""Retention: forget the oldest sessions, by age and by the size of the store.

A planned session is forgotten with its whole group, and only once that is done with: acked, dropped, or a complete
evaluation. Everything else goes by itself. Little by little, so that writers wait for none of it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import NamedTuple

from aiohttp import web

from nexrl.errors import ConfigError
from nexrl_ingest import span_log
from nexrl_ingest.refusals import RefusedError
from nexrl_ingest.sessions import judging
from nexrl_ingest.store import Connection, Store

EVERY_S = 60.0
SESSIONS_AT_ONCE = 50
LOOSE_AT_ONCE = 500
_EVER = 2**62
DAY_NS = 86_400 * 1_000_000_000
GB = 1_000_000_000
_log = logging.getLogger(__name__)
_OLDEST = (
    "SELECT sessions.id, attempts.group_id, sessions.last_ns FROM sessions "
    "LEFT JOIN attempts ON attempts.id = sessions.id WHERE sessions.last_ns < ? AND (attempts.id IS NULL OR "
    "(EXISTS (SELECT 1 FROM groups WHERE groups.id = attempts.group_id "
    "AND (done = 1 OR (mode = 'eval' AND ready IS NOT NULL))) "
    "AND NOT EXISTS (SELECT 1 FROM attempts AS others JOIN sessions AS theirs ON theirs.id = others.id "
    "WHERE others.group_id = attempts.group_id AND theirs.last_ns >= ?))) ORDER BY sessions.last_ns LIMIT ?"
)
_OF_A_SESSION = {
    "rewards": "session",
    "tags": "session",
    "measures": "session",
    "externals": "session",
    "outcomes": "attempt",
    "attempts": "id",
}
"""The tables that speak of a session besides its own and its spans, and the column that names it."""
_OF_A_GROUP = {"leases": "group_id", "drops": "group_id", "groups": "id"}


class Limits(NamedTuple):
    """What is kept; None sets no limit."""

    age_ns: int | None = None
    size: int | None = None
    """Bytes."""


def limits_of(keep_days: float | None, keep_gb: float | None) -> Limits:
    """Return the limits flags ask for; raises ConfigError where nothing could be kept."""
    for flag, value in (("--keep-days", keep_days), ("--keep-gb", keep_gb)):
        if value is not None and value <= 0:
            raise ConfigError(f"{flag} {value:g}: nothing would be kept; give more than 0, or leave it out to keep all")
    return Limits(
        age_ns=None if keep_days is None else int(keep_days * DAY_NS),
        size=None if keep_gb is None else int(keep_gb * GB),
    )


def background(store: Store, limits: Limits) -> Callable[[web.Application], AsyncGenerator[None]]:
    """Return a cleanup context that keeps the store within its limits for as long as the server runs."""

    async def running(_: web.Application) -> AsyncGenerator[None]:
        task = asyncio.create_task(_watch(store, limits))
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return running


async def keep_within(store: Store, limits: Limits, now_ns: int) -> int:
    """Forget what is too old, then the oldest until the rest fits.

    Returns how many sessions, loose spans and judgements went.
    """
    gone = 0
    if limits.age_ns is not None:
        while removed := await store.write(partial(forget, before_ns=now_ns - limits.age_ns)):
            gone += removed
    if limits.size is not None:
        while await store.size() > limits.size:
            removed = await store.write(partial(forget, before_ns=now_ns))
            if not removed:
                break
            gone += removed
    if gone:
        await store.reclaim()
    return gone


def forget(connection: Connection, before_ns: int) -> int:
    """Delete some of the oldest sessions of which nothing came since; return how many, 0 where none is left.

    Spans that name no session, and judgements whose spans never came, go with the sessions of their time.
    """
    found = connection.fetch(_OLDEST, (before_ns, before_ns, SESSIONS_AT_ONCE))
    groups = sorted({group for _, group, _ in found if group is not None})
    lone = {
        session: seq
        for session, group, _ in found
        if group is None and (seq := _deleted(connection, session, before_ns)) is not None
    }
    members = {
        id_: _deleted(connection, id_, None) for group in groups for [id_] in connection.fetch(_MEMBERS, (group,))
    }
    span_log.forget(connection, [seq for seq in (*lone.values(), *members.values()) if seq is not None])
    _delete(connection, _OF_A_SESSION, [*lone, *members])
    _delete(connection, _OF_A_GROUP, groups)
    until_ns = max((last_ns for _, _, last_ns in found), default=before_ns)
    loose = span_log.forget_loose(connection, until_ns, LOOSE_AT_ONCE)
    return len(found) + loose + judging.forget(connection, until_ns, LOOSE_AT_ONCE)


_MEMBERS = "SELECT id FROM attempts WHERE group_id = ?"


def _delete(connection: Connection, tables: dict[str, str], ids: Iterable[str]) -> None:
    rows = [(id_,) for id_ in ids]
    for table, column in tables.items():
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", rows)  # noqa: S608 - names of our own


def _deleted(connection: Connection, session: str, before_ns: int | None) -> int | None:
    """Delete a session's row, and return its number; None where there is none, or something came for it since.

    It goes first: another replica that is just storing a span for the session waits, or was quicker.
    """
    query = "DELETE FROM sessions WHERE id = ? AND last_ns < ? RETURNING seq"
    rows = connection.fetch(query, (session, _EVER if before_ns is None else before_ns))
    return rows[0][0] if rows else None


async def _watch(store: Store, limits: Limits) -> None:
    while True:
        try:
            if gone := await keep_within(store, limits, time.time_ns()):
                _log.info("retention: forgot %d sessions, loose spans and judgements", gone)
        except RefusedError as error:
            _log.warning("retention: %s", error)
        await asyncio.sleep(EVERY_S)
