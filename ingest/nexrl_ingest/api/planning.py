"""Groups, attempts and outcomes: what a trainer plans, and how it went. Every PUT may be repeated."""

import time

from nexrl.errors import AccessError
from nexrl.keys import check_attempt_id
from nexrl.records import Attempt, Group, Outcome
from nexrl_ingest.access import READERS, TRAINERS
from nexrl_ingest.api.bodies import MESSAGEPACK
from nexrl_ingest.api.context import STORE
from nexrl_ingest.api.route import Call, Route
from nexrl_ingest.groups import ledger
from nexrl_ingest.refusals import RefusedError
from nexrl_ingest.wire import GroupRecord, Named


async def put_group(call: Call) -> Named:
    group: Group = call.body
    _same_id(call.part("id"), group.id)
    await call.app[STORE].write(lambda connection: ledger.put_group(connection, group))
    return Named(id=group.id)


async def get_group(call: Call) -> GroupRecord:
    return await call.app[STORE].read(lambda connection: ledger.group_record(connection, call.part("id")))


async def put_attempt(call: Call) -> Named:
    attempt: Attempt = call.body
    _same_id(call.part("id"), attempt.id)
    try:
        check_attempt_id(attempt.id)
    except AccessError as error:
        raise RefusedError(str(error)) from error
    await call.app[STORE].write(lambda connection: ledger.put_attempt(connection, attempt))
    return Named(id=attempt.id)


async def put_outcome(call: Call) -> Named:
    attempt, now_ns = call.part("id"), time.time_ns()
    store = call.app[STORE]
    await store.write(lambda connection: ledger.put_outcome(connection, attempt, call.body, now_ns), tells=True)
    return Named(id=attempt)


def _same_id(in_path: str, given: str) -> None:
    if in_path != given:
        raise RefusedError(f"the body's id {given!r} is not the URL's {in_path!r}; use one id")


ROUTES = [
    Route(
        method="PUT",
        path="/api/groups/{id}",
        name="putGroup",
        summary="Plan a group of rollouts; other content under the same id is refused.",
        allow=TRAINERS,
        handler=put_group,
        body=Group,
        body_format=MESSAGEPACK,
        reply=Named,
    ),
    Route(
        method="GET",
        path="/api/groups/{id}",
        name="getGroup",
        summary="What was planned and how it went: the group, all its attempts, their outcomes and rewards.",
        allow=READERS,
        handler=get_group,
        reply=GroupRecord,
    ),
    Route(
        method="PUT",
        path="/api/attempts/{id}",
        name="putAttempt",
        summary="Register one try at one rollout of a group; its id names the session of its calls.",
        allow=TRAINERS,
        handler=put_attempt,
        body=Attempt,
        body_format=MESSAGEPACK,
        reply=Named,
    ),
    Route(
        method="PUT",
        path="/api/attempts/{id}/outcome",
        name="putOutcome",
        summary=(
            "Finish an attempt. With `calls` set it is refused (409, type calls_missing) until that many calls have "
            "arrived: nobody judges or trains an attempt whose spans are still on their way."
        ),
        allow=TRAINERS,
        handler=put_outcome,
        body=Outcome,
        body_format=MESSAGEPACK,
        reply=Named,
    ),
]
