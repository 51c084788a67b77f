"""A schema beside tools: the engine gets a grammar under which a reply is the JSON, or calls as its model does."""

import json
import re
from typing import Any

import pytest
from families import FAMILIES, Reply
from family_talk import CALL, TOOLS
from proxy_world import world_of

from nexrl.sampling import altered
from nexrl_proxy.grammar import json_or_call
from nexrl_proxy.parsers.think import THINK

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


def pattern(part: dict[str, Any]) -> str:  # noqa: PLR0911 - one line a kind
    """Return what a structural tag matches as a regular expression, with `{"a": NUMBER}` for any schema."""
    match part:
        case {"type": "const_string", "value": value}:
            return re.escape(value)
        case {"type": "regex", "pattern": given}:
            return given
        case {"type": "any_text"}:
            return ".*"
        case {"type": "json_schema"}:
            return r'\{"a": \d+\}'
        case {"type": "sequence", "elements": elements}:
            return "".join(map(pattern, elements))
        case {"type": "or", "elements": elements}:
            return f"(?:{'|'.join(map(pattern, elements))})"
        case {"type": "optional", "content": content}:
            return f"(?:{pattern(content)})?"
        case {"type": "tag", "begin": begin, "content": content, "end": end}:
            return re.escape(begin) + pattern(content) + re.escape(end)
    raise AssertionError(part)


def allows(asked: dict[str, Any], text: str) -> bool:
    tag = json.loads(asked["sampling_params"]["structural_tag"])
    assert tag["type"] == "structural_tag"
    return re.fullmatch(pattern(tag["format"]), text, re.DOTALL) is not None


def test_the_structural_tag_is_what_xgrammar_reads():
    tag = json.loads(json_or_call('{"type":"object"}', call="<tool_call>", thought=THINK, open_thought=False))
    gap = {"type": "regex", "pattern": "[ \\n]*"}
    anything = {"type": "any_text"}
    thinking = {"type": "tag", "begin": "<think>", "content": anything, "end": "</think>"}
    called = {"type": "sequence", "elements": [{"type": "const_string", "value": "<tool_call>"}, anything]}
    either = {"type": "or", "elements": [{"type": "json_schema", "json_schema": {"type": "object"}}, called]}
    first = {"type": "optional", "content": {"type": "sequence", "elements": [gap, thinking]}}
    assert tag == {"type": "structural_tag", "format": {"type": "sequence", "elements": [first, gap, either]}}


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"gpt_oss", "llama3"}))
async def test_a_reply_is_json_or_a_call_as_the_family_writes_it(model_of, tmp_path, name):
    family = FAMILIES[name]
    thought = "" if "reasoning" in family.lacks else "I look"
    called = Reply(calls=[CALL], reasoning=thought)
    async with world_of(model_of(name), tmp_path, reasoning="auto") as world:
        world.says(family.write(called, False) + family.ends(called), eos=False)
        reply = await world.chat(HELLO, tools=TOOLS, response_format=FORM)
        [call] = reply["choices"][0]["message"]["tool_calls"]
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == CALL
        [asked] = world.engine.requests
        assert "json_schema" not in asked["sampling_params"]
        assert allows(asked, family.write(called, False))
        assert allows(asked, family.write(Reply(content='{"a": 3}', reasoning=thought), False))
        assert not allows(asked, family.write(Reply(content="it is sunny", reasoning=thought), False))
        [record] = await world.recorded()
        assert altered(record.sampling) == ["structural_tag"], "the trainer knows that a grammar was in force"


async def test_where_a_tool_must_be_called_there_is_no_text_for_a_schema(model_of, tmp_path):
    async with world_of(model_of("hermes"), tmp_path) as world:
        world.says('get_weather", "arguments": {}}\n</tool_call>')
        await world.chat(HELLO, tools=TOOLS, tool_choice="required", response_format=FORM)
        assert {"json_schema", "structural_tag"}.isdisjoint(world.engine.requests[0]["sampling_params"])


@pytest.mark.parametrize(("name", "calls"), [("gpt_oss", "harmony"), ("llama3", "llama3"), ("chatml", "none")])
async def test_a_model_whose_calls_no_grammar_tells_from_json_refuses_the_two_together(model_of, tmp_path, name, calls):
    async with world_of(model_of(name), tmp_path, reasoning="auto", tools=calls) as world:
        status, reply = await world.post({"messages": HELLO, "tools": TOOLS, "response_format": FORM})
        assert (status, reply["error"]["param"], world.engine.requests) == (400, "response_format", [])
        assert f"({calls})" in reply["error"]["message"]
        world.says('{"a": 3}')
        await world.chat(HELLO, response_format=FORM)
        await world.chat(HELLO, tools=TOOLS, tool_choice="none", response_format=FORM)
        assert ["json_schema" in asked["sampling_params"] for asked in world.engine.requests] == [True, True]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_other_dialects_say_the_same(model_of, tmp_path, path):
    function = TOOLS[0]["function"]
    bodies = {
        "/v1/responses": {"input": "hello", "tools": [{"type": "function", **function}],
                          "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
        "/v1/messages": {"messages": HELLO, "max_tokens": 9, "output_format": {"type": "json_schema", "schema": SCHEMA},
                         "tools": [{"name": "get_weather", "input_schema": function["parameters"]}]},
    }  # fmt: skip
    async with world_of(model_of("hermes"), tmp_path) as world:
        world.says('{"a": 3}')
        status, reply = await world.post({"model": "m", **bodies[path]}, path=path)
        assert status == 200, reply
        assert allows(world.engine.requests[0], '{"a": 3}')
        assert allows(world.engine.requests[0], '<tool_call>\n{"name": "get_weather"}')
