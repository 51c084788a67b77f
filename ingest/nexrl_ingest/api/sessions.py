"""Sessions as they were captured: a list, and each one's calls, chains, drift and sequences."""

from typing import Any

from nexrl.records import Call as CallRecord
from nexrl_ingest import span_log
from nexrl_ingest.access import READERS, SESSION_READERS, TRAINERS
from nexrl_ingest.api.context import STORE
from nexrl_ingest.api.route import Call, Route
from nexrl_ingest.assembly import sequences
from nexrl_ingest.sessions import listing, views
from nexrl_ingest.wire import CallsQuery, SessionPage, SessionsQuery


async def listed(call: Call) -> SessionPage:
    return await call.app[STORE].read(lambda connection: listing.sessions(connection, call.query))


async def session(call: Call) -> views.SessionView:
    return await call.app[STORE].read(lambda connection: views.session(connection, call.part("id")))


async def trajectory(call: Call) -> views.TrajectoryView:
    return await call.app[STORE].read(lambda connection: views.trajectory(connection, call.part("id")))


async def calls(call: Call) -> list[CallRecord]:
    def found(connection: Any) -> list[CallRecord]:
        arrived = span_log.calls_of(connection, call.part("id"))
        return sequences.once(arrived) if call.query.all else sequences.parents_first(arrived)

    return await call.app[STORE].read(found)


ROUTES = [
    Route(
        method="GET",
        path="/api/sessions",
        name="listSessions",
        summary="Captured sessions, the latest first, a page at a time.",
        allow=READERS,
        handler=listed,
        query=SessionsQuery,
        reply=SessionPage,
    ),
    Route(
        method="GET",
        path="/api/sessions/{id}",
        name="getSession",
        summary="A session's calls, chains, drift, rewards and measures.",
        allow=SESSION_READERS,
        handler=session,
        reply=views.SessionView,
        own=True,
    ),
    Route(
        method="GET",
        path="/api/sessions/{id}/trajectory",
        name="getTrajectory",
        summary="A session laid out for training; logprobs and weight versions are null where the mask is 0.",
        allow=SESSION_READERS,
        handler=trajectory,
        reply=views.TrajectoryView,
        own=True,
    ),
    Route(
        method="GET",
        path="/api/sessions/{id}/calls",
        name="getCalls",
        summary="The exact calls, parents first; with `all`, every call, inexact ones and those without a parent too.",
        allow=READERS | TRAINERS,
        handler=calls,
        query=CallsQuery,
        reply=list[CallRecord],
        format="packed",
    ),
]
