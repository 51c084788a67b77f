"""The engine dies, comes back, is slow, refuses: a clear error or a retry, and every sampled token is stored."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

import pytest
from failure_clients import DIALECTS, Dialect, Listener
from failure_world import Deployment, eventually, key_of, new_attempt

pytestmark = pytest.mark.slow

pytest_plugins = ["failure_fixtures"]
SILENCE_S = 60.0


def every_way(deployment: Deployment, attempt: str, **options: Any) -> dict[str, Awaitable[str]]:
    """Return a plain and a streamed request of every dialect."""
    at = (deployment.proxy.url, key_of(attempt))
    plain = {name: dialect.say(*at, **options) for name, dialect in DIALECTS.items()}
    return plain | {f"{name} streamed": dialect.hear(*at, **options) for name, dialect in DIALECTS.items()}


async def answers(asked: dict[str, Awaitable[str]]) -> dict[str, Any]:
    """Return what came of each: a text or an exception."""
    return dict(zip(asked, await asyncio.gather(*asked.values(), return_exceptions=True), strict=True))


async def errors(asked: dict[str, Awaitable[str]], status: int) -> list[str]:
    """Return the messages of requests that must all fail with one status, in their dialect's shape."""
    told: list[str] = []
    for name, error in (await answers(asked)).items():
        dialect = DIALECTS[name.split()[0]]
        assert isinstance(error, dialect.sdk.APIStatusError), (name, error)
        assert error.status_code == status, name
        told.append(dialect.described(error.response.json())["message"])
    return told


async def test_an_engine_killed_mid_stream_ends_it_with_an_error_and_what_it_sampled_is_stored(deployment):
    deployment.says(hang_at=3)
    mark, attempts = deployment.mark(), {name: new_attempt() for name in DIALECTS}

    listeners = {name: Listener(letters=3) for name in DIALECTS}

    async def broken(name: str, dialect: Dialect) -> None:
        async with dialect.stream(deployment.proxy.url, key_of(attempts[name])) as pieces:
            with pytest.raises(dialect.sdk.APIError, match="3 tokens were sampled"):
                await listeners[name].listen(pieces)

    streams = [asyncio.create_task(broken(*named)) for named in DIALECTS.items()]
    async with asyncio.timeout(10):
        await asyncio.gather(*(listener.begun.wait() for listener in listeners.values()))
        deployment.engine.kill()
        await asyncio.gather(*streams)
    said = [listener.text for listener in listeners.values()]
    calls = [await deployment.kept(attempt) for attempt in attempts.values()]
    assert [len(kept) for kept in calls] == [1, 1, 1, 1]
    assert sorted(list(call.completion) for [call] in calls) == deployment.sampled(mark)
    assert [deployment.text(list(call.completion)) for [call] in calls] == said
    assert {call.finish_reason for [call] in calls} == {"abort"}


async def test_an_engine_that_comes_back_goes_on_with_the_streams_it_had_begun(deployment):
    deployment.says(hang_at=3)
    mark, attempts = deployment.mark(), {name: new_attempt() for name in DIALECTS}
    listeners = {name: Listener(letters=3) for name in DIALECTS}

    async def whole(name: str, dialect: Dialect) -> None:
        async with dialect.stream(deployment.proxy.url, key_of(attempts[name])) as pieces:
            await listeners[name].listen(pieces)

    streams = [asyncio.create_task(whole(*named)) for named in DIALECTS.items()]
    async with asyncio.timeout(10):
        await asyncio.gather(*(listener.begun.wait() for listener in listeners.values()))
        deployment.engine.kill()
        deployment.says()
        await asyncio.to_thread(deployment.engine.start)
        await asyncio.gather(*streams)
    calls = [call for attempt in attempts.values() for call in await deployment.kept(attempt)]
    assert [deployment.text(list(call.completion)) for call in calls] == [one.text for one in listeners.values()]
    assert {(call.exact, call.finish_reason) for call in calls} == {(True, "stop")}
    begun, rest = zip(*((list(call.completion[:3]), list(call.completion[3:])) for call in calls), strict=True)
    assert sorted([*begun, *rest]) == deployment.sampled(mark)


@pytest.mark.slow
async def test_an_engine_that_comes_back_is_asked_again_for_what_it_had_not_begun(deployment):
    deployment.says(hang_at=0)
    mark, attempt = deployment.mark(), new_attempt()
    asked = every_way(deployment, attempt)
    waiting = asyncio.gather(*asked.values())
    await eventually(lambda: sum(entry.kind == "asked" for entry in deployment.journal()[mark:]) == len(asked))
    deployment.engine.kill()
    deployment.says()
    await asyncio.sleep(1.0)
    await asyncio.to_thread(deployment.engine.start)
    async with asyncio.timeout(10):
        said = await waiting
    sampled = deployment.sampled(mark)
    assert sorted(list(call.completion) for call in await deployment.kept(attempt)) == sampled
    assert sorted(map(deployment.text, sampled)) == sorted(said)


@pytest.mark.slow
async def test_a_dead_engine_is_a_503_that_says_where_to_look(deployment):
    deployment.engine.kill()
    attempt = new_attempt()
    for message in await errors(every_way(deployment, attempt), 503):
        assert f"engine {deployment.engine.url}" in message
        assert "is it running" in message
    assert await deployment.kept(attempt) == []


async def test_an_engines_refusal_is_the_clients_error(deployment):
    deployment.says(status=400, message="top_k must be positive")
    attempt = new_attempt()
    for message in await errors(every_way(deployment, attempt), 400):
        assert "top_k must be positive" in message
    assert await deployment.kept(attempt) == []


async def test_a_client_that_loses_patience_gets_the_answer_at_its_next_try_and_nothing_is_sampled_twice(deployment):
    deployment.says(first_s=1.3)
    mark, attempt = deployment.mark(), new_attempt()
    folded = (await deployment.stats())["folded"]
    said = await answers(every_way(deployment, attempt, timeout=0.6, max_retries=6))
    sampled = deployment.sampled(mark)
    assert len(sampled) == len(said)
    assert sorted(map(deployment.text, sampled)) == sorted(said.values())
    assert sorted(list(call.completion) for call in await deployment.kept(attempt)) == sampled
    assert (await deployment.stats())["folded"] - folded >= len(said)


@pytest.mark.parametrize("silence_s", [0.6, pytest.param(31.0, marks=[pytest.mark.slow, pytest.mark.soak])])
async def test_a_silent_engine_is_waited_for(deployment, silence_s):
    deployment.says(first_s=silence_s, step_s=0.1, count=3)
    mark, attempt = deployment.mark(), new_attempt()
    said = await answers(every_way(deployment, attempt, timeout=SILENCE_S))
    assert sorted(said.values()) == sorted(map(deployment.text, deployment.sampled(mark)))
    assert len(await deployment.kept(attempt)) == len(said)


async def test_an_engine_that_dies_under_one_choice_keeps_the_tokens_of_all(deployment):
    deployment.says(hang_at=2)
    mark, attempt = deployment.mark(), new_attempt()
    chat = DIALECTS["chat"]
    async with chat.client(deployment.proxy.url, key_of(attempt)) as client:
        events = await client.chat.completions.create(**chat.request, n=3, stream=True)
        with contextlib.suppress(chat.sdk.APIError):
            heard = 0
            async for event in events:
                heard += bool(chat.piece(event))
                if heard == 6:
                    deployment.engine.kill()
    assert sorted(list(call.completion) for call in await deployment.kept(attempt)) == deployment.sampled(mark)
    assert [len(ids) for ids in deployment.sampled(mark)] == [2, 2, 2]
