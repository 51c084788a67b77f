"""The client leaves: the engine is told within a second, what was sampled is stored, and nothing stays behind."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from failure_clients import DIALECTS, Dialect
from failure_world import Deployment, eventually, key_of, new_attempt

from nexrl_proxy.answering import RETRY_HEADER, RETRY_WITHIN_S

pytestmark = pytest.mark.slow

pytest_plugins = ["failure_fixtures"]
WITHIN_S = 1.0


@asynccontextmanager
async def asked(
    deployment: Deployment, dialect: Dialect, attempt: str, *, stream: bool, **headers: str
) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request and yield what reads its answer; the connection is closed at the end, whatever has come."""
    body = json.dumps({**dialect.request, "stream": stream}).encode()
    named = {"host": "x", "content-length": str(len(body)), "authorization": f"Bearer {key_of(attempt)}", **headers}
    lines = [f"POST {dialect.path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", deployment.proxy.port)
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.transport.abort()


async def told_to_stop(deployment: Deployment, mark: int, left: float, requests: int = 1) -> None:
    """Check that the engine was told of so many requests, soon after the client had left."""

    def told() -> list[float]:
        return [entry.at - left for entry in deployment.journal()[mark:] if entry.kind == "aborted"]

    await eventually(lambda: len(told()) >= requests)
    assert all(0 <= after < WITHIN_S for after in told()), told()
    await deployment.quiet()


async def has_asked(deployment: Deployment, mark: int, requests: int = 1) -> None:
    """Wait until the engine has so many requests since then."""
    await eventually(
        lambda: sum(entry.kind == "asked" for entry in deployment.journal()[mark:]) >= requests, within_s=10
    )


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_client_that_leaves_its_stream_stops_the_engine(deployment, name):
    deployment.says(hang_at=3)
    mark, attempt = deployment.mark(), new_attempt()
    async with asked(deployment, DIALECTS[name], attempt, stream=True) as answer:
        assert b" 200 " in await answer.readline()
        await eventually(lambda: [len(ids) for ids in deployment.sampled(mark)] == [3])
        left = time.monotonic()
    await told_to_stop(deployment, mark, left)
    [call] = await deployment.kept(attempt)
    assert [list(call.completion)] == deployment.sampled(mark)
    assert (len(call.completion), call.finish_reason) == (3, "abort")


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_client_that_leaves_a_plain_request_stops_the_engine(deployment, name):
    deployment.says(hang_at=3)
    mark, attempt = deployment.mark(), new_attempt()
    async with asked(deployment, DIALECTS[name], attempt, stream=False):
        await has_asked(deployment, mark)
        left = time.monotonic()
    await told_to_stop(deployment, mark, left)
    [call] = await deployment.kept(attempt)
    assert [list(call.completion)] == deployment.sampled(mark)
    assert len(call.completion) == 3


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_client_that_leaves_before_the_first_token_stops_the_engine(deployment, stream):
    deployment.says(hang_at=0)
    mark, attempts = deployment.mark(), [new_attempt() for _ in DIALECTS]
    for place, (dialect, attempt) in enumerate(zip(DIALECTS.values(), attempts, strict=True)):
        async with asked(deployment, dialect, attempt, stream=stream):
            await has_asked(deployment, mark, place + 1)
    await told_to_stop(deployment, mark, time.monotonic() - WITHIN_S / 2, len(DIALECTS))
    assert deployment.sampled(mark) == []
    for attempt in attempts:
        assert not any(call.completion for call in await deployment.kept(attempt))


async def test_a_client_that_leaves_right_behind_its_request_leaves_nothing(deployment):
    deployment.says(count=3)
    mark, attempt = deployment.mark(), new_attempt()
    for _ in range(5):
        for stream in (False, True):
            async with asked(deployment, DIALECTS["chat"], attempt, stream=stream):
                pass
    await deployment.quiet()
    calls = await deployment.kept(attempt)
    assert sorted(list(call.completion) for call in calls if call.completion) == deployment.sampled(mark)


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_client_that_leaves_when_all_was_said_changes_nothing(deployment, name):
    mark, attempt = deployment.mark(), new_attempt()
    async with asked(deployment, DIALECTS[name], attempt, stream=True) as answer:
        await answer.readuntil(b"0\r\n\r\n")
    [call] = await deployment.kept(attempt)
    assert [list(call.completion)] == deployment.sampled(mark)
    assert call.finish_reason == "stop"
    assert "aborted" not in {entry.kind for entry in deployment.journal()[mark:]}


async def test_a_client_that_leaves_all_choices_stops_each(deployment):
    deployment.says(hang_at=2)
    mark, attempt = deployment.mark(), new_attempt()
    chat = Dialect()
    chat.request = {**chat.request, "n": 3}
    async with asked(deployment, chat, attempt, stream=True):
        await eventually(lambda: [len(ids) for ids in deployment.sampled(mark)] == [2, 2, 2])
        left = time.monotonic()
    await told_to_stop(deployment, mark, left, requests=3)
    assert sorted(list(call.completion) for call in await deployment.kept(attempt)) == deployment.sampled(mark)


async def test_an_official_client_that_gave_up_holds_nobody_back(deployment):
    """Its next try is awaited while the session lives; `flush` ends that."""
    deployment.says(hang_at=0)
    mark, attempt = deployment.mark(), new_attempt()
    async with asked(deployment, DIALECTS["chat"], attempt, stream=True, **{RETRY_HEADER: "0"}):
        await has_asked(deployment, mark)
    await asyncio.sleep(0.1)
    assert "aborted" not in {entry.kind for entry in deployment.journal()[mark:]}
    left = time.monotonic()
    assert not any(call.completion for call in await deployment.kept(attempt))
    await told_to_stop(deployment, mark, left)


@pytest.mark.slow
async def test_an_official_client_that_does_not_come_back_is_waited_for_as_long_as_it_might(deployment):
    deployment.says(hang_at=0)
    mark, attempt = deployment.mark(), new_attempt()
    async with asked(deployment, DIALECTS["messages"], attempt, stream=True, **{RETRY_HEADER: "0"}):
        await has_asked(deployment, mark)
    left = time.monotonic()
    await eventually(lambda: "aborted" in {entry.kind for entry in deployment.journal()[mark:]}, RETRY_WITHIN_S + 3)
    assert time.monotonic() - left > RETRY_WITHIN_S - 1
    await deployment.quiet()


@pytest.mark.slow
async def test_a_hundred_clients_that_leave_leak_neither_connections_nor_requests(deployment):
    deployment.says(hang_at=1)
    mark, attempts = deployment.mark(), [new_attempt() for _ in range(100)]
    before = open_files(deployment)

    async def leave(attempt: str, *, stream: bool) -> None:
        async with asked(deployment, DIALECTS["chat"], attempt, stream=stream):
            await asyncio.sleep(0.5)

    await asyncio.gather(*(leave(attempt, stream=bool(place % 2)) for place, attempt in enumerate(attempts)))
    await deployment.quiet()
    await eventually(lambda: open_files(deployment) <= before + 5, within_s=10)
    stats = await deployment.stats()
    assert [engine["running"] for engine in stats["engines"]] == [0]
    calls = [call for attempt in attempts for call in await deployment.kept(attempt) if call.completion]
    assert sorted(list(call.completion) for call in calls) == deployment.sampled(mark)


def open_files(deployment: Deployment) -> int:
    """Return how many connections and files the proxy has open; idle ones to the engine go after some seconds."""
    return len(list(Path(f"/proc/{deployment.proxy.pid}/fd").iterdir()))
