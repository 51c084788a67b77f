"""Where a judgement goes: the session and the call that it points to, now, or once their spans have arrived."""

import contextlib
from collections.abc import Collection

from msgspec import structs

from nexrl.records import Reward, decode, encode
from nexrl_ingest.groups import ledger
from nexrl_ingest.otlp.evaluations import Judgement
from nexrl_ingest.refusals import RefusedError, UnreadableError
from nexrl_ingest.span_log import OF_TRACE, calls_of
from nexrl_ingest.store import Connection


def give(connection: Connection, judgement: Judgement, now_ns: int) -> str | None:
    """Keep a judgement as a reward, or until its trace says whose; return why it cannot be, None where it is kept.

    One that names its session waits for nothing: the call it points to is looked for among those that are here.
    """
    session = judgement.session or _session_of(connection, judgement)
    if session is None:
        connection.execute(
            "INSERT INTO judgements (id, trace_id, body, at_ns) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (judgement.reward.id, judgement.trace_id, encode(judgement), now_ns),
        )
        return None
    reward = judgement.reward
    if connection.fetch_one("SELECT 1 FROM rewards WHERE session = ? AND given_id = ?", (session, reward.id)):
        return None  # delivered before; by now it may point to a call that had not arrived then
    try:
        ledger.put_reward(connection, session, _with_call(connection, judgement, session), now_ns)
    except RefusedError as error:
        return f"reward {reward.name!r}: {error}"
    return None


def settle(connection: Connection, traces: Collection[bytes], now_ns: int) -> None:
    """Give the judgements that waited for spans of these traces, as far as it is now known whose they are."""
    if not connection.fetch_one("SELECT 1 FROM judgements LIMIT 1"):
        return
    for trace in traces:
        for [seq, body] in connection.fetch("SELECT seq, body FROM judgements WHERE trace_id = ?", (trace,)):
            judgement = decode(body, Judgement)
            if _session_of(connection, judgement):
                give(connection, judgement, now_ns)
                connection.execute("DELETE FROM judgements WHERE seq = ?", (seq,))


def forget(connection: Connection, before_ns: int, limit: int) -> int:
    """Delete the oldest judgements whose spans never came; return how many."""
    query = "SELECT seq FROM judgements WHERE at_ns < ? ORDER BY seq LIMIT ?"
    return connection.executemany("DELETE FROM judgements WHERE seq = ?", connection.fetch(query, (before_ns, limit)))


def _session_of(connection: Connection, judgement: Judgement) -> str | None:
    """Return the session of the span that is judged, or else the only one of its trace; None where that is unknown."""
    if judgement.span_id:
        query = f"SELECT session FROM spans WHERE {OF_TRACE} AND span_id = ?"  # noqa: S608 - a condition of our own
        row = connection.fetch_one(query, (judgement.trace_id, judgement.trace_id, judgement.span_id))
        if row is None or row[0]:
            return row[0] if row else None
    query = f"SELECT DISTINCT session FROM spans WHERE {OF_TRACE} AND session IS NOT NULL LIMIT 2"  # noqa: S608
    found = connection.fetch(query, (judgement.trace_id, judgement.trace_id))
    return found[0][0] if len(found) == 1 else None


def _with_call(connection: Connection, judgement: Judgement, session: str) -> Reward:
    """Return the reward with the call it is about; the whole session is judged where that is not one call of it."""
    query = "SELECT 1 FROM spans WHERE session = ? AND is_call = 1 AND trace_id = ? AND span_id = ?"
    if connection.fetch_one(query, (session, judgement.trace_id, judgement.span_id)):
        return structs.replace(judgement.reward, call=judgement.span_id.hex())
    if judgement.response:
        # The whole session is judged, too, where it cannot be read.
        with contextlib.suppress(UnreadableError):
            ids = [call.id for call in calls_of(connection, session) if call.response == judgement.response]
            if len(ids) == 1:
                return structs.replace(judgement.reward, call=ids[0])
    return judgement.reward
