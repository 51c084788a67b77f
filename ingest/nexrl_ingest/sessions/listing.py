"""Sessions as a list: those that have spans, the latest first, a page at a time."""

from nexrl_ingest.groups import ledger
from nexrl_ingest.span_log import count_calls
from nexrl_ingest.store import Connection
from nexrl_ingest.wire import SessionPage, SessionsQuery, SessionSummary

ROWS = 200
_LAST = 2**62
_SESSIONS = (
    "SELECT sessions.seq, sessions.id, groups.run, groups.id FROM sessions "
    "LEFT JOIN attempts ON attempts.id = sessions.id LEFT JOIN groups ON groups.id = attempts.group_id "
    "WHERE sessions.seq < ? AND sessions.last_ns >= ? "
    "AND EXISTS (SELECT 1 FROM span_index WHERE span_index.session = sessions.seq)"
)


def sessions(connection: Connection, query: SessionsQuery) -> SessionPage:
    """Return the sessions that a query asks for, in the order in which they were first heard of, the latest first."""
    found: list[SessionSummary] = []
    chosen = [pair for pair in (("groups.run", query.run), ("sessions.id", query.session)) if pair[1] is not None]
    conditions, parameters = "".join(f" AND {name} = ?" for name, _ in chosen), [value for _, value in chosen]
    before = query.before or _LAST
    while rows := connection.fetch(
        f"{_SESSIONS}{conditions} ORDER BY sessions.seq DESC LIMIT ?", (before, query.since or 0, *parameters, ROWS)
    ):
        for seq, session, run, group in rows:
            before = seq
            summary = _summary(connection, session, run, group)
            if query.status in {None, summary.status}:
                found.append(summary)
            if len(found) == query.limit:
                return SessionPage(sessions=found, next=before)
    return SessionPage(sessions=found, next=None)


def _summary(connection: Connection, session: str, run: str | None, group: str | None) -> SessionSummary:
    outcome = ledger.outcome_of(connection, session)
    return SessionSummary(
        session=session,
        run=run,
        group=group,
        status=outcome.status if outcome else "open",
        reason=outcome.reason if outcome else "",
        calls=count_calls(connection, session),
        rewards=ledger.named(ledger.rewards_of(connection, session)),
        tags=ledger.tags_of(connection, session),
    )
