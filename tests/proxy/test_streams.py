"""Chat completions, streamed: the same content for the same tokens, as it is sampled, and nothing lost."""

import asyncio
import json
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, OpenAI
from proxy_world import until
from scripted_engine import Line

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
HELLO = [{"role": "user", "content": "hello"}]
CALL = '<tool_call>{"name": "look", "arguments": {"city": "Zürich"}}</tool_call>'


async def chunks(world, **options: Any) -> list[dict[str, Any]]:
    """Return a stream's events; it must end with [DONE]."""
    body = {"model": "m", "messages": HELLO, "stream": True, **options}
    headers = {"authorization": f"Bearer {world.key()}"}
    async with world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as reply:
        assert reply.status == 200
        assert reply.content_type == "text/event-stream"
        *events, done = [line for line in (await reply.text()).split("\n\n") if line]
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def assembled(events: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for event in events:
        for choice in event["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            for name in ("content", "reasoning_content"):
                if delta.get(name):
                    message[name] = (message.get(name) or "") + delta[name]
            for call in delta.get("tool_calls", []):
                shown = {name: value for name, value in call.items() if name not in ("id", "index")}
                message.setdefault("tool_calls", []).append(shown)
    return message


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{name: value for name, value in call.items() if name != "id"} for call in message.get("tool_calls", [])]
    return {**message, **({"tool_calls": calls} if calls else {})}


@pytest.mark.parametrize(
    "text",
    [
        "it is sunny",
        "Grüße, 日本 and 👍🏽",
        f"let me look {CALL}",
        f"{CALL}\n{CALL}",
        f"a <tool {CALL} rest",
        f"broken <tool_call>{{</tool_call> then {CALL}",
        "an open <tool_call>{",
        "ends like <tool_ca",
        "  spaced  ",
        "",
    ],
)
@pytest.mark.parametrize("shape", ["cumulative", "delta"])
async def test_streamed_and_plain_replies_agree(world, text, shape):
    world.says(text, shape=shape)
    events = await chunks(world, tools=TOOLS)
    plain = (await world.chat(HELLO, tools=TOOLS))["choices"][0]
    assert assembled(events) == without_ids(plain["message"])
    assert events[-1]["choices"][0]["finish_reason"] == plain["finish_reason"]
    one, two = await world.recorded()
    assert (one.completion, one.logprobs, one.malformed_tool_call) == (
        two.completion, two.logprobs, two.malformed_tool_call
    )  # fmt: skip


async def test_no_piece_holds_half_a_character_or_markup(world):
    world.says(f"日本 👍 {CALL}")
    pieces = [choice["delta"].get("content") or "" for event in await chunks(world, tools=TOOLS)
              for choice in event["choices"]]  # fmt: skip
    assert len([piece for piece in pieces if piece]) > 1
    assert not any("\ufffd" in piece or "<" in piece for piece in pieces)


async def test_tokens_leave_while_the_engine_still_samples(world):
    world.engine.script = lambda _: Line(ids=world.ids("hello world"), pause_before=3)
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key()) as client:
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await world.engine.paused.wait()
        await stream.close()


async def test_a_client_that_leaves_a_stream_stops_the_engine_and_loses_no_token(world):
    ids = world.ids("hello world it is sunny")
    world.engine.script = lambda _: Line(ids=ids, pause_before=4)
    request = asyncio.create_task(chunks(world))
    await world.engine.paused.wait()
    request.cancel()
    await until(lambda: world.sampler.counters["calls"] == 1)
    [call] = await world.recorded()
    assert (list(call.completion), call.finish_reason) == (ids[:4], "abort")
    assert len(call.logprobs) == 4


async def test_a_client_that_leaves_a_plain_request_stops_the_engine_and_loses_no_token(world):
    ids = world.ids("hello world it is sunny")
    world.engine.script = lambda _: Line(ids=ids, pause_before=4)
    request = asyncio.create_task(world.chat(HELLO))
    await world.engine.paused.wait()
    request.cancel()
    await until(lambda: world.sampler.counters["calls"] == 1)
    [call] = await world.recorded()
    assert (list(call.completion), call.finish_reason) == (ids[:4], "abort")


async def test_an_engine_that_breaks_off_ends_the_stream_with_an_error_and_keeps_its_tokens(world):
    ids = world.breaks_off("hello world it is sunny", before=4)
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key(), max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        with pytest.raises(APIError, match="4 tokens were sampled"):
            [chunk async for chunk in stream]
    [call] = await world.recorded()
    assert (list(call.completion), call.finish_reason) == (ids[:4], "abort")


async def test_usage_comes_last_where_it_was_asked_for(world):
    world.says("ok")
    events = await chunks(world, stream_options={"include_usage": True})
    [call] = await world.recorded()
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == len(call.completion)
    assert all("usage" not in event for event in await chunks(world))


async def test_streamed_logprobs_are_one_per_token(world):
    world.says("日本 ok")
    events = await chunks(world, logprobs=True)
    await world.flush()
    shown = [token["logprob"] for event in events for choice in event["choices"] if choice["logprobs"]
             for token in choice["logprobs"]["content"]]  # fmt: skip
    assert shown == list(world.ingest.calls[0].logprobs)


async def test_n_choices_stream_side_by_side(world):
    world.says("one", "two")
    events = await chunks(world, n=2)
    assert {assembled(events, index)["content"] for index in (0, 1)} == {"one", "two"}
    assert len(await world.recorded()) == 2


async def test_a_refusal_keeps_its_status_although_a_stream_was_asked_for(world):
    world.engine.script = lambda _: Line(ids=[], status=400, message="top_k must be positive")
    status, reply = await world.post({"messages": HELLO, "stream": True})
    assert status == 400
    assert "top_k must be positive" in reply["error"]["message"]


async def test_the_official_synchronous_client_streams_a_tool_call_and_goes_on(world):
    world.says(f"let me look {CALL}", "done")

    def agent() -> str:
        with OpenAI(base_url=f"{world.url}/v1", api_key=world.key()) as client:
            messages: list[Any] = list(HELLO)
            with client.chat.completions.stream(model="m", messages=messages, tools=TOOLS) as stream:
                message = stream.get_final_completion().choices[0].message
            messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "x"}]
            return client.chat.completions.create(model="m", messages=messages, tools=TOOLS).choices[0].message.content

    assert await asyncio.to_thread(agent) == "done"
    one, two = await world.recorded()
    assert (two.parent, two.drift) == (one.id, None)
