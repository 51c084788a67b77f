"""Much at once: idle and half-sent connections, a thousand streams, and everything dying while agents work."""

import asyncio
import json
import random
import resource
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from failure_clients import DIALECTS, HELLO, Dialect
from failure_world import Deployment, eventually, key_of, new_attempt

pytestmark = pytest.mark.slow

pytest_plugins = ["failure_fixtures"]
KILOBYTE = 2**10


@pytest.fixture
def many_files() -> Iterator[int]:
    """Allow this process as many connections as the machine lets; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard if hard != resource.RLIM_INFINITY else 2**20
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def half_open(port: int, number: int) -> socket.socket:
    """Return a connection on which nothing was sent, half a head, or half a body."""
    said = [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthor",
        b'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"messages": [',
    ]
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(said[number % len(said)])
    return connection


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_others_are_served_while_thousands_of_connections_are_idle_or_half_sent(deployment, many_files, count):
    count = min(count, many_files - 500)
    mark, attempt = deployment.mark(), new_attempt()
    before = deployment.proxy.resident()
    connections = [await asyncio.to_thread(half_open, deployment.proxy.port, number) for number in range(count)]
    try:
        at = (deployment.proxy.url, key_of(attempt))
        async with asyncio.timeout(15):
            said = await asyncio.gather(*(dialect.hear(*at) for dialect in DIALECTS.values()))
        grown = deployment.proxy.peak() - before
    finally:
        for connection in connections:
            connection.close()
    assert sorted(said) == sorted(map(deployment.text, deployment.sampled(mark)))
    assert grown / count < 24 * KILOBYTE
    assert len(await deployment.kept(attempt)) == len(DIALECTS)


async def heard(http: aiohttp.ClientSession, deployment: Deployment, dialect: Dialect, attempt: str) -> bytes:
    """Return a whole stream as it came."""
    body = {**dialect.request, "stream": True}
    headers = {"authorization": f"Bearer {key_of(attempt)}"}
    async with http.post(deployment.proxy.url + dialect.path, json=body, headers=headers) as reply:
        assert reply.status == 200
        return await reply.read()


@pytest.mark.slow
async def test_a_thousand_streams_run_at_once_without_an_error(deployment, many_files):
    assert many_files > 3000
    deployment.says(count=30, first_s=1.0, step_s=0.2)
    mark, attempts = deployment.mark(), [new_attempt() for _ in range(1000)]
    spoken = [*DIALECTS.values()] * 250
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(240)) as http:
        tasks = [
            asyncio.create_task(heard(http, deployment, dialect, attempt))
            for dialect, attempt in zip(spoken, attempts, strict=True)
        ]
        await eventually(lambda: runs_at_once(deployment, 1000), within_s=60)
        streams = await asyncio.gather(*tasks)
    assert not any(b'"error": {' in stream or b"event: error" in stream for stream in streams)
    stored = [call for attempt in attempts for call in await deployment.kept(attempt)]
    assert sorted(list(call.completion) for call in stored) == deployment.sampled(mark)
    assert len(stored) == 1000
    assert {call.finish_reason for call in stored} == {"stop"}


async def runs_at_once(deployment: Deployment, requests: int) -> bool:
    return (await deployment.stats())["running"] == requests


class Agent:
    """Talks on for some turns, and remembers the id and the text of every reply it got."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.attempt = new_attempt()
        self.replies: dict[str, str] = {}

    async def talk(self, turns: int) -> None:
        messages: list[Any] = list(HELLO)
        chat = DIALECTS["chat"]
        async with chat.client(self.deployment.proxy.url, key_of(self.attempt), max_retries=20) as client:
            for turn in range(turns):
                reply = await client.chat.completions.create(model="m", messages=messages)
                self.replies[reply.id] = reply.choices[0].message.content
                messages += [reply.choices[0].message, {"role": "user", "content": f"and {turn}?"}]


@pytest.mark.slow
async def test_whatever_dies_and_comes_back_what_agents_were_told_is_stored_once(deployment):
    deployment.says(count=5, step_s=0.02)
    mark, agents = deployment.mark(), [Agent(deployment) for _ in range(8)]
    draw = random.Random(7)
    talks = asyncio.gather(*(agent.talk(12) for agent in agents))
    for _ in range(9):
        await asyncio.sleep(draw.uniform(0.2, 1.0))
        service = draw.choice(deployment.services)
        service.kill()
        await asyncio.sleep(draw.uniform(0.0, 0.5))
        await asyncio.to_thread(service.start)
    async with asyncio.timeout(120):
        await talks
    sampled = Counter(map(tuple, deployment.sampled(mark)))
    for agent in agents:
        calls = await deployment.kept(agent.attempt)
        assert len(agent.replies) == 12
        told = {call.response: deployment.text(list(call.completion)) for call in calls}
        assert json.dumps(agent.replies) == json.dumps({reply: told[reply] for reply in agent.replies})
        assert len(told) == len(calls)
        whole = Counter(tuple(call.completion) for call in calls if call.finish_reason == "stop")
        assert whole <= sampled
