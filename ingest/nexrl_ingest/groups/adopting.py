"""Sessions that nobody planned, as groups: what agents in production did becomes something to learn from.

Such a session has no outcome; it is over once it made no call for a while. Each then becomes a group of its own, or,
where its spans carry the attribute `nexrl.group`, a rollout of the group of all with the same key.
"""

import time
from functools import partial

from nexrl import attributes as at
from nexrl.keys import EVAL
from nexrl.records import Attempt, Group, Outcome, Task
from nexrl.spans import attributes_of
from nexrl_ingest.groups import ledger
from nexrl_ingest.groups.rules import SECOND_NS
from nexrl_ingest.span_log import spans_at
from nexrl_ingest.store import Connection, Store
from nexrl_ingest.wire import External

UNATTRIBUTED = "unattributed"
"""What the proxy calls the session of everybody who said nothing: no session at all."""
AT_ONCE = 200
"""Sessions looked at per lease request."""
KEYED_SPANS = 20
"""The key stands on one of a session's first spans."""
# SQLite's LIKE folds case: an id that ends in `@EVAL` is left alone too.
_OVER = (
    f"sessions.last_ns <= ? AND sessions.id <> '{UNATTRIBUTED}' AND sessions.id NOT LIKE '%{EVAL}' "  # noqa: S608
    "AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.id = sessions.id) "
    "AND EXISTS (SELECT 1 FROM spans WHERE spans.session = sessions.id AND spans.is_call = 1)"
)
"""Sessions that can become rollouts; the parameter is the time before which they must have fallen silent."""
_KNOWN = "FROM sessions JOIN externals ON session = sessions.id WHERE"


async def adopt(store: Store, run: str, external: External) -> None:
    """Form the groups that can be formed by now."""
    before_ns = time.time_ns() - int(external.idle_s * SECOND_NS)
    await store.write(partial(_adopt, run=run, external=external, before_ns=before_ns))


def _adopt(connection: Connection, run: str, external: External, before_ns: int) -> None:
    _meet(connection, before_ns)
    if external.group == "session":
        for session in _over(connection, "", (), before_ns, AT_ONCE):
            _form(connection, run, session, [session])
        return
    full = (
        f"SELECT group_key {_KNOWN} group_key IS NOT NULL AND {_OVER} "
        f"GROUP BY group_key HAVING count(*) >= ? ORDER BY min(seq) LIMIT {AT_ONCE}"
    )
    for [key] in connection.fetch(full, (before_ns, external.size)):
        _form(connection, run, key, _over(connection, "group_key = ? AND", (key,), before_ns, external.size))


def _meet(connection: Connection, before_ns: int) -> None:
    """Read the keys of sessions that nobody asked for before: their spans are opened once."""
    new = (
        f"SELECT id FROM sessions WHERE {_OVER} AND NOT EXISTS "  # noqa: S608 - parts of our own
        f"(SELECT 1 FROM externals WHERE session = sessions.id) ORDER BY seq LIMIT {AT_ONCE}"
    )
    found = [(session, _key(connection, session)) for [session] in connection.fetch(new, (before_ns,))]
    connection.executemany("INSERT INTO externals (session, group_key) VALUES (?, ?)", found)


def _key(connection: Connection, session: str) -> str | None:
    query = "SELECT block, place FROM spans WHERE session = ? ORDER BY seq LIMIT ?"
    for found in spans_at(connection, connection.fetch(query, (session, KEYED_SPANS))):
        key = attributes_of(found.span).get(at.GROUP)
        if isinstance(key, str) and key and "\0" not in key:
            return key
    return None


def _over(connection: Connection, condition: str, parameters: tuple[str, ...], before_ns: int, limit: int) -> list[str]:
    """Return sessions that are over and belong to no group, the oldest first."""
    query = f"SELECT id {_KNOWN} {condition} {_OVER} ORDER BY seq LIMIT ?"
    return [session for [session] in connection.fetch(query, (*parameters, before_ns, limit))]


def _form(connection: Connection, run: str, key: str, sessions: list[str]) -> None:
    """Plan, in hindsight, what has happened already."""
    group = Group(id=f"{run}:{sessions[0]}", run=run, task=Task(id=key, fields={}), size=len(sessions))
    ledger.put_group(connection, group)
    for index, session in enumerate(sessions):
        ledger.put_attempt(connection, Attempt(id=session, group=group.id, rollout=index))
        ledger.put_outcome(connection, session, Outcome(status="completed"), time.time_ns())
