"""An attempt that has ended: its key is spent."""

import asyncio

import pytest
from proxy_world import ADMIN, until

from nexrl_proxy.ended import MOST, Ended
from nexrl_proxy.errors import ApiError

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def test_who_calls_after_the_attempts_end_is_refused_and_nothing_is_recorded(world):
    world.says("Hello")
    await world.chat(ASK["messages"])
    headers = {"authorization": f"Bearer {world.key()}"}
    flush = "/api/sessions/a-1/flush?end=true"
    assert await world.post({}, path=flush, attempt="a-1", authorization="Bearer an-admin-key-for-tests") == (
        200,
        {"calls": 1, "of_other_models": 0, "refused": None},
    )
    for path in ("/v1/chat/completions", "/s/a-1/v1/chat/completions"):
        status, reply = await world.post(ASK, path=path, **headers)
        assert (status, reply["error"]["code"]) == (403, "session_ended")
    assert len(world.engine.requests) == 1
    await world.chat(ASK["messages"], attempt="a-2")


async def test_who_called_before_the_end_and_was_still_waiting_to_be_sampled_is_refused_too(world):
    world.says("Hello")
    said = (await world.chat(ASK["messages"]))["choices"][0]["message"]
    await world.restart()
    world.ingest.may_tell.clear()
    more = {**ASK, "messages": [*ASK["messages"], said, {"role": "user", "content": "more"}]}
    late = asyncio.create_task(world.post(more))
    await until(lambda: world.ingest.reads == ["a-1"])
    flush = "/api/sessions/a-1/flush?end=true"
    status, flushed = await world.post({}, path=flush, authorization=f"Bearer {ADMIN}")
    assert (status, flushed["calls"]) == (200, 1)
    world.ingest.may_tell.set()
    status, reply = await late
    assert (status, reply["error"]["code"], len(world.engine.requests)) == (403, "session_ended", 1)
    assert await world.flush() == 1


async def test_a_flush_that_ends_nothing_lets_the_session_go_on(world):
    world.says("Hello")
    await world.chat(ASK["messages"])
    assert await world.flush() == 1
    await world.chat(ASK["messages"])
    assert await world.flush() == 2
    status, reply = await world.post(
        {}, path="/api/sessions/a-1/flush?end=1", authorization="Bearer an-admin-key-for-tests"
    )
    assert (status, reply["error"]["param"]) == (400, "end")


def test_only_the_latest_are_remembered():
    ended = Ended()
    for number in range(MOST + 1):
        ended.add(f"a-{number}")
    ended.refuse("a-0")
    with pytest.raises(ApiError, match="'a-1' has ended"):
        ended.refuse("a-1")
