"""Anthropic's turns: what they are as chat messages, and that a conversation is one chain however it is echoed."""

import asyncio
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy_world import World, world_of

from nexrl_proxy.dialects.messages import MessagesDialect

TOOLS = [{"name": "look", "description": "see", "input_schema": {"type": "object"}}]
CACHED = {"cache_control": {"type": "ephemeral"}}
CALL = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
REPLIES = [
    'let me look<tool_call>{"name": "look", "arguments": {"b": 1.0, "a": "é"}}</tool_call>',
    f"{CALL}\n{CALL}",
    "it is sunny",
    "<think>\nhm\n</think>\n\nyou are welcome",
]


def text(words, **more):
    return {"type": "text", "text": words, **more}


def use(call, **arguments):
    return {"type": "tool_use", "id": call, "name": "look", "input": arguments}


def result(call, content="sunny", **more):
    return {"type": "tool_result", "tool_use_id": call, "content": content, **more}


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def chat(*messages, system=None):
    body = {"model": "m", "max_tokens": 9, "messages": messages, "system": system}
    return MessagesDialect().decode(json.dumps(body).encode()).messages


def call(name, arguments="{}"):
    return {"id": name, "type": "function", "function": {"name": "look", "arguments": arguments}}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user(text("a"), text("b"))], [{"role": "user", "content": "a\nb"}]),
        ([user(text("a")), user(text("b"))], [{"role": "user", "content": "a\nb"}]),
        ([{"role": "user", "content": ""}], [{"role": "user", "content": ""}]),
        ([{"role": "user", "content": []}], [{"role": "user", "content": ""}]),
        (
            [user(text("hi")), {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"},
                text("a"), text("b"), use("t1", city="é"), use("t2")]},
             user(text("and"), result("t1"), result("t2", [text("x"), text("y")]), text("then"))],
            [{"role": "user", "content": "hi"},
             {"role": "assistant", "content": "ab", "reasoning_content": "hm",
              "tool_calls": [call("t1", '{"city":"é"}'), call("t2")]},
             {"role": "tool", "tool_call_id": "t1", "content": "sunny"},
             {"role": "tool", "tool_call_id": "t2", "content": "x\ny"},
             {"role": "user", "content": "and\nthen"}],
        ),
        (
            [user(text("hi")), {"role": "assistant", "content": [use("t1")]}, user(result("t1")), user(text(""))],
            [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [call("t1")]},
             {"role": "tool", "tool_call_id": "t1", "content": "sunny"}],
        ),
        (
            [user(text("hi")), {"role": "system", "content": [text("stay brief", **CACHED)]}],
            [{"role": "user", "content": "hi"}, {"role": "system", "content": "stay brief"}],
        ),
    ],
    ids=["blocks", "turns", "empty text", "no block", "everything", "results alone", "system inside"],
)  # fmt: skip
def test_turns_are_chat_messages(messages, expected):
    assert chat(*messages) == expected


@pytest.mark.parametrize(
    ("content", "marked", "expected"),
    [
        ("sunny", True, "Error: sunny"),
        ("no error", True, "no error"),
        ("", True, "Error"),
        (None, None, ""),
        ("", False, ""),
    ],
)
def test_a_failed_tool_says_so_in_words(content, marked, expected):
    assert chat(user(result("t", content, is_error=marked)))[0]["content"] == expected


@pytest.mark.parametrize("spelled", ["be brief", [text("be brief")], [text("be"), text("brief")]])
@pytest.mark.parametrize("billed", [True, False], ids=["billed", "plain"])
def test_the_system_prompt_comes_first_and_without_the_line_that_differs_from_request_to_request(spelled, billed):
    billing = "x-anthropic-billing-header: cc_version=2.1.1; cc_entrypoint=cli; cch=0aaa9;"
    if billed:
        spelled = f"{billing}\n{spelled}" if isinstance(spelled, str) else [text(billing), *spelled]
    [system, _] = chat(user(text("hi")), system=spelled)
    assert system["role"] == "system"
    assert system["content"].split() == ["be", "brief"]
    assert chat(user(text("hi")), system=[text(billing)] if billed else "") == [{"role": "user", "content": "hi"}]


def test_a_system_turn_at_the_start_is_part_of_the_system_prompt():
    messages = chat({"role": "system", "content": "b"}, user(text("hi")), system="a")
    assert messages == [{"role": "system", "content": "a\nb"}, {"role": "user", "content": "hi"}]


def as_it_came(message):
    return [message]


def as_a_string(message):
    blocks = message["content"]
    alone = isinstance(blocks, list) and [block["type"] for block in blocks] == ["text"]
    return [{**message, "content": blocks[0]["text"]}] if alone else [message]


def with_cache_control(message):
    return [{**message, "content": [{**block, **CACHED} for block in blocks_of(message)]}]


def without_thinking(message):
    return [{**message, "content": [block for block in blocks_of(message) if block["type"] != "thinking"]}]


def one_turn_a_block(message):
    return [{**message, "content": [block]} for block in blocks_of(message)] or [message]


def respelled(message):
    blocks = copy.deepcopy(blocks_of(message))
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = dict(sorted(block["input"].items()))
            block["caller"] = {"type": "direct"}
        if block["type"] == "tool_result" and isinstance(block["content"], str):
            block["content"] = [text(block["content"], **CACHED)]
    return [{**message, "content": blocks}]


ECHOES = [as_it_came, as_a_string, with_cache_control, without_thinking, one_turn_a_block, respelled]


def blocks_of(message):
    content = message["content"]
    return [text(content)] if isinstance(content, str) else content


async def converse(world: World, echo) -> None:
    """Lead a conversation whose history is spelled anew for every request."""
    world.says(*REPLIES)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
    for turn in range(len(REPLIES)):
        sent = [echoed for message in messages for echoed in echo(message)]
        body = {"model": "m", "max_tokens": 64, "messages": sent, "tools": TOOLS, "stream": False}
        system = [text(f"x-anthropic-billing-header: cch={turn};"), text("be brief", **(CACHED if turn % 2 else {}))]
        status, reply = await world.post({**body, "system": system}, path="/v1/messages")
        assert status == 200, reply
        messages.append({"role": "assistant", "content": reply["content"]})
        results = [result(block["id"]) for block in reply["content"] if block["type"] == "tool_use"]
        messages.append(user(*results, text("<system-reminder>mind</system-reminder>"), text(f"go on {turn}")))
    calls = await world.recorded()
    assert [call.parent for call in calls] == [None, *(call.id for call in calls[:-1])]
    assert {call.drift for call in calls} == {None}
    assert len(calls) == len(REPLIES)


@pytest.mark.parametrize("echo", ECHOES)
async def test_a_conversation_is_one_chain_however_its_turns_are_echoed(model_dir, tmp_path, echo):
    async with world_of(model_dir("chatml"), tmp_path, reasoning="think") as world:
        await converse(world, echo)


@given(st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_conversation_is_one_chain_though_every_turn_is_echoed_in_another_way(model_dir, draw):
    def at_random(message):
        return draw.choice(ECHOES)(message)

    async def talk() -> None:
        with tempfile.TemporaryDirectory() as data:
            async with world_of(model_dir("chatml"), Path(data), reasoning="think") as world:
                await converse(world, at_random)

    asyncio.run(talk())


async def test_an_edited_turn_opens_a_new_chain_and_says_so(world):
    world.says("ok")
    body = {"model": "m", "max_tokens": 64}
    first = [user(text("hello"))]
    _, reply = await world.post({**body, "messages": first}, path="/v1/messages")
    echo = {"role": "assistant", "content": [text(reply["content"][0]["text"] + " and more")]}
    await world.post({**body, "messages": [*first, echo, user(text("on"))]}, path="/v1/messages")
    _, two = await world.recorded()
    assert (two.parent, two.drift) == (None, "edited")
