"""The proxy is killed, told to stop, or held: what was said is stored, conversations go on, and nobody is refused."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from failure_clients import DIALECTS, HELLO, Dialect, Listener, everything
from failure_world import Deployment, eventually, key_of, new_attempt

pytestmark = pytest.mark.slow

pytest_plugins = ["failure_fixtures"]


class Agent:
    """A conversation over chat completions, with retries as the official client makes them."""

    def __init__(self, deployment: Deployment, attempt: str) -> None:
        self.deployment = deployment
        self.attempt = attempt
        self.messages: list[Any] = list(HELLO)

    async def turn(self) -> None:
        chat = DIALECTS["chat"]
        async with chat.client(self.deployment.proxy.url, key_of(self.attempt), max_retries=8) as client:
            reply = await client.chat.completions.create(model="m", messages=self.messages)
        self.messages += [reply.choices[0].message, {"role": "user", "content": "and then?"}]

    @property
    def heard(self) -> list[str]:
        return [message.content for message in self.messages if not isinstance(message, dict)]


async def is_one_chain(agent: Agent) -> None:
    """Check that ingest has a conversation as one chain, with all that was heard."""
    calls = await agent.deployment.kept(agent.attempt)
    assert [agent.deployment.text(list(call.completion)) for call in calls] == agent.heard
    assert [call.parent for call in calls] == [None, *(call.id for call in calls[:-1])]
    assert [call.drift for call in calls] == [None] * len(calls)


@pytest.mark.slow
async def test_a_proxy_killed_with_requests_in_flight_loses_nothing_answered_and_conversations_go_on(deployment):
    agents = [Agent(deployment, new_attempt()) for _ in range(4)]
    for _ in range(2):
        await asyncio.gather(*(agent.turn() for agent in agents))
    deployment.says(hang_at=2)
    mark = deployment.mark()
    turns = [asyncio.create_task(agent.turn()) for agent in agents]
    await eventually(lambda: deployment.mark() - mark >= len(agents))
    deployment.proxy.kill()
    deployment.says()
    await asyncio.to_thread(deployment.proxy.start)
    async with asyncio.timeout(20):
        await asyncio.gather(*turns)
        await asyncio.gather(*(agent.turn() for agent in agents))
    for agent in agents:
        assert len(agent.heard) == 4
        await is_one_chain(agent)


@pytest.mark.slow
async def test_a_conversation_goes_on_although_its_last_calls_wait_behind_many_others(deployment):
    deployment.ingest.kill()
    agent, crowd = Agent(deployment, new_attempt()), key_of(new_attempt())
    body = {"messages": [{"role": "user", "content": "hello " * 300}]}
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {crowd}"}) as http:

        async def call(_: int) -> None:
            async with http.post(f"{deployment.proxy.url}/v1/chat/completions", json=body) as reply:
                await reply.read()

        for _ in range(10):
            await asyncio.gather(*map(call, range(100)))
    await agent.turn()
    await agent.turn()
    deployment.proxy.kill()
    await asyncio.to_thread(deployment.ingest.start)
    await asyncio.to_thread(deployment.proxy.start)
    await agent.turn()
    await is_one_chain(agent)


async def cut_off(deployment: Deployment, attempts: dict[str, str], how: int) -> tuple[list[str], int]:
    """Stop the proxy while a stream of every dialect runs; returns what they said and the exit status.

    None of them may look as if it had ended as it should.
    """
    deployment.says(hang_at=3)

    listeners = {name: Listener(letters=3) for name in DIALECTS}

    async def cut(name: str, dialect: Dialect) -> None:
        async with dialect.stream(deployment.proxy.url, key_of(attempts[name])) as pieces:
            with pytest.raises(Exception):  # noqa: B017 - any, but no quiet end
                await listeners[name].listen(pieces)

    streams = [asyncio.create_task(cut(*named)) for named in DIALECTS.items()]
    async with asyncio.timeout(10):
        await asyncio.gather(*(listener.begun.wait() for listener in listeners.values()))
        status = await asyncio.to_thread(deployment.proxy.end, how)
        await asyncio.gather(*streams)
    return [listener.text for listener in listeners.values()], status


@pytest.mark.slow
async def test_streams_that_a_killed_proxy_leaves_are_errors_for_their_clients(deployment):
    said, _ = await cut_off(deployment, {name: new_attempt() for name in DIALECTS}, signal.SIGKILL)
    assert [len(text) for text in said] == [3, 3, 3, 3]


@pytest.mark.slow
async def test_a_proxy_told_to_stop_while_it_streams_records_what_was_sampled(deployment):
    mark, attempts = deployment.mark(), {name: new_attempt() for name in DIALECTS}
    began = time.monotonic()
    said, status = await cut_off(deployment, attempts, signal.SIGTERM)
    assert status == 0
    assert time.monotonic() - began < 8
    calls = [await deployment.stored(attempt) for attempt in attempts.values()]
    assert [len(kept) for kept in calls] == [1, 1, 1, 1]
    assert sorted(list(call.completion) for [call] in calls) == deployment.sampled(mark)
    assert [deployment.text(list(call.completion)) for [call] in calls] == said


@pytest.mark.slow
async def test_a_proxy_told_to_stop_finishes_the_streams_that_end_soon(deployment):
    deployment.says(step_s=0.05, count=8)
    mark, attempt = deployment.mark(), new_attempt()
    heard = asyncio.create_task(DIALECTS["chat"].hear(deployment.proxy.url, key_of(attempt)))
    await eventually(lambda: bool(deployment.sampled(mark)))
    assert await asyncio.to_thread(deployment.proxy.end) == 0
    assert len(await heard) == 7
    [call] = await deployment.stored(attempt)
    assert deployment.text(list(call.completion)) == await heard


@contextlib.asynccontextmanager
async def held(deployment: Deployment) -> AsyncIterator[None]:
    """Hold the proxy's door shut."""
    await deployment.admin("POST", f"{deployment.proxy.url}/api/hold")
    try:
        yield
    finally:
        await deployment.admin("POST", f"{deployment.proxy.url}/api/release")


async def test_while_weights_change_requests_wait_and_none_fails(deployment):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.says(step_s=0.05)
    chat, key = DIALECTS["chat"], key_of(attempt)
    running = asyncio.create_task(chat.hear(deployment.proxy.url, key))
    await eventually(lambda: bool(deployment.sampled(mark)))
    async with held(deployment):
        said = asyncio.create_task(everything(deployment.proxy.url, key_of(attempt)))
        await eventually(lambda: is_waiting(deployment, 8))
        assert len(await running) == 5
        assert len(deployment.sampled(mark)) == 1
        deployment.says(version="4")
    assert sorted([await running, *await said]) == sorted(map(deployment.text, deployment.sampled(mark)))
    first, *others = await deployment.kept(attempt)
    assert set(first.weight_versions) == {3}
    assert {version for call in others for version in call.weight_versions} == {4}
    assert len(others) == 8


async def is_waiting(deployment: Deployment, requests: int) -> bool:
    return (await deployment.stats())["waiting"] == requests


async def test_a_client_that_leaves_a_held_request_is_never_sampled_for(deployment):
    mark, attempt = deployment.mark(), new_attempt()
    async with held(deployment):
        leaving = asyncio.create_task(plain(deployment, attempt))
        await eventually(lambda: is_waiting(deployment, 1))
        leaving.cancel()
        await asyncio.sleep(0.1)
    await deployment.quiet()
    assert deployment.sampled(mark) == []
    assert await deployment.kept(attempt) == []


async def plain(deployment: Deployment, attempt: str) -> None:
    """Ask without an official client's promise to try again."""
    headers = {"authorization": f"Bearer {key_of(attempt)}"}
    async with aiohttp.ClientSession() as http:
        url = f"{deployment.proxy.url}/v1/chat/completions"
        async with http.post(url, json={"messages": HELLO}, headers=headers) as reply:
            await reply.read()
