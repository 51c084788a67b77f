"""The Responses request as it is decoded: what it asks for, and what is refused by name."""

import json
from typing import Any

import msgspec
import pytest

from nexrl_proxy.dialects.responses import decode
from nexrl_proxy.errors import ApiError

TOOL = {"type": "function", "name": "look", "description": "d", "parameters": {"type": "object"}, "strict": True}
LOOK = {"type": "function", "name": "look"}
PATCH = {"type": "custom", "name": "patch", "description": "edits"}
IMAGE = {"type": "input_image", "image_url": "u"}


def allowed(mode, *tools):
    return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}


def asked(**body: Any):
    return decode(json.dumps({"model": "m", "input": "hello", **body}).encode())


def test_functions_are_nested_as_chat_has_them_and_keep_nothing_that_is_not_for_the_model():
    function = {"name": "look", "description": "d", "parameters": {"type": "object"}}
    assert asked(tools=[TOOL]).tools == [{"type": "function", "function": function}]
    assert asked(tools=[{"type": "function", "name": "look", "parameters": None}]).tools == [
        {"type": "function", "function": {"name": "look"}}
    ]


def test_a_namespace_becomes_part_of_the_name():
    tools = [{"type": "namespace", "name": "mcp__files__", "description": "", "tools": [TOOL, PATCH]}]
    call = {"type": "function_call", "call_id": "c", "name": "look", "namespace": "mcp__files__", "arguments": "{}"}
    ask = asked(tools=tools, input=[{"role": "user", "content": "x"}, call])
    assert [tool["function"]["name"] for tool in ask.tools] == ["mcp__files__look", "mcp__files__patch"]
    assert ask.messages[1]["tool_calls"][0]["function"]["name"] == "mcp__files__look"


def test_a_custom_tool_is_a_function_of_one_text_and_its_grammar_is_told():
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    [tool] = asked(tools=[{**PATCH, "format": grammar}]).tools
    assert tool["function"]["parameters"]["required"] == ["input"]
    assert tool["function"]["description"] == "edits\n\n`input` must match this lark grammar:\nstart: /.+/"


@pytest.mark.parametrize(
    ("choice", "names", "must_call"),
    [
        (None, ["look", "patch"], None),
        ("auto", ["look", "patch"], None),
        ("none", ["look", "patch"], None),
        ("required", ["look", "patch"], ""),
        ({"type": "function", "name": "look"}, ["look", "patch"], "look"),
        ({"type": "custom", "name": "patch"}, ["look", "patch"], "patch"),
        (allowed("auto", LOOK), ["look"], None),
        (allowed("required", LOOK), ["look"], "look"),
        (allowed("required", TOOL, PATCH), ["look", "patch"], ""),
    ],
)
def test_a_tool_choice_says_what_may_and_what_must_be_called(choice, names, must_call):
    ask = asked(tools=[TOOL, PATCH], tool_choice=choice)
    assert [tool["function"]["name"] for tool in ask.tools] == names
    assert (ask.must_call, ask.may_call) == (must_call, choice != "none")


def test_a_request_says_everything_else_in_the_words_of_an_ask():
    ask = asked(
        temperature=0.5, top_p=0.9, top_k=20, max_output_tokens=7, stop="x", presence_penalty=1, seed=3, stream=True,
        previous_response_id="resp_1", top_logprobs=2, chat_template_kwargs={"enable_thinking": False},
        text={"format": {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}}},
    )  # fmt: skip
    assert ask.sampling == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 20, "presence_penalty": 1.0, "stop": ["x"],
        "json_schema": '{"type":"object"}',
    }  # fmt: skip
    assert (ask.max_tokens, ask.stops, ask.seed, ask.stream, ask.previous) == (7, ["x"], 3, True, "resp_1")
    assert (ask.logprobs, ask.top_logprobs, ask.store, ask.template) == (True, 2, True, {"enable_thinking": False})
    plain = asked(store=False, include=["message.output_text.logprobs"], text={"format": {"type": "json_object"}})
    assert (plain.store, plain.logprobs, plain.sampling) == (False, True, {"json_schema": '{"type":"object"}'})
    assert asked().sampling == {}


def test_what_cannot_change_the_result_is_accepted():
    accepted = {
        "metadata": {"a": "b"}, "parallel_tool_calls": False, "service_tier": "auto", "user": "u", "truncation": "auto",
        "safety_identifier": "s", "prompt_cache_key": "k", "stream_options": {"include_obfuscation": False},
        "max_tool_calls": 3, "background": False, "reasoning": {"effort": "low", "summary": "auto"}, "store": True,
        "include": ["reasoning.encrypted_content"], "text": {"verbosity": "low"}, "client_metadata": {"x": "y"},
        "conversation": None, "prompt": None, "tool_choice": "auto", "tools": [], "presence_penalty": 0,
    }  # fmt: skip
    ask = asked(**accepted)
    assert (ask.sampling, ask.tools, ask.must_call, ask.logprobs) == ({}, None, None, False)


@pytest.mark.parametrize(
    ("body", "param", "named"),
    [
        ({"frobnicate": 1}, "frobnicate", "frobnicate"),
        ({"input": None}, "input", "empty"),
        ({"input": []}, "input", "empty"),
        ({"input": ["x"]}, "input", "$.input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input", "input[0] is a reference"),
        ({"input": [{"id": "msg_1"}]}, "input", "a reference"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input", "web_search_call"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input", "input[0].role is 'critic'"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input", "input[0].content[0] is of type 'input_image'"),
        ({"input": [{"role": "user", "content": 5}]}, "input", "$.input[0].content"),
        ({"input": [{"role": "user", "content": [5]}]}, "input", "$.input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input", "input[0].content[0]"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input", "input[0].call_id"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": {"a": 1}}]},
            "input",
            "$.input[0].output",
        ),
        ({"tools": [{"type": "file_search"}]}, "tools", "tools[0] is of type 'file_search'"),
        ({"tools": [TOOL, {"type": "local_shell"}]}, "tools", "tools[1] is of type 'local_shell'"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools", "mcp"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "a function tool needs its name"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]}, "tools", "tools[0].tools[0]"),
        ({"tools": [TOOL, TOOL]}, "tools", "'look'"),
        ({"tools": ["look"]}, "tools", "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice", "give tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "listen"}}, "tool_choice", "tools has look"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice", "needs the name"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search_preview"}}, "tool_choice", "web_search_preview"),
        ({"tools": [TOOL], "tool_choice": allowed("auto", {"type": "mcp"})}, "tool_choice", "mcp"),
        ({"tools": [TOOL], "tool_choice": allowed("auto")}, "tool_choice", "give tools"),
        ({"background": True}, "background", "background"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "instructions"),
        ({"moderation": {"model": "omni"}}, "moderation", "moderation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "compaction"),
        ({"truncation": "middle"}, "truncation", "'auto'"),
        ({"include": ["everything"]}, "include", "everything"),
        ({"text": {"format": {"type": "grammar"}}}, "text", "grammar"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text", "schema"),
        ({"text": {"format": "json"}}, "text", "text"),
        ({"temperature": "hot"}, "temperature", "float"),
        ({"temperature": -1}, "temperature", "-1"),
        ({"top_p": 0}, "top_p", "top_p is 0"),
        ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens is 0"),
        ({"top_logprobs": 21}, "top_logprobs", "21"),
        ({"stop": ["x"] * 17}, "stop", "number of stop is 17"),
        ({"n": 2}, "n", "n"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body, param, named):
    with pytest.raises(ApiError) as raised:
        asked(**body)
    assert (raised.value.status, raised.value.param) == (400, param)
    assert named in str(raised.value)


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]", b'{"input": {}}'])
def test_a_body_that_is_no_request_is_the_clients_error(body):
    with pytest.raises(ApiError, match="the request is not"):
        decode(body)


def test_a_web_search_that_is_merely_offered_is_not_shown_to_the_model():
    ask = decode(
        msgspec.json.encode({"input": "hi", "tools": [TOOL, {"type": "web_search", "search_context_size": "low"}]})
    )
    assert [tool["function"]["name"] for tool in ask.tools or []] == [TOOL["name"]]
    assert ask.shown["tools"][1]["type"] == "web_search"
