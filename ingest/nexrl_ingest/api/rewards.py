"""What is said of a session: rewards from the trainer, the agent or later whoever has a grant, all kept; and tags."""

import time
from functools import partial

from nexrl.records import Reward
from nexrl_ingest.access import JUDGES, SESSION_READERS, TRAINERS, Caller
from nexrl_ingest.api.context import STORE
from nexrl_ingest.api.route import Call, Route
from nexrl_ingest.groups import ledger
from nexrl_ingest.refusals import ForbiddenError, NotFoundError
from nexrl_ingest.wire import RewardRequest, Tag

GRANTED = "grant"
_RESERVED = {"trainer", ledger.AGENT}


async def give(call: Call) -> Reward:
    session, asked = call.part("id"), call.body
    reward = Reward(
        name=asked.name,
        value=float(asked.value),
        call=asked.call,
        by=giver(call.caller, asked),
        at_ns=_when(call.caller, asked),
        id=asked.id,
        explanation=asked.explanation,
    )
    await _require_known(call, session)
    store = call.app[STORE]
    return await store.write(
        lambda connection: ledger.put_reward(connection, session, reward, time.time_ns()), tells=True
    )


async def tag(call: Call) -> Tag:
    session = call.part("id")
    await _require_known(call, session)
    await call.app[STORE].write(
        lambda connection: ledger.put_tag(connection, session, call.body, time.time_ns()), tells=True
    )
    return call.body


async def _require_known(call: Call, session: str) -> None:
    # A key of one session proves that the session exists; its spans may still be on their way.
    if call.caller.session is None and not await call.app[STORE].read(partial(ledger.knows, session=session)):
        raise NotFoundError(
            f"session {session!r} is unknown; something can be said of it once a span or an attempt names it"
        )


async def given(call: Call) -> list[Reward]:
    session = call.part("id")
    return await call.app[STORE].read(lambda connection: ledger.known_rewards(connection, session))


def giver(caller: Caller, asked: RewardRequest) -> str:
    """Return who judged; raises ForbiddenError where the key cannot speak for whom the request names."""
    match caller.kind:
        case "attempt":
            allowed, name = asked.by in {None, ledger.AGENT}, ledger.AGENT
        case "reward":
            allowed, name = asked.by not in _RESERVED, asked.by or GRANTED
        case _:
            allowed, name = True, asked.by or "trainer"
    if not allowed:
        raise ForbiddenError(f"reward {asked.name!r} by {asked.by!r}: a key of kind {caller.kind} cannot speak for it")
    return name


def _when(caller: Caller, asked: RewardRequest) -> int:
    if asked.at_ns and caller.kind not in TRAINERS:
        raise ForbiddenError(f"reward {asked.name!r}: a key of kind {caller.kind} cannot say when; leave `at_ns` out")
    return asked.at_ns or time.time_ns()


ROUTES = [
    Route(
        method="POST",
        path="/api/sessions/{id}/rewards",
        name="giveReward",
        summary="Give a session, or one call of it, a reward. With an `id` it may be repeated and is kept once.",
        allow=JUDGES,
        handler=give,
        body=RewardRequest,
        reply=Reward,
        own=True,
    ),
    Route(
        method="POST",
        path="/api/sessions/{id}/tags",
        name="tagSession",
        summary="Say a word about a session, under a name; of one name the latest counts.",
        allow=JUDGES,
        handler=tag,
        body=Tag,
        reply=Tag,
        own=True,
    ),
    Route(
        method="GET",
        path="/api/sessions/{id}/rewards",
        name="listRewards",
        summary="Every reward of a session, in order of arrival.",
        allow=SESSION_READERS,
        handler=given,
        reply=list[Reward],
        own=True,
    ),
]
