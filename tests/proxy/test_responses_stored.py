"""Responses that are named by their id, through the official client: read again, their input listed, deleted."""

from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError
from openai.types.responses import Response
from proxy_world import ADMIN, served, world_of
from scripted_openai import ScriptedOpenAI

from nexrl_ingest.assembly.sequences import sequences
from nexrl_proxy.models import Other

USER = {"role": "user", "content": "hello"}
LOOK = {"type": "function", "name": "look", "description": "looks", "parameters": {"type": "object"}, "strict": False}
PATCH = {"type": "custom", "name": "patch", "description": "edits files"}
CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Zürich"}}\n</tool_call>'
EDIT = '<tool_call>\n{"name": "patch", "arguments": {"input": "*** Begin"}}\n</tool_call>'
GONE = "resp_0123"


@pytest.fixture
async def client(world):
    async with client_of(world, "a-1") as made:
        yield made


def client_of(world, attempt: str, *, prefix: str = "") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{world.url}{prefix}/v1", api_key=world.key(attempt), max_retries=0)


def output_of(item: Any) -> dict[str, Any]:
    kind = "custom_tool_call_output" if item.type == "custom_tool_call" else "function_call_output"
    return {"type": kind, "call_id": item.call_id, "output": "sunny"}


async def listed(client: AsyncOpenAI, response: str, **page: Any) -> list[Any]:
    return [item async for item in client.responses.input_items.list(response, **page)]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_response_is_read_again_as_it_was_given(world, client, stream):
    world.says(f"let me look {CALL}\n{EDIT}")
    request: dict[str, Any] = {
        "model": "gpt-5", "input": [USER], "instructions": "be brief", "tools": [LOOK, PATCH], "metadata": {"a": "b"},
        "temperature": 0.5, "max_output_tokens": 300,
    }  # fmt: skip
    if stream:
        events = [event async for event in await client.responses.create(**request, stream=True)]
        given = events[-1].response
    else:
        given = await client.responses.create(**request)
    again = await client.responses.retrieve(given.id, include=["reasoning.encrypted_content"])
    assert again.to_dict() == given.to_dict()


@pytest.mark.parametrize("prefix", ["", "/s/a-1"])
async def test_a_response_is_read_back_from_ingest_where_the_proxy_forgot_it(world, prefix):
    world.says(f"let me look {CALL}", "it is sunny", eos=False, finish={"type": "length"})
    async with client_of(world, "a-1", prefix=prefix) as client:
        first = await client.responses.create(model="m", input=[USER], tools=[LOOK], instructions="be brief")
        second = await client.responses.create(
            model="m", input=[output_of(first.output[1])], tools=[LOOK], instructions="be loud", temperature=0.5,
            previous_response_id=first.id,
        )  # fmt: skip
        items = await listed(client, second.id)
        await world.restart()
        world.ingest.reads.clear()
        again = await client.responses.retrieve(second.id)
        assert await listed(client, second.id) == items
        assert world.ingest.reads == ["a-1"], "it is read once"
    Response.model_validate(again.to_dict())
    same = ("id", "model", "status", "incomplete_details", "output", "instructions", "temperature", "tools", "store")
    assert [getattr(again, name) for name in same] == [getattr(second, name) for name in same]
    assert abs(again.created_at - second.created_at) <= 1
    assert (again.usage.input_tokens, again.usage.output_tokens) == (
        second.usage.input_tokens,
        second.usage.output_tokens,
    )


async def test_the_input_of_a_response_is_all_that_it_went_on_from(world, client):
    world.says(f"let me look {CALL}\n{EDIT}", "it is sunny")
    tools = [LOOK, PATCH]
    asked = [{"role": "developer", "content": "look first"}, USER]
    first = await client.responses.create(model="m", input=asked, tools=tools, instructions="be brief")
    second = await client.responses.create(
        model="m", input=list(map(output_of, first.output[1:])), tools=tools, previous_response_id=first.id
    )
    items = await listed(client, second.id, order="asc")
    assert [item.type for item in items] == [
        "message", "message", "message", "function_call", "custom_tool_call", "function_call_output",
        "custom_tool_call_output",
    ]  # fmt: skip
    assert [(item.role, item.content[0].text) for item in items[:3]] == [
        ("developer", "look first"), ("user", "hello"), ("assistant", "let me look"),
    ]  # fmt: skip
    assert (items[3].arguments, items[4].input) == (first.output[1].arguments, "*** Begin")
    assert [item.call_id for item in items[3:]] == [first.output[1].call_id, first.output[2].call_id] * 2
    assert {item.output for item in items[5:]} == {"sunny"}
    assert len({item.id for item in items}) == len(items)


async def test_an_input_that_is_sent_again_stays_in_the_chain(world, client):
    world.says(f"let me look {CALL}", "it is sunny", "thank you")
    first = await client.responses.create(model="m", input=[USER], tools=[LOOK])
    second = await client.responses.create(
        model="m", input=[output_of(first.output[1])], tools=[LOOK], previous_response_id=first.id
    )
    items = await listed(client, second.id, order="asc")
    await client.responses.create(model="m", input=[*items, *second.output, USER], tools=[LOOK])
    one, two, three = await world.recorded()
    assert (two.parent, three.parent) == (one.id, two.id)


async def test_input_items_come_in_pages_the_latest_first(world, client):
    world.says("ok")
    texts = [f"text {k}" for k in range(5)]
    given = await client.responses.create(model="m", input=[{"role": "user", "content": text} for text in texts])
    page = await client.responses.input_items.list(given.id, limit=2)
    assert ([item.content[0].text for item in page.data], page.has_more) == (["text 4", "text 3"], True)
    assert [item.content[0].text for item in await listed(client, given.id, limit=2)] == texts[::-1]
    assert [item.content[0].text for item in await listed(client, given.id, limit=3, order="asc")] == texts
    last = await client.responses.input_items.list(given.id, after=page.last_id, limit=3)
    assert ([item.content[0].text for item in last.data], last.has_more) == (["text 2", "text 1", "text 0"], False)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"order": "down"}, "order"),
        ({"after": "msg_1"}, "after"),
        ({"include": ["everything"]}, "include"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
    ],
)
async def test_a_page_that_cannot_be_given_is_refused_by_name(world, client, query, param):
    world.says("ok")
    given = await client.responses.create(model="m", input="hello")
    with pytest.raises(BadRequestError) as raised:
        await client.responses.input_items.list(given.id, **query)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"stream": True}, "stream"),
        ({"starting_after": 3}, "starting_after"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
    ],
)
async def test_what_cannot_be_given_with_a_response_is_refused_by_name(world, client, asked, param):
    world.says("ok")
    given = await client.responses.create(model="m", input="hello")
    with pytest.raises(BadRequestError) as raised:
        await client.responses.retrieve(given.id, **asked)
    assert (raised.value.param, raised.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_response_is_its_own_attempts_alone_and_one_that_was_not_stored_nobodys(world, client, forgets):
    world.says("ok")
    stored = await client.responses.create(model="m", input="hello")
    unstored = await client.responses.create(model="m", input="hello", store=False)
    if forgets:
        await world.restart()
    async with client_of(world, "a-2") as stranger:
        for asking, response in ((stranger, stored.id), (client, unstored.id), (client, GONE)):
            for ask in (asking.responses.retrieve, asking.responses.delete, asking.responses.cancel):
                with pytest.raises(NotFoundError) as raised:
                    await ask(response)
                assert (raised.value.code, raised.value.param) == ("response_not_found", "response_id")
                assert response in str(raised.value)
            with pytest.raises(NotFoundError):
                await asking.responses.input_items.list(response)
    assert (await client.responses.retrieve(stored.id)).output_text == "ok"
    with pytest.raises(BadRequestError):
        await client.responses.create(model="m", input="go on", previous_response_id=unstored.id)


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_deleted_response_is_gone_and_what_was_sampled_stays(world, client, forgets):
    world.says("one", "two", "three")
    first = await client.responses.create(model="m", input="a")
    second = await client.responses.create(model="m", input="b", previous_response_id=first.id)
    if forgets:
        await world.restart()
    assert await client.responses.delete(first.id) is None
    if forgets:
        await world.restart()
    for ask in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(NotFoundError):
            await ask(first.id)
    with pytest.raises(BadRequestError) as raised:
        await client.responses.create(model="m", input="c", previous_response_id=first.id)
    assert raised.value.code == "previous_response_not_found"
    await client.responses.create(model="m", input="c", previous_response_id=second.id)
    calls = await world.recorded()
    assert [call.parent for call in calls] == [None, calls[0].id, calls[1].id]
    [sequence] = sequences(calls)
    assert sum(sequence.loss_mask) == sum(len(call.completion) for call in calls)


async def test_a_deletion_outlives_the_process(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path) as world, client_of(world, "a-1") as client:
        world.says("one")
        kept, gone = [await client.responses.create(model="m", input=text) for text in "ab"]
        await client.responses.delete(gone.id)
        calls = await world.recorded()
        spans = world.ingest.spans
    async with world_of(model_dir("chatml"), tmp_path) as world, client_of(world, "a-1") as client:
        world.ingest.spans = spans
        assert (await client.responses.retrieve(kept.id)).id == kept.id
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(gone.id)
        assert world.ingest.calls == calls


async def test_a_deletion_that_the_disk_refuses_is_told_and_not_done(world, client, tmp_path):
    world.says("ok")
    given = await client.responses.create(model="m", input="hello")
    (tmp_path / "spool" / "deleted-responses").mkdir()
    with pytest.raises(APIError) as raised:
        await client.responses.delete(given.id)
    assert (raised.value.status_code, raised.value.code) == (503, "disk_unavailable")
    assert (await client.responses.retrieve(given.id)).id == given.id


async def test_the_tokens_of_an_input_are_counted_as_a_response_would_have_them(world, client):
    world.says("ok")
    first = await client.responses.create(model="m", input="hello", tools=[LOOK])
    request: dict[str, Any] = {"model": "m", "input": "and then?", "tools": [LOOK], "previous_response_id": first.id}
    counted = await client.responses.input_tokens.count(**request)
    second = await client.responses.create(**request)
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", second.usage.input_tokens)


async def test_only_what_runs_in_the_background_could_be_cancelled(world, client):
    world.says("ok")
    given = await client.responses.create(model="m", input="hello")
    with pytest.raises(BadRequestError, match="does not run in the background"):
        await client.responses.cancel(given.id)


async def test_an_attempt_that_has_ended_reads_nothing(world, client):
    world.says("ok")
    given = await client.responses.create(model="m", input="hello")
    flush = f"{world.url}/api/sessions/a-1/flush?end=true"
    async with world.http.post(flush, headers={"authorization": f"Bearer {ADMIN}"}) as reply:
        assert reply.status == 200
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(APIError) as raised:
            await ask(given.id)
        assert (raised.value.status_code, raised.value.code) == (403, "session_ended")
    assert world.ingest.reads == []


async def test_a_response_that_the_engine_broke_off_can_be_read(world, client):
    world.breaks_off("hello world it is sunny", before=4)
    events = await client.responses.create(model="m", input="hello", stream=True)
    begun = (await anext(aiter(events))).response
    with pytest.raises(APIError):
        [event async for event in events]
    again = await client.responses.retrieve(begun.id)
    assert (again.status, again.usage.output_tokens) == ("incomplete", 4)


async def test_what_another_model_answered_is_named_like_what_the_own_one_did(model_dir, tmp_path):
    scripted = ScriptedOpenAI()
    async with (
        served(scripted.app) as url,
        world_of(model_dir("chatml"), tmp_path, others={"judge": Other(url=url)}) as world,
        client_of(world, "a-1") as client,
    ):
        given = await client.responses.create(model="judge", input="hello")
        assert (await client.responses.retrieve(given.id)).to_dict() == given.to_dict()
        assert [item.content[0].text for item in await listed(client, given.id)] == ["hello"]
        await client.responses.delete(given.id)
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(given.id)


REFERENCES = {
    "all of them": lambda output: [{"type": "item_reference", "id": item.id} for item in output],
    "without a type": lambda output: [{"id": item.id} for item in output],
    "the calls alone": lambda output: [output[0], *({"id": item.id} for item in output[1:])],
}


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("spelling", REFERENCES)
async def test_items_of_a_stored_response_may_be_sent_by_their_ids(world, client, spelling, forgets):
    world.says(f"let me look {CALL}\n{CALL}", "it is sunny")
    first = await client.responses.create(model="m", input=[USER], tools=[LOOK], instructions="be brief")
    if forgets:
        await world.restart()
    items = [USER, *REFERENCES[spelling](first.output), *map(output_of, first.output[1:])]
    second = await client.responses.create(model="m", input=items, tools=[LOOK], instructions="be brief")
    one, two = await world.recorded()
    assert (two.parent, [message["role"] for message in two.messages]) == (one.id, ["tool", "tool"])
    told = [item.type for item in await listed(client, second.id, order="asc")]
    assert told == ["message", "message", *["function_call"] * 2, *["function_call_output"] * 2]


async def test_an_item_that_is_not_kept_cannot_be_sent_by_its_id(world, client):
    world.says("one")
    unstored = await client.responses.create(model="m", input="a", store=False)
    stored = await client.responses.create(model="m", input="a")
    for unknown in (unstored.output[0].id, stored.output[0].id.replace("msg_", "rs_"), f"{stored.output[0].id}.7"):
        with pytest.raises(BadRequestError, match=unknown) as raised:
            await client.responses.create(model="m", input=[{"type": "item_reference", "id": unknown}, USER])
        assert (raised.value.param, raised.value.code) == ("input", "item_not_found")
