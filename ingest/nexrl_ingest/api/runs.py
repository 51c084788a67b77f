"""Runs: which there are, how far they are, what their rule dropped, and their groups a page at a time."""

import time

from nexrl_ingest.access import READERS, TRAINERS
from nexrl_ingest.api.context import STORE
from nexrl_ingest.api.route import Call, Route
from nexrl_ingest.assembly import measuring
from nexrl_ingest.groups import pool, runs
from nexrl_ingest.groups.rules import Rule
from nexrl_ingest.wire import GroupPage, GroupsQuery, RunPage, RunsQuery, RunState


async def listed(call: Call) -> RunPage:
    return await call.app[STORE].read(lambda connection: runs.listed(connection, call.query))


async def run(call: Call) -> RunState:
    store, name, now_ns = call.app[STORE], call.part("run"), time.time_ns()
    await measuring.measure(store, name)
    return await store.read(lambda connection: runs.state(connection, name, now_ns))


async def put_rule(call: Call) -> Rule:
    name, rule = call.part("run"), call.body
    await call.app[STORE].write(lambda connection: pool.put_rule(connection, name, rule), tells=True)
    return rule


async def groups(call: Call) -> GroupPage:
    name, now_ns = call.part("run"), time.time_ns()
    return await call.app[STORE].read(lambda connection: runs.groups(connection, name, call.query, now_ns))


ROUTES = [
    Route(
        method="GET",
        path="/api/runs",
        name="listRuns",
        summary="Runs by name, with the number of their groups, a page at a time.",
        allow=READERS,
        handler=listed,
        query=RunsQuery,
        reply=RunPage,
    ),
    Route(
        method="GET",
        path="/api/runs/{run}",
        name="getRun",
        summary="Totals of a run: groups by state, rollouts, what was dropped and why, and how well calls merged.",
        allow=READERS,
        handler=run,
        reply=RunState,
    ),
    Route(
        method="PUT",
        path="/api/runs/{run}/rule",
        name="putRule",
        summary="Say when a run's groups are ready and which are dropped; a lease request may bring its own rule.",
        allow=TRAINERS,
        handler=put_rule,
        body=Rule,
        reply=Rule,
    ),
    Route(
        method="GET",
        path="/api/runs/{run}/groups",
        name="listGroups",
        summary="Groups of a run in order of creation, a page at a time; by state, or by id (repeat `id`).",
        allow=READERS,
        handler=groups,
        query=GroupsQuery,
        reply=GroupPage,
    ),
]
