"""Leases: ready groups go to one trainer at a time, and to none again once they are acked."""

import time
from functools import partial

from nexrl_ingest.access import READERS, TRAINERS
from nexrl_ingest.api.context import CHANGES, FIGURES, STORE
from nexrl_ingest.api.route import Call, Route
from nexrl_ingest.groups import pool, unplanned
from nexrl_ingest.groups.external import External, ExternalState
from nexrl_ingest.wire import LeaseIds, LeaseReply, LeaseRequest


async def lease(call: Call) -> LeaseReply:
    store, changes, request = call.app[STORE], call.app[CHANGES], call.request
    reply = await changes.wait_for_groups(store, call.body, gone=lambda: request.transport is None)
    call.app[FIGURES]["leased_groups"] += len(reply.leased)
    return reply


async def ack(call: Call) -> LeaseIds:
    asked, now_ns = call.body, time.time_ns()
    taken = await call.app[STORE].write(lambda connection: pool.ack(connection, asked.leases, now_ns))
    call.app[FIGURES]["acked_groups"] += taken
    return asked


async def nack(call: Call) -> LeaseIds:
    asked, now_ns = call.body, time.time_ns()
    await call.app[STORE].write(lambda connection: pool.nack(connection, asked.leases, now_ns), tells=True)
    return asked


async def standing(call: Call) -> ExternalState:
    run, now_ns = call.part("run"), time.time_ns()
    return await call.app[STORE].read(partial(unplanned.standing, run=run, external=call.body, now_ns=now_ns))


ROUTES = [
    Route(
        method="POST",
        path="/api/groups/lease",
        name="leaseGroups",
        summary=(
            "Lease ready groups, waiting for the first. `request` makes it repeatable: the same id returns the same "
            "grants while they last. `more` says that others are ready that did not fit into this answer."
        ),
        allow=TRAINERS,
        handler=lease,
        body=LeaseRequest,
        reply=LeaseReply,
        format="packed",
    ),
    Route(
        method="POST",
        path="/api/runs/{run}/external",
        name="countExternal",
        summary="How sessions stand that nobody planned: those in no group yet, as a lease by the run would see them.",
        allow=READERS,
        handler=standing,
        body=External,
        reply=ExternalState,
    ),
    Route(
        method="POST",
        path="/api/leases/ack",
        name="ackLeases",
        summary="Take leased groups out of the pool for good; all of them, or none where one cannot be.",
        allow=TRAINERS,
        handler=ack,
        body=LeaseIds,
        reply=LeaseIds,
    ),
    Route(
        method="POST",
        path="/api/leases/nack",
        name="nackLeases",
        summary="Give leased groups back: they are ready at once.",
        allow=TRAINERS,
        handler=nack,
        body=LeaseIds,
        reply=LeaseIds,
    ),
]
