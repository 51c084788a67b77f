"""The Responses API through the official client: what agents get, plain and streamed, and what is recorded of it."""

import json
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError
from openai.types.responses import Response
from pydantic import BaseModel
from scripted_engine import Line

TOOL = {
    "type": "function",
    "name": "look",
    "description": "look outside",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Zürich", "n": 1.0}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": "look", "arguments": {"city"}}\n</tool_call>'
USER = {"role": "user", "content": "hello"}


class Weather(BaseModel):
    city: str
    sunny: bool


@pytest.fixture
async def client(world):
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key(), max_retries=0) as made:
        yield made


async def final(client: AsyncOpenAI, *, stream: bool, **request: Any) -> Any:
    """Return a response, however it came."""
    if not stream:
        return await client.responses.create(model="m", **request)
    async with client.responses.stream(model="m", **request) as events:
        async for _ in events:
            pass
        return await events.get_final_response()


def same(response: Any) -> Any:
    """Return a response without what differs from request to request."""
    told = json.dumps(response.to_dict())
    for item in response.output:
        told = told.replace(getattr(item, "call_id", None) or item.id, "call")
    told = json.loads(told.replace(response.id, "resp").replace(response.id.removeprefix("resp_"), "a1"))
    told.pop("created_at")
    for item in told["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content", []):
            part.pop("parsed", None)
    return told


async def test_a_response_is_answered_and_recorded_as_the_engine_saw_it(world, client):
    world.says("it is sunny")
    response = await client.responses.create(
        model="gpt-5", input="hello", instructions="be brief", temperature=0.7, metadata={"a": "b"}
    )
    Response.model_validate(response.to_dict())
    assert (response.output_text, response.status, response.model) == ("it is sunny", "completed", "gpt-5")
    assert (response.instructions, response.temperature, response.metadata) == ("be brief", 0.7, {"a": "b"})
    [call] = await world.recorded()
    [asked] = world.engine.requests
    assert world.renderer.tokenizer.decode(asked["input_ids"], skip_special_tokens=False) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (call.dialect, call.model, call.response, call.temperature) == ("responses", "gpt-5", response.id, 0.7)
    assert call.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert response.usage.input_tokens == len(asked["input_ids"])
    assert response.usage.output_tokens == len(call.completion)


@pytest.mark.parametrize(
    "text",
    ["it is sunny", f"let me look {CALL}", f"{CALL}\n{CALL}", f"{CALL} {BROKEN}", ""],
    ids=["text", "text and a call", "two calls", "a call and a broken one", "nothing"],
)
async def test_the_official_client_accumulates_the_plain_response(world, client, text):
    world.says(text)
    plain, streamed = [await final(client, stream=stream, input="hello", tools=[TOOL]) for stream in (False, True)]
    assert same(streamed) == same(plain)
    one, two = await world.recorded()
    assert (one.completion, one.malformed_tool_call) == (two.completion, two.malformed_tool_call)


async def test_text_leaves_while_the_engine_still_samples(world, client):
    world.engine.script = lambda _: Line(ids=world.ids("hello world"), pause_before=3)
    stream = await client.responses.create(model="m", input="hello", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await world.engine.paused.wait()
    await stream.close()


async def test_structured_output_is_parsed_and_the_engine_holds_to_the_schema(world, client):
    world.says('{"city": "Paris", "sunny": true}')
    parsed = await client.responses.parse(model="m", input="hello", text_format=Weather)
    async with client.responses.stream(model="m", input="hello", text_format=Weather) as events:
        streamed = await events.get_final_response()
    assert parsed.output_parsed == streamed.output_parsed == Weather(city="Paris", sunny=True)
    assert [json.loads(asked["sampling_params"]["json_schema"])["required"] for asked in world.engine.requests] == [
        ["city", "sunny"]
    ] * 2


async def test_calls_are_text_where_the_request_forbids_them(world, client):
    world.says(CALL)
    response = await client.responses.create(model="m", input="x", tools=[TOOL], tool_choice="none")
    assert response.output_text == CALL


async def test_logprobs_are_those_of_the_sampled_tokens(world, client):
    world.says("hi")
    include = ["message.output_text.logprobs"]
    plain, streamed = [await final(client, stream=stream, input="x", include=include) for stream in (False, True)]
    one, _ = await world.recorded()
    for response in (plain, streamed):
        [part] = response.output[0].content
        assert [entry.logprob for entry in part.logprobs] == list(one.logprobs)


async def test_errors_are_the_official_clients_exceptions(world, client):
    with pytest.raises(BadRequestError) as hosted:
        await client.responses.create(model="m", input="x", tools=[{"type": "file_search"}])
    with pytest.raises(BadRequestError) as long:
        await client.responses.create(model="m", input="x y" * 5000)
    with pytest.raises(BadRequestError) as template:
        await client.responses.create(model="m", input="x", extra_body={"chat_template_kwargs": {"tools": []}})
    assert [(error.value.code, error.value.param) for error in (hosted, long, template)] == [
        ("unsupported_parameter", "tools"),
        ("context_length_exceeded", "input"),
        ("unsupported_parameter", "chat_template_kwargs"),
    ]
    assert await world.flush() == 0
    assert world.engine.requests == []


async def test_a_refusal_keeps_its_status_although_a_stream_was_asked_for(world, client):
    world.engine.script = lambda _: Line(ids=[], status=400, message="top_k must be positive")
    with pytest.raises(BadRequestError, match="top_k must be positive"):
        await client.responses.create(model="m", input="x", stream=True)


async def test_an_engine_that_breaks_off_ends_the_stream_with_an_error_and_keeps_its_tokens(world, client):
    ids = world.breaks_off("hello world it is sunny", before=4)
    stream = await client.responses.create(model="m", input="hello", stream=True)
    with pytest.raises(APIError, match="4 tokens were sampled"):
        [event async for event in stream]
    [call] = await world.recorded()
    assert (list(call.completion), call.finish_reason) == (ids[:4], "abort")
