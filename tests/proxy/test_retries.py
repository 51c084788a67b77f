"""Clients who try again: an answer nobody got is adopted, one that was begun to be delivered never is."""

import asyncio
import contextlib
import time
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from openai import AsyncOpenAI
from proxy_world import World, until
from scripted_engine import Line

from nexrl_proxy.operating import RETRIES

HELLO = [{"role": "user", "content": "hello"}]
BODY = {"model": "m", "messages": HELLO}


@pytest.fixture
def slow(world):
    """Return a function that lets the engine finish what it holds back."""
    held = asyncio.Event()
    whole, stream = world.engine.whole, world.engine.stream

    async def later(*args: Any) -> web.StreamResponse:
        world.engine.paused.set()
        rid = args[1]["rid"]
        aborted = asyncio.create_task(world.engine.aborted[rid].wait())
        released = asyncio.create_task(held.wait())
        _, left = await asyncio.wait([aborted, released], return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        if aborted.done():
            args[2].pause_before = 0
        return await (stream if args[1]["stream"] else whole)(*args)

    world.engine.whole = world.engine.stream = later
    world.says("it is sunny")
    return held.set


async def tries(world: World, count: int, body: Any = None, *, attempt: str = "a-1", **headers: str) -> asyncio.Task:
    """Send a request, and return once the engine was asked."""
    given = {"authorization": f"Bearer {world.key(attempt)}", "content-type": "application/json"}
    given |= {"x-stainless-retry-count": str(count)} if count >= 0 else {}
    data = msgspec.json.encode(body or BODY)

    async def sent() -> tuple[int, bytes]:
        async with world.http.post(f"{world.url}/v1/chat/completions", data=data, headers=given | headers) as reply:
            return reply.status, await reply.read()

    return asyncio.create_task(sent())


async def given_up(world: World, task: asyncio.Task) -> None:
    """Let the client leave, and wait until the proxy has noticed."""
    await asyncio.wait_for(world.engine.paused.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.05)


def kept(world: World) -> int:
    return len(world.app[RETRIES]._kept)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream before its first byte"])
@pytest.mark.parametrize("when", ["while it is sampled", "once it is sampled"])
async def test_an_answer_that_nobody_got_is_the_next_trys(world, slow, stream, when):
    body = BODY | {"stream": stream}
    await given_up(world, await tries(world, 0, body))
    await until(lambda: kept(world) == 1)
    if when == "once it is sampled":
        slow()
        await until(lambda: not world.sampler.active)
    again = await tries(world, 1, body)
    slow()
    status, answer = await again
    assert (status, b"sunny" in answer) == (200, True)
    [call] = await world.recorded()
    assert (len(world.engine.requests), call.finish_reason, call.reply["content"]) == (1, "stop", "it is sunny")
    assert (await world.stats())["folded"] == 1
    assert call.response.encode() in answer


async def test_a_third_try_gets_what_the_second_left(world, slow):
    await given_up(world, await tries(world, 0))
    await given_up(world, await tries(world, 1))
    again = await tries(world, 2)
    slow()
    status, _ = await again
    assert (status, len(world.engine.requests), len(await world.recorded())) == (200, 1, 1)


async def test_an_answer_that_was_delivered_is_not_given_again(world):
    world.says("one", "two")
    replies = [await (await tries(world, count)) for count in (0, 1)]
    assert [b"one" in answer for _, answer in replies] == [True, False]
    assert len(await world.recorded()) == 2


async def test_a_stream_whose_first_byte_was_sent_is_not_given_again(world):
    world.says("it is sunny", pause_before=1)
    headers = {"authorization": f"Bearer {world.key()}", "x-stainless-retry-count": "0"}
    body = BODY | {"stream": True}
    async with world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as reply:
        assert await reply.content.readany()
        await world.engine.paused.wait()
        reply.close()
    await until(lambda: not world.sampler.active)
    world.says("again")
    status, _ = await (await tries(world, 1, body))
    one, two = await world.recorded()
    assert (status, one.finish_reason, two.finish_reason) == (200, "abort", "stop")
    assert (one.reply["content"], two.reply["content"]) == ("it", "again")


@pytest.mark.parametrize("other", ["body", "session", "no count", "a first try"])
async def test_another_request_gets_its_own_answer(world, slow, other):
    await given_up(world, await tries(world, 0))
    attempt = "a-2" if other == "session" else "a-1"
    body = BODY | {"temperature": 0.5} if other == "body" else BODY
    count = {"no count": -1, "a first try": 0}.get(other, 1)
    again = await tries(world, count, body, attempt=attempt)
    await until(lambda: len(world.engine.requests) == 2)
    slow()
    assert (await again)[0] == 200
    assert (await world.stats())["folded"] == 0


async def test_a_client_that_says_nothing_of_tries_is_not_waited_for(world, slow):
    await given_up(world, await tries(world, -1))
    await until(lambda: not world.sampler.active)
    assert kept(world) == 0
    [call] = await world.recorded()
    assert call.finish_reason == "abort"


async def test_an_answer_nobody_comes_back_for_is_aborted(world, slow):
    world.app[RETRIES]._within_s = 0.1
    await given_up(world, await tries(world, 0))
    await until(lambda: not world.sampler.active)
    assert kept(world) == 0
    assert len(world.engine.aborted) == 1
    [call] = await world.recorded()
    assert (call.finish_reason, list(call.completion)) == ("abort", [])


async def test_an_error_that_nobody_got_is_the_next_trys_and_not_the_one_afters(world, slow):
    world.engine.script = lambda _: Line(ids=[], status=400, message="no such thing")
    for count in (0, 1):
        status, answer = await (await tries(world, count))
        assert (status, b"no such thing" in answer) == (400, True)
    assert len(world.engine.requests) == 2


async def test_a_flush_does_not_wait_for_a_client_to_come_back(world, slow):
    await given_up(world, await tries(world, 0))
    began = time.monotonic()
    assert await world.flush() == 1
    assert time.monotonic() - began < 3
    assert kept(world) == 0


async def test_a_request_that_is_adopted_is_not_counted_against_the_session(world, slow):
    await given_up(world, await tries(world, 0))
    again = await tries(world, 1)
    slow()
    await again
    assert (await world.stats())["calls"] == 1


async def test_every_choice_of_an_adopted_answer_is_there(world, slow):
    body = BODY | {"n": 3}
    await given_up(world, await tries(world, 0, body))
    again = await tries(world, 1, body)
    slow()
    _, answer = await again
    assert len(msgspec.json.decode(answer)["choices"]) == 3
    assert len(await world.recorded()) == 3


async def test_the_official_client_gets_its_answer_although_its_connection_was_slow(world, slow):
    client = AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key(), timeout=0.4, max_retries=2)
    asking = asyncio.create_task(client.chat.completions.create(**BODY))
    await until(lambda: kept(world) == 1)
    await until(lambda: kept(world) == 0)
    slow()
    reply = await asking
    await client.close()
    assert reply.choices[0].message.content == "it is sunny"
    assert (len(world.engine.requests), len(await world.recorded())) == (1, 1)


async def test_a_broken_connection_leaves_nothing_behind(world, slow):
    world.app[RETRIES]._within_s = 0.05
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.1)) as impatient:
        headers = {"authorization": f"Bearer {world.key()}", "x-stainless-retry-count": "0"}
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                await impatient.post(f"{world.url}/v1/chat/completions", json=BODY, headers=headers)
    await until(lambda: not world.sampler.active)
    await until(lambda: not kept(world) and not world.app[RETRIES]._background)
    assert all(event.is_set() for event in world.engine.aborted.values())
