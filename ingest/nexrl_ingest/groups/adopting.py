"""Sessions that nobody planned, as groups: what agents in production did becomes something to learn from.

Such a session has no outcome; which are over and have their feedback is for `unplanned.py` to say. Each then becomes a
group of its own, or, where its spans carry the attribute `nexrl.group`, a rollout of the group of all with the same
key. What a rollout is worth is whoever leases it to say.
"""

import time
from functools import partial

from nexrl import attributes as at
from nexrl.records import Attempt, Group, Outcome, Task
from nexrl.spans import attributes_of
from nexrl_ingest.groups import ledger
from nexrl_ingest.groups.external import External
from nexrl_ingest.groups.unplanned import Query, ready
from nexrl_ingest.span_log import spans_at
from nexrl_ingest.store import Connection, Store

AT_ONCE = 200
"""Sessions looked at per lease request."""
KEYED_SPANS = 20
"""The key stands on one of a session's first spans."""


async def adopt(store: Store, run: str, external: External) -> None:
    """Form the groups that can be formed by now."""
    await store.write(partial(_adopt, run=run, external=external, now_ns=time.time_ns()))


def _adopt(connection: Connection, run: str, external: External, now_ns: int) -> None:
    found = ready(external, now_ns)
    if external.group == "session":
        query = f"SELECT id FROM ({found.text}) AS found ORDER BY seq LIMIT ?"  # noqa: S608 - parts of our own
        for [session] in connection.fetch(query, (*found.parameters, AT_ONCE)):
            _form(connection, run, session, [session], now_ns)
        return
    _meet(connection, found)
    known = f"FROM ({found.text}) AS found JOIN externals ON externals.session = found.id WHERE group_key"
    full = f"SELECT group_key {known} IS NOT NULL GROUP BY group_key HAVING count(*) >= ? ORDER BY min(seq) LIMIT ?"
    members = f"SELECT id {known} = ? ORDER BY seq LIMIT ?"
    for [key] in connection.fetch(full, (*found.parameters, external.size, AT_ONCE)):
        sessions = connection.fetch(members, (*found.parameters, key, external.size))
        _form(connection, run, key, [session for [session] in sessions], now_ns)


def _meet(connection: Connection, found: Query) -> None:
    """Read the keys of sessions that nobody asked for before: their spans are opened once."""
    new = (
        f"SELECT id FROM ({found.text}) AS found WHERE NOT EXISTS "  # noqa: S608 - parts of our own
        "(SELECT 1 FROM externals WHERE externals.session = found.id) ORDER BY seq LIMIT ?"
    )
    keys = [(id_, _key(connection, id_)) for [id_] in connection.fetch(new, (*found.parameters, AT_ONCE))]
    connection.executemany("INSERT INTO externals (session, group_key) VALUES (?, ?)", keys)


def _key(connection: Connection, session: str) -> str | None:
    query = "SELECT block, place FROM spans WHERE session = ? ORDER BY seq LIMIT ?"
    for found in spans_at(connection, connection.fetch(query, (session, KEYED_SPANS))):
        key = attributes_of(found.span).get(at.GROUP)
        if isinstance(key, str) and key and "\0" not in key:
            return key
    return None


def _form(connection: Connection, run: str, key: str, sessions: list[str], now_ns: int) -> None:
    """Plan, in hindsight, what has happened already."""
    group = Group(id=f"{run}:{sessions[0]}", run=run, task=Task(id=key, fields={}), size=len(sessions))
    ledger.put_group(connection, group)
    for index, session in enumerate(sessions):
        ledger.put_attempt(connection, Attempt(id=session, group=group.id, rollout=index))
        ledger.put_outcome(connection, session, Outcome(status="completed"), now_ns)
