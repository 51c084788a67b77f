"""Conversations over the Responses API: however an agent sends back what it got, it stays one chain."""

import asyncio
import json
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, OpenAI
from proxy_world import World, world_of

USER = {"role": "user", "content": "hello"}
TOOL = {
    "type": "function",
    "name": "look",
    "description": "look outside",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Zürich", "n": 1.0}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": "look", "arguments": {"city"}}\n</tool_call>'


@pytest.fixture
async def client(world):
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key(), max_retries=0) as made:
        yield made


def output_of(item: Any, text: str = "sunny") -> dict[str, Any]:
    kind = "custom_tool_call_output" if item.type == "custom_tool_call" else "function_call_output"
    return {"type": kind, "call_id": item.call_id, "output": text}


async def final(client: AsyncOpenAI, *, stream: bool, **request: Any) -> Any:
    """Return a response, however it came."""
    if not stream:
        return await client.responses.create(model="m", **request)
    async with client.responses.stream(model="m", **request) as events:
        async for _ in events:
            pass
        return await events.get_final_response()


async def chain(world: World) -> list[Any]:
    """Return the recorded calls, each of which must continue the one before."""
    calls = await world.recorded()
    assert [call.parent for call in calls] == [None, *(call.id for call in calls[:-1])]
    assert [call.drift for call in calls] == [None] * len(calls)
    return calls


def without(*names: str):
    return lambda items: [{name: value for name, value in item.items() if name not in names} for item in items]


def compacted(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts = [
        {"role": "assistant", "content": item["content"][0]["text"]} for item in items if item["type"] == "message"
    ]
    return [*texts, *(item for item in without("id", "status")(items) if item["type"] == "function_call")]


def reserialised(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        item | {"arguments": json.dumps({"n": 1, "city": "Zürich"})} if "arguments" in item else item for item in items
    ]


SPELLINGS = {
    "as they came": list,
    "without ids": without("id"),
    "without ids and status": without("id", "status"),
    "as easy messages": compacted,
    "calls first": lambda items: items[::-1],
    "calls first, without ids": lambda items: without("id")(items[::-1]),
    "without the text beside calls": lambda items: [item for item in items if item["type"] != "message"],
    "arguments serialised anew": reserialised,
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_an_agent_that_sends_back_what_it_got_stays_in_one_chain(world, client, stream):
    world.says(f"let me look {CALL}\n{CALL}", f"once more {CALL} {BROKEN}", "", "it is sunny")
    items: list[Any] = [USER]
    for _ in range(3):
        response = await final(client, stream=stream, input=items, tools=[TOOL], instructions="be brief")
        calls = [item for item in response.output if item.type == "function_call"]
        items += [*response.output, *map(output_of, calls), *([] if calls else [USER])]
    response = await final(client, stream=stream, input=items, tools=[TOOL], instructions="be brief")
    assert response.output_text == "it is sunny"
    one, *_ = await chain(world)
    assert one.tools == [
        {"type": "function", "function": {name: TOOL[name] for name in ("name", "description", "parameters")}}
    ]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_reply_is_recognised_however_it_is_sent_back(world, spelling):
    world.says(f"let me look {CALL}", "it is sunny")
    body = {"model": "m", "tools": [TOOL], "input": [USER]}
    _, first = await world.post(body, path="/v1/responses")
    result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "sunny"}
    body["input"] += [*SPELLINGS[spelling](first["output"]), result]
    status, _ = await world.post(body, path="/v1/responses")
    assert status == 200
    _, two = await chain(world)
    assert two.messages == [{"role": "tool", "tool_call_id": result["call_id"], "content": "sunny"}]


async def test_an_edited_reply_opens_a_new_chain_and_says_so(world, client):
    world.says("it is sunny")
    items = [USER, {"role": "assistant", "content": "it is rainy"}, USER]
    await client.responses.create(model="m", input=[USER])
    await client.responses.create(model="m", input=items)
    _, two = await world.recorded()
    assert (two.parent, two.drift) == (None, "edited")


async def test_two_replies_in_a_row_are_two_messages(world, client):
    world.says("one", "two", "three")
    items: list[Any] = [USER]
    for _ in range(3):
        items += (await client.responses.create(model="m", input=items)).output
    calls = await chain(world)
    assert [call.messages for call in calls] == [[USER], [], []]


@pytest.mark.parametrize("spelling", ["as it came", "dropped", "summary alone", "last"])
async def test_a_thinking_model_reasons_in_an_item_of_its_own(model_dir, tmp_path, spelling):
    async with world_of(model_dir("thinking"), tmp_path, reasoning="think") as world:
        world.says("<think>\nhm\n</think>\n\nhello", "<think>\nwell\n</think>\n\ndone")
        async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key()) as client:
            first = await final(client, stream=True, input="hello")
            thought, said = first.output
            assert (thought.type, thought.content[0].text, first.output_text) == ("reasoning", "hm", "hello")
            summary = {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "x",
            }
            echo = {"dropped": [said], "summary alone": [summary, said], "last": [said, thought]}
            items = [USER, *echo.get(spelling, [thought, said]), USER]
            second = await final(client, stream=False, input=items)
            assert [item.type for item in second.output] == ["reasoning", "message"]
        await chain(world)
        assert "hm" in world.renderer.tokenizer.decode(world.engine.requests[1]["input_ids"])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_tools_of_free_text_and_of_namespaces_stay_in_one_chain(world, client, stream):
    patch = '<tool_call>\n{"name": "patch", "arguments": {"input": "*** Begin"}}\n</tool_call>'
    odd = '<tool_call>\n{"name": "patch", "arguments": {"diff": 1}}\n</tool_call>'
    far = '<tool_call>\n{"name": "mcp__look", "arguments": {}}\n</tool_call>'
    world.says(f"{patch}\n{odd}\n{far}", "done")
    tools = [
        {"type": "custom", "name": "patch", "description": "edits files"},
        {"type": "namespace", "name": "mcp", "description": "far away", "tools": [TOOL]},
    ]
    first = await final(client, stream=stream, input=[USER], tools=tools)
    assert [item.type for item in first.output] == ["custom_tool_call", "custom_tool_call", "function_call"]
    assert [item.input for item in first.output[:2]] == ["*** Begin", '{"diff": 1}']
    assert (first.output[2].name, first.output[2].namespace) == ("look", "mcp")
    items = [USER, *first.output, *map(output_of, first.output)]
    second = await final(client, stream=stream, input=items, tools=tools)
    assert second.output_text == "done"
    await chain(world)


async def test_a_reply_that_has_to_call_a_tool_calls_it_and_the_chain_goes_on(world, client):
    world.says('{"city": "Paris"}}\n</tool_call>', "it is sunny")
    first = await client.responses.create(
        model="m", input=[USER], tools=[TOOL], tool_choice={"type": "function", "name": "look"}
    )
    [call] = first.output
    assert (call.name, json.loads(call.arguments)) == ("look", {"city": "Paris"})
    second = await client.responses.create(
        model="m", input=[USER, call, output_of(call)], tools=[TOOL], tool_choice="none"
    )
    assert second.output_text == "it is sunny"
    await chain(world)


async def test_what_the_length_limit_cuts_is_incomplete_and_can_be_continued(world, client):
    world.says("hello world", "thank you", eos=False, finish={"type": "length"})
    first = await client.responses.create(model="m", input=[USER], max_output_tokens=16)
    assert (first.status, first.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    stream = await client.responses.create(model="m", input=[USER, *first.output, USER], stream=True)
    assert [event.type async for event in stream][-1] == "response.incomplete"
    await chain(world)


async def test_a_coding_agent_that_keeps_no_ids_and_no_reasoning_stays_in_one_chain(world):
    """The shape of what Codex sends: a stream, nothing stored, items without ids, reasoning without its text."""
    world.says(f"let me look {CALL}", "it is sunny")
    body = {
        "model": "gpt-5-codex", "instructions": "You are a coding agent.", "tools": [TOOL], "tool_choice": "auto",
        "parallel_tool_calls": True, "reasoning": None, "store": False, "stream": True, "include": [],
        "prompt_cache_key": "k", "client_metadata": {"x-codex-installation-id": "i"},
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions/>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment/>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        ],
    }  # fmt: skip
    for _ in range(2):
        headers = {"authorization": f"Bearer {world.key()}"}
        async with world.http.post(f"{world.url}/v1/responses", json=body, headers=headers) as reply:
            lines = (await reply.text()).split("\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert events[-1]["type"] == "response.completed"
        body["input"] += without("id", "status")(done)
        body["input"] += [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
            for item in done
            if item["type"] == "function_call"
        ]
    one, _ = await chain(world)
    assert [message["role"] for message in one.messages] == ["system", "developer", "user", "user"]


async def test_the_synchronous_client_calls_a_tool_and_goes_on(world):
    world.says(CALL, "it is sunny")

    def agent() -> str:
        with OpenAI(base_url=f"{world.url}/s/a-1/v1", api_key="sk-x") as client:
            items: list[Any] = [USER]
            with client.responses.stream(model="m", input=items, tools=[TOOL]) as stream:
                [call] = stream.get_final_response().output
            items += [call, output_of(call)]
            return client.responses.create(model="m", input=items, tools=[TOOL]).output_text

    assert await asyncio.to_thread(agent) == "it is sunny"
    await chain(world)


async def test_a_request_goes_on_from_a_response_by_its_id(world, client):
    world.says(CALL, "it is sunny", "thank you")
    first = await client.responses.create(model="m", input=[USER], tools=[TOOL])
    second = await client.responses.create(
        model="m", input=[output_of(first.output[0])], tools=[TOOL], previous_response_id=first.id
    )
    third = await final(client, stream=True, input="and then", tools=[TOOL], previous_response_id=second.id)
    assert (third.output_text, third.previous_response_id) == ("thank you", second.id)
    await chain(world)


async def test_instructions_are_not_carried_over_by_a_response_id(world, client):
    world.says("one", "two")
    first = await client.responses.create(model="m", input="a", instructions="be brief")
    await client.responses.create(model="m", input="b", instructions="be loud", previous_response_id=first.id)
    text = world.renderer.tokenizer.decode(world.engine.requests[1]["input_ids"], skip_special_tokens=False)
    assert text.startswith("<|im_start|>system\nbe loud<|im_end|>\n<|im_start|>user\na<|im_end|>\n")
    assert "be brief" not in text


async def test_a_response_id_that_is_not_known_is_the_clients_error(world, client):
    world.says("one")
    kept = await client.responses.create(model="m", input="a", store=False)
    for unknown in (kept.id, "resp_0"):
        with pytest.raises(APIError) as raised:
            await client.responses.create(model="m", input="b", previous_response_id=unknown)
        assert raised.value.param == "previous_response_id"
        assert unknown in str(raised.value)
