"""Ingest is away, the disk is full, the proxy is killed: agents notice nothing, and what was answered is stored once."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from failure_clients import DIALECTS, HELLO
from failure_world import Deployment, eventually, key_of, new_attempt

pytest_plugins = ["failure_fixtures"]
SOON_S = 2.0
"""A reply of the engine's takes milliseconds; on a busy machine this is not patience, it is a bound."""


async def everything(deployment: Deployment, attempt: str) -> list[str]:
    """Return what a plain and a streamed request of every dialect get; none may wait for anything."""
    at = (deployment.proxy.url, key_of(attempt))
    asked = [dialect.say(*at) for dialect in DIALECTS.values()] + [dialect.hear(*at) for dialect in DIALECTS.values()]
    async with asyncio.timeout(SOON_S):
        return await asyncio.gather(*asked)


async def arrived_once(deployment: Deployment, attempt: str, said: list[str], mark: int) -> None:
    """Check that the engine's tokens, the clients' texts and ingest's calls are the same."""
    calls = await deployment.kept(attempt)
    sampled = deployment.sampled(mark)
    assert sorted(list(call.completion) for call in calls) == sampled
    assert sorted(map(deployment.text, sampled)) == sorted(said)
    assert len({call.id for call in calls}) == len(calls)
    assert (await deployment.stats())["pending"] == 0


@pytest.mark.parametrize("away_s", [0.5, pytest.param(60.0, marks=pytest.mark.slow)])
async def test_agents_do_not_notice_that_ingest_is_away_and_every_call_arrives_once(deployment, away_s):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.ingest.kill()
    said = await everything(deployment, attempt)
    with pytest.raises(aiohttp.ClientResponseError, match="504"):
        await deployment.admin("POST", f"{deployment.proxy.url}/api/sessions/{attempt}/flush?timeout_s={away_s}")
    assert (await deployment.stats())["pending"] >= len(said)
    await asyncio.to_thread(deployment.ingest.start)
    said += await everything(deployment, attempt)
    await arrived_once(deployment, attempt, said, mark)


async def test_agents_do_not_notice_that_ingest_hangs(deployment):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.ingest.signal(signal.SIGSTOP)
    try:
        said = await everything(deployment, attempt)
    finally:
        deployment.ingest.signal(signal.SIGCONT)
    await arrived_once(deployment, attempt, said, mark)


async def test_ingest_killed_while_spans_arrive_has_each_of_them_once(deployment):
    mark, attempts = deployment.mark(), [new_attempt() for _ in range(6)]
    said: list[str] = []
    for number, attempt in enumerate(attempts):
        said += await everything(deployment, attempt)
        if number % 2:
            deployment.ingest.kill()
            await asyncio.to_thread(deployment.ingest.start)
    calls = [call for attempt in attempts for call in await deployment.kept(attempt)]
    assert sorted(list(call.completion) for call in calls) == deployment.sampled(mark)
    assert len(calls) == len(said) == len({call.id for call in calls})


async def test_a_disk_that_takes_no_more_costs_no_reply_and_no_call(deployment):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.ingest.kill()
    said = await everything(deployment, attempt)
    deployment.proxy.may_write(0)
    said += await everything(deployment, attempt)
    assert (await deployment.stats())["kept_in_memory"] == 8
    deployment.proxy.may_write()
    said += await everything(deployment, attempt)
    await asyncio.to_thread(deployment.ingest.start)
    await arrived_once(deployment, attempt, said, mark)


async def test_a_disk_that_stays_full_lets_spans_through_to_ingest(deployment):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.proxy.may_write(0)
    try:
        said = await everything(deployment, attempt)
        await arrived_once(deployment, attempt, said, mark)
    finally:
        deployment.proxy.may_write()


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


async def test_streams_cut_by_a_killed_proxy_are_errors_for_their_clients(deployment):
    deployment.says(hang_at=2)
    cut = 0
    for dialect in DIALECTS.values():
        async with dialect.stream(deployment.proxy.url, key_of(new_attempt())) as pieces:
            assert await anext(pieces)
            assert await anext(pieces)
            if deployment.proxy.runs:
                deployment.proxy.kill()
                with pytest.raises(Exception, match=r"closed|read|[Cc]onnection"):
                    await anext(pieces)
                cut += 1
        await asyncio.to_thread(deployment.proxy.start)
    assert cut == len(DIALECTS)


async def test_a_proxy_told_to_stop_while_it_streams_records_what_was_sampled(deployment):
    deployment.says(hang_at=3)
    mark, attempts = deployment.mark(), {name: new_attempt() for name in DIALECTS}

    async def cut(name: str, begun: asyncio.Event) -> str:
        said = ""
        async with DIALECTS[name].stream(deployment.proxy.url, key_of(attempts[name])) as pieces:
            with pytest.raises(Exception):  # noqa: B017, PT011 - any, but no quiet end
                async for piece in pieces:
                    said += piece
                    if len(said) == 3:
                        begun.set()
        return said

    begun = {name: asyncio.Event() for name in DIALECTS}
    streams = [asyncio.create_task(cut(name, begun[name])) for name in DIALECTS]
    async with asyncio.timeout(10):
        await asyncio.gather(*(event.wait() for event in begun.values()))
        began = time.monotonic()
        assert await asyncio.to_thread(deployment.proxy.end) == 0
        assert time.monotonic() - began < 6
        said = await asyncio.gather(*streams)
    calls = [await deployment.stored(attempt) for attempt in attempts.values()]
    assert [len(kept) for kept in calls] == [1, 1, 1, 1]
    assert sorted(list(call.completion) for [call] in calls) == deployment.sampled(mark)
    assert [deployment.text(list(call.completion)) for [call] in calls] == said


async def test_a_proxy_told_to_stop_finishes_the_streams_that_end_soon(deployment):
    deployment.says(step_s=0.05, count=8)
    attempt = new_attempt()
    heard = asyncio.create_task(DIALECTS["chat"].hear(deployment.proxy.url, key_of(attempt)))
    await eventually(lambda: bool(deployment.sampled()) and len(deployment.journal()) > 3)
    await asyncio.sleep(0.1)
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
        said = asyncio.create_task(everything_at_leisure(deployment, attempt))
        await eventually(lambda: is_waiting(deployment, 8))
        assert len(await running) == 5
        assert len(deployment.sampled(mark)) == 1
        deployment.says(version="4")
    assert sorted([await running, *await said]) == sorted(map(deployment.text, deployment.sampled(mark)))
    first, *others = await deployment.kept(attempt)
    assert set(first.weight_versions) == {3}
    assert {version for call in others for version in call.weight_versions} == {4}
    assert len(others) == 8


async def everything_at_leisure(deployment: Deployment, attempt: str) -> list[str]:
    at = (deployment.proxy.url, key_of(attempt))
    asked = [dialect.say(*at) for dialect in DIALECTS.values()] + [dialect.hear(*at) for dialect in DIALECTS.values()]
    return await asyncio.gather(*asked)


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


def test_the_spool_is_empty_when_all_is_delivered(deployment: Deployment):
    assert not list(Path(deployment.data).glob("spool/0*.spool"))
