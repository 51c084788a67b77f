"""What an attempt asked and got an error for: an agent that swallows it is explained by the flush."""

import pytest
from openai import AsyncOpenAI
from proxy_world import ADMIN
from scripted_engine import Line

from nexrl_proxy.errors import ApiError
from nexrl_proxy.refused import LONGEST, MOST, Refusals

HELLO = [{"role": "user", "content": "Hi"}]
ASK = {"model": "m", "messages": HELLO}


async def flushed(world, attempt="a-1"):
    path = f"/api/sessions/{attempt}/flush?end=true"
    status, answer = await world.post({}, path=path, authorization=f"Bearer {ADMIN}")
    assert status == 200
    return answer


def refuse(world, message):
    world.engine.script = lambda _: Line(ids=[], status=400, message=message)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/chat/completions", {**ASK, "temperature": "hot"}, 400, "temperature"),
        ("/v1/chat/completions", ASK, 400, "the engine has no such thing"),
        ("/v1/responses", {"model": "m", "input": "Hi", "previous_response_id": "gone"}, 400, "gone"),
        ("/chat/completions", ASK, 404, "the base URL of this client ends in /v1"),
    ],
    ids=["the dialect", "the engine", "the session", "no route"],
)
async def test_a_flush_says_how_many_requests_got_an_error_and_what_the_last_one_was_told(
    world, path, body, status, said
):
    refuse(world, "the engine has no such thing")
    await world.post({**ASK, "n": 0})
    assert (await world.post(body, path=path))[0] == status
    assert (await world.post(body, path=path, attempt="a-2"))[0] == status
    answer = await flushed(world)
    assert (answer["calls"], answer["refused"]["count"], answer["refused"]["status"]) == (0, 2, status)
    assert said in answer["refused"]["message"]
    assert (await flushed(world, "a-2"))["refused"]["count"] == 1
    assert (await flushed(world, "a-3"))["refused"] is None


async def test_an_error_in_the_midst_of_a_stream_is_told_like_any_other(world):
    world.breaks_off("It is sunny today", before=4)
    headers = {"authorization": f"Bearer {world.key()}"}
    async with world.http.post(
        f"{world.url}/v1/chat/completions", json={**ASK, "stream": True}, headers=headers
    ) as reply:
        assert (reply.status, "it is gone" in await reply.text()) == (200, True)
    refused = (await flushed(world))["refused"]
    assert (refused["count"], "it is gone" in refused["message"]) == (1, True)


async def test_operators_errors_are_nobodys_and_calls_that_succeed_are_no_refusals(world):
    world.says("Hello")
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key()) as client:
        await client.chat.completions.create(**ASK)
    await world.post({}, path="/api/sessions/a-1/flush?end=1", authorization=f"Bearer {ADMIN}")
    await world.post({}, path="/api/sessions/a-1/flush")  # with the attempt's key, which reaches no such thing
    assert (await flushed(world))["refused"] is None


def test_only_the_latest_attempts_and_beginnings_of_messages_are_kept():
    refusals = Refusals()
    for number in range(MOST + 1):
        refusals.note(f"a-{number}", ApiError("x" * 10 * LONGEST))
    assert refusals.of("a-0") is None
    assert refusals.of(f"a-{MOST}").message == "x" * LONGEST
