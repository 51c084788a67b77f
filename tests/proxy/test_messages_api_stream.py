"""Anthropic Messages, streamed: events in their order, that add up to the plain message for the same tokens."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anthropic import APIStatusError, AsyncAnthropic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy_world import World, until, world_of
from scripted_engine import Line

from nexrl_proxy.dialects import Choice, Opening, Usage
from nexrl_proxy.dialects.messages_reply import MessagesReply
from nexrl_proxy.parsers import Content, Reasoning
from nexrl_proxy.reading import Called

TOOLS = [{"name": "look", "input_schema": {"type": "object"}}]
HELLO = [{"role": "user", "content": "hello"}]
BODY = {"model": "m", "max_tokens": 64, "messages": HELLO}
CALL = '<tool_call>{"name": "look", "arguments": {"city": "Zürich"}}</tool_call>'
DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Return a stream's events; each names its type twice."""
    events = []
    for event in stream.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def assembled(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that events add up to; they must come in Anthropic's order, one block after the other."""
    start, *blocks, delta, stop = [event for event in events if event["type"] != "ping"]
    assert (start["type"], delta["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    message = start["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    open_block = None
    for event in blocks:
        if event["type"] == "content_block_start":
            assert open_block is None
            assert event["index"] == len(message["content"])
            open_block = event["content_block"]
            open_block["pieces"] = []
            message["content"].append(open_block)
        else:
            assert event["index"] == len(message["content"]) - 1
            if event["type"] == "content_block_stop":
                close(open_block)
                open_block = None
            else:
                assert event["delta"][DELTAS[event["delta"]["type"]]]
                open_block["pieces"].append(event["delta"])
    assert open_block is None
    return message | delta["delta"] | {"usage": message["usage"] | delta["usage"]}


def close(block: dict[str, Any]) -> None:
    """Put a block's pieces where a plain message has them."""
    pieces = block.pop("pieces")
    [kind] = {piece["type"] for piece in pieces} or {None}
    whole = "".join(piece[DELTAS[kind]] for piece in pieces)
    if block["type"] == "tool_use":
        assert (kind, block["input"]) == ("input_json_delta", {})
        block["input"] = json.loads(whole)
    elif pieces:
        assert block[DELTAS[kind]] == ""
        block[DELTAS[kind]] = whole


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    blocks = [{name: value for name, value in block.items() if name != "id"} for block in message["content"]]
    return {**message, "id": "", "content": blocks}


async def streamed(world: World, **body: Any) -> bytes:
    headers = {"x-api-key": world.key()}
    asked = {**BODY, "stream": True, **body}
    async with world.http.post(f"{world.url}/v1/messages", json=asked, headers=headers) as reply:
        assert reply.status == 200
        assert reply.content_type == "text/event-stream"
        return await reply.read()


async def plain(world: World, **body: Any) -> dict[str, Any]:
    status, reply = await world.post({**BODY, **body}, path="/v1/messages")
    assert status == 200, reply
    return reply


async def test_a_stream_is_the_events_anthropic_names(world):
    world.says(f"hi {CALL}")
    events = events_of(await streamed(world, tools=TOOLS))
    kinds = [event["type"] for event in events]
    assert [kind for place, kind in enumerate(kinds) if kinds[place - 1 : place] != [kind]] == [
        "message_start", "ping", "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    [asked] = world.engine.requests
    assert events[0]["message"]["usage"]["input_tokens"] == len(asked["input_ids"])
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


@pytest.mark.parametrize(
    "text",
    [
        "it is sunny",
        "Grüße, 日本 and 👍🏽",
        f"look {CALL}",
        f"{CALL}\n{CALL}",
        f"broken <tool_call>{{</tool_call> {CALL}",
        f"{CALL} and <tool_call>{{</tool_call>",
        "an open <tool_call>{",
        "",
    ],
)
async def test_streamed_and_plain_messages_agree(world, text):
    world.says(text)
    events = events_of(await streamed(world, tools=TOOLS))
    assert without_ids(assembled(events)) == without_ids(await plain(world, tools=TOOLS))
    one, two = await world.recorded()
    assert (one.completion, one.logprobs) == (two.completion, two.logprobs)


pieces = st.sampled_from(
    ["a", " ", "\n", "é日", "👍", "<think>", "</think>", "<tool_call>", "</tool_call>", CALL, "<to"]
)


@given(st.lists(st.lists(pieces, max_size=12).map("".join), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sampled_adds_up_to_the_plain_message(model_dir, texts):
    asyncio.run(compare(model_dir("chatml"), texts))


async def compare(model: Path, texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as data:
        async with world_of(model, Path(data), reasoning="think") as world:
            for text in texts:
                world.says(text)
                events = events_of(await streamed(world, tools=TOOLS))
                assert without_ids(assembled(events)) == without_ids(await plain(world, tools=TOOLS))


calls = st.tuples(st.sampled_from(["look", "hör"]), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))
reasonings = st.lists(st.text(max_size=5).map(Reasoning), max_size=3)
answers = st.lists(st.one_of(st.text(max_size=5).map(Content), calls), max_size=8)


@given(reasonings, answers, st.booleans(), st.randoms(use_true_random=False))
def test_a_message_cut_anywhere_adds_up_to_the_plain_one(reasoning, answer, shown, draw):
    answer = [Called(place, f"toolu_{place}", part[0], json.dumps(part[1])) if isinstance(part, tuple) else part
              for place, part in enumerate(answer)]  # fmt: skip
    choice = Choice(message=message_of([*reasoning, *answer]), finish_reason="stop")
    usage = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3)
    reply = MessagesReply(OPENING, shows_thinking=shown)
    stream, rest = reply.first(), [*reasoning, *answer]
    while rest:
        size = draw.randrange(1, 4)
        stream += reply.delta(0, rest[:size], None)
        rest = rest[size:]
    stream += reply.last(0, choice) + reply.end(usage)
    whole = json.loads(msgspec.json.encode(MessagesReply(OPENING, shows_thinking=shown).whole([choice], usage)))
    assert assembled(events_of(stream)) == whole
    assert whole["usage"]["input_tokens"] == 4


OPENING = Opening(response="msg_1", model="m", created=0, prompt_tokens=7)


def message_of(deltas: list[Any]) -> dict[str, Any]:
    """Return the assistant message of deltas, as the proxy reads it."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for delta in deltas:
        match delta:
            case Content(text):
                message["content"] = (message["content"] or "") + text
            case Reasoning(text):
                message["reasoning_content"] = message.get("reasoning_content", "") + text
            case Called(_, call, name, arguments):
                function = {"name": name, "arguments": arguments}
                message.setdefault("tool_calls", []).append({"id": call, "type": "function", "function": function})
    return message


async def test_tokens_leave_while_the_engine_still_samples(world):
    world.engine.script = lambda _: Line(ids=world.ids("hello world"), pause_before=3)
    async with AsyncAnthropic(base_url=world.url, api_key=world.key()) as anthropic:
        async with anthropic.messages.stream(**BODY) as stream:
            async for _ in stream.text_stream:
                break
        await until(lambda: world.sampler.counters["calls"] == 1)
    [call] = await world.recorded()
    assert call.finish_reason == "abort"


async def test_the_official_client_assembles_a_tool_use_and_goes_on(world):
    world.says(f"let me look {CALL}", "done")
    async with AsyncAnthropic(base_url=world.url, api_key=world.key()) as anthropic:
        async with anthropic.messages.stream(tools=TOOLS, **BODY) as stream:
            message = await stream.get_final_message()
        assert [block.type for block in message.content] == ["text", "tool_use"]
        use = message.content[1]
        assert (use.input, message.stop_reason) == ({"city": "Zürich"}, "tool_use")
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
        messages = [*HELLO, message.to_param(), {"role": "user", "content": [result]}]
        async with anthropic.messages.stream(tools=TOOLS, **{**BODY, "messages": messages}) as stream:
            assert await stream.get_final_text() == "done"
            usage = (await stream.get_final_message()).usage
    one, two = await world.recorded()
    assert (two.parent, two.drift) == (one.id, None)
    prompt = world.engine.requests[1]["input_ids"]
    assert (usage.input_tokens + usage.cache_read_input_tokens, usage.output_tokens) == (
        len(prompt), len(two.completion)
    )  # fmt: skip


async def test_an_engine_that_breaks_off_ends_the_stream_with_an_error_and_keeps_its_tokens(world):
    ids = world.breaks_off("hello world it is sunny", before=4)
    async with AsyncAnthropic(base_url=world.url, api_key=world.key(), max_retries=0) as anthropic:
        with pytest.raises(APIStatusError, match="4 tokens were sampled") as raised:
            async with anthropic.messages.stream(**BODY) as stream:
                await stream.get_final_message()
    assert raised.value.body["error"]["type"] == "overloaded_error"
    [call] = await world.recorded()
    assert (list(call.completion), call.finish_reason) == (ids[:4], "abort")


async def test_a_refusal_keeps_its_status_although_a_stream_was_asked_for(world):
    world.engine.script = lambda _: Line(ids=[], status=400, message="top_k must be positive")
    status, reply = await world.post({**BODY, "stream": True}, path="/v1/messages")
    assert (status, reply["error"]["type"]) == (400, "invalid_request_error")
    assert "top_k must be positive" in reply["error"]["message"]
