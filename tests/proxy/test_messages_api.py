"""Anthropic Messages, plain: what clients get, what reaches the engine, and what is refused."""

import json

import pytest
from anthropic import AsyncAnthropic, AuthenticationError, BadRequestError, PermissionDeniedError
from proxy_world import world_of

from nexrl_proxy.dialects.messages import MessagesDialect
from nexrl_proxy.errors import ApiError

TOOLS = [{"name": "look", "description": "see", "input_schema": {"type": "object", "properties": {}}}]
HELLO = [{"role": "user", "content": "hello"}]
CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Zürich", "n": 1.0}}\n</tool_call>'


def client(world, attempt="a-1", **options):
    return AsyncAnthropic(base_url=world.url, api_key=world.key(attempt), max_retries=0, **options)


async def ask(world, status=200, **body):
    got, reply = await world.post({"model": "m", "max_tokens": 64, "messages": HELLO, **body}, path="/v1/messages")
    assert got == status, reply
    return reply


def decoded(**body):
    return MessagesDialect().decode(json.dumps({"model": "m", "max_tokens": 64, "messages": HELLO, **body}).encode())


async def test_a_message_is_answered_and_recorded_as_the_engine_saw_it(world):
    world.says("it is sunny")
    reply = await ask(world, system="be brief")
    [call] = await world.recorded()
    [asked] = world.engine.requests
    assert reply == {
        "id": call.response, "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": "it is sunny"}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {
            "input_tokens": len(asked["input_ids"]) - 2, "output_tokens": len(call.completion),
            "cache_read_input_tokens": 2, "cache_creation_input_tokens": 0,
        },
    }  # fmt: skip
    assert reply["id"].startswith("msg_")
    assert world.renderer.tokenizer.decode(asked["input_ids"], skip_special_tokens=False) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (call.dialect, call.drift, call.temperature) == ("messages", None, 1.0)
    assert call.messages == [{"role": "system", "content": "be brief"}, *HELLO]
    assert call.reply == {"role": "assistant", "content": "it is sunny"}


async def test_the_official_client_calls_a_tool_and_goes_on(world):
    world.says(f"let me look{CALL}\n{CALL}", "it is sunny")
    async with client(world) as anthropic:
        options = {"model": "claude-x", "max_tokens": 64, "tools": TOOLS}
        first = await anthropic.messages.create(messages=HELLO, **options)
        text, one, two = first.content
        assert first.stop_reason == "tool_use"
        assert (text.text, one.name, one.input) == ("let me look", "look", {"city": "Zürich", "n": 1.0})
        assert one.id.startswith("toolu_")
        assert one.id != two.id
        results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in (one, two)]
        messages = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
        second = await anthropic.messages.create(messages=messages, **options)
        assert (second.content[0].text, second.stop_reason, second.model) == ("it is sunny", "end_turn", "claude-x")
    before, after = await world.recorded()
    assert (after.parent, after.drift) == (before.id, None)
    assert after.messages == [{"role": "tool", "tool_call_id": use.id, "content": "sunny"} for use in (one, two)]
    assert before.tools == [
        {"type": "function", "function": {"name": "look", "description": "see", "parameters": TOOLS[0]["input_schema"]}}
    ]


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "omitted"])
async def test_thinking_is_a_block_of_its_own_and_may_come_back_or_not(model_dir, tmp_path, shown):
    async with world_of(model_dir("thinking"), tmp_path, reasoning="think") as world, client(world) as anthropic:
        world.says("<think>\nhm\n</think>\n\nhello", "done")
        thinking = {"type": "enabled", "budget_tokens": 1024, "display": "summarized" if shown else "omitted"}
        options = {"model": "m", "max_tokens": 2048, "thinking": thinking}
        first = await anthropic.messages.create(messages=HELLO, **options)
        assert [block.to_dict() for block in first.content] == [
            {"type": "thinking", "thinking": "hm" if shown else "", "signature": ""},
            {"type": "text", "text": "hello"},
        ]
        echo = {"role": "assistant", "content": first.content}
        await anthropic.messages.create(messages=[*HELLO, echo, {"role": "user", "content": "more"}], **options)
        one, two = await world.recorded()
        assert (two.parent, two.drift) == (one.id, None)
        assert one.reply["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("thinking", "arguments"),
    [
        (None, {}),
        ({"type": "enabled", "budget_tokens": 1024}, {"enable_thinking": True}),
        ({"type": "adaptive", "display": "summarized"}, {"enable_thinking": True}),
        ({"type": "disabled"}, {"enable_thinking": False}),
    ],
)
def test_thinking_is_an_argument_of_the_chat_template(thinking, arguments):
    assert decoded(thinking=thinking).template == arguments


async def test_a_message_says_why_it_stopped(world):
    world.says("hello world", eos=False, finish={"type": "stop", "matched": "wor"})
    reply = await ask(world, stop_sequences=["wor", "x"])
    assert (reply["content"], reply["stop_reason"], reply["stop_sequence"]) == (
        [{"type": "text", "text": "hello "}], "stop_sequence", "wor"
    )  # fmt: skip
    world.says("hello", eos=False, finish={"type": "length"})
    reply = await ask(world)
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("max_tokens", None)
    world.says("")
    assert (await ask(world))["content"] == []


async def test_sampling_parameters_reach_the_engine_under_its_names(world):
    world.says("ok")
    await ask(world, temperature=0.5, top_p=0.9, top_k=20, max_tokens=7, stop_sequences=["x"])
    params = world.engine.requests[0]["sampling_params"]
    assert params.pop("stop_token_ids") == sorted(world.renderer.eos)
    assert params == {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "max_new_tokens": 7, "stop": ["x"]}


async def test_what_cannot_change_the_result_is_accepted(world):
    world.says("ok")
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    body = {
        "metadata": {"user_id": "u"}, "service_tier": "auto", "container": None, "mcp_servers": [], "speed": "fast",
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, "top_k": 0,
        "output_config": {"effort": "high"}, "diagnostics": {"previous_message_id": None}, **cached,
        "tools": [{**TOOLS[0], "type": "custom", "strict": True, "eager_input_streaming": True, **cached}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "system": [{"type": "text", "text": "be brief", **cached}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello", "citations": None, **cached}]}],
    }  # fmt: skip
    beta = {"anthropic_beta": "context-management-2025-06-27", "anthropic_version": "2023-06-01"}
    status, reply = await world.post(
        {"model": "m", "max_tokens": 64, **body}, path="/v1/messages?beta=true", x_api_key=world.key(), **beta
    )
    assert status == 200, reply
    assert world.engine.requests[0]["sampling_params"].keys() == {"temperature", "max_new_tokens", "stop_token_ids"}


def image(**where):
    return {"type": "image", "source": {"type": "url", "url": "https://x"}, **where}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens is 0: use 1"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"stop_sequences": ["x"] * 17}, "number of stop_sequences is 17"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\].role: Invalid value 'tool'"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "The answer is ("}]}, r"messages\[1\].*prefill"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, image()]}]},
         r"messages\[0\].content\[1\].type: Invalid value 'image'"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "'document'"),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [image()]}]}]},
         r"messages\[0\].content\[0\].content\[0\].type: Invalid value 'image'"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}]},
         "'tool_use'"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": "x"}]},
                       *HELLO]}, r"messages\[0\].content\[0\].input: Expected `object`"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]},
         r"tools\[0\] is of type 'web_search_20250305'"),
        ({"tools": [*TOOLS, {"type": "bash_20250124", "name": "bash"}]}, r"tools\[1\] is of type 'bash_20250124'"),
        ({"tools": [{"name": "f"}]}, r"tools\[0\]: .*`input_schema`"),
        ({"tools": [{**TOOLS[0], "frobnicate": 1}]}, r"tools\[0\]: .*`frobnicate`"),
        ({"tools": [{**TOOLS[0], "defer_loading": True}]}, "defer_loading"),
        ({"tools": [{**TOOLS[0], "allowed_callers": ["code_execution_20250825"]}]}, "allowed_callers"),
        ({"tool_choice": {"type": "any"}}, "needs tools"),
        ({"tool_choice": {"type": "tool", "name": "hear"}, "tools": TOOLS}, "'hear': use one of look"),
        ({"tool_choice": {"type": "sometimes"}, "tools": TOOLS}, "'sometimes'"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"container": {"skills": []}}, "container"),
        ({"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "clear_tool_uses_20250919"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "task_budget"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
    ids=lambda value: str(sorted(value))[:40] if isinstance(value, dict) else None,
)  # fmt: skip
def test_what_is_malformed_or_cannot_be_honoured_is_refused_by_name(body, complaint):
    with pytest.raises(ApiError, match=complaint) as raised:
        decoded(**body)
    assert raised.value.status == 400
    assert raised.value.param in body


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]", {"messages": HELLO}, {"max_tokens": 9}])
async def test_a_malformed_body_is_the_clients_error_and_records_nothing(world, body):
    status, reply = await world.post(body, path="/v1/messages")
    assert status == 400
    assert reply.keys() == {"type", "error", "request_id"}
    assert (reply["type"], reply["error"]["type"]) == ("error", "invalid_request_error")
    assert await world.flush() == 0
    assert world.engine.requests == []


def test_a_json_schema_is_the_engines_grammar():
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    asked = {"type": "json_schema", "schema": schema}
    expected = '{"type":"object","properties":{"title":{"type":"string"}}}'
    assert decoded(output_config={"format": asked}).sampling == {"json_schema": expected}
    assert decoded(output_format=asked, tools=[]).sampling == {"json_schema": expected}


def test_a_tool_that_has_to_be_called_is_named():
    assert decoded(tools=TOOLS).must_call is None
    assert decoded(tools=TOOLS, tool_choice={"type": "any"}).must_call == ""
    assert decoded(tools=TOOLS, tool_choice={"type": "tool", "name": "look"}).must_call == "look"


async def test_a_tool_use_is_text_where_the_request_forbids_it_and_the_chain_goes_on(world):
    world.says(CALL, "it is sunny")
    first = await ask(world, tools=TOOLS, tool_choice={"type": "none"})
    assert (first["content"], first["stop_reason"]) == ([{"type": "text", "text": CALL}], "end_turn")
    echo = [*HELLO, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": "go on"}]
    await ask(world, tools=TOOLS, messages=echo)
    one, two = await world.recorded()
    assert (two.parent, two.drift) == (one.id, None)


async def test_a_tool_that_has_to_be_called_is_called(world):
    world.says('{"city": "Paris"}}\n</tool_call>')
    reply = await ask(world, tools=TOOLS, tool_choice={"type": "tool", "name": "look"})
    [block] = reply["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "look", {"city": "Paris"})


def test_examples_of_a_tools_input_are_shown_in_its_schema():
    [tool] = decoded(tools=[{**TOOLS[0], "input_examples": [{"city": "Paris"}]}]).tools
    assert tool["function"]["parameters"]["examples"] == [{"city": "Paris"}]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (405, "invalid_request_error"), (413, "request_too_large"),
        (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"), (503, "overloaded_error"),
        (504, "timeout_error"), (529, "overloaded_error"),
    ],
)  # fmt: skip
def test_errors_have_anthropics_types(status, kind):
    body = MessagesDialect().error(ApiError("why", status=status, kind="ours"))
    assert body == {"type": "error", "error": {"type": kind, "message": "why"}, "request_id": None}


async def test_the_official_client_raises_its_own_errors(world):
    options = {"model": "m", "max_tokens": 64}
    async with client(world) as anthropic:
        with pytest.raises(BadRequestError, match="prompt is too long"):
            await anthropic.messages.create(messages=[{"role": "user", "content": "x y" * 5000}], **options)
        with pytest.raises(PermissionDeniedError, match="a-2"):
            await anthropic.messages.create(messages=HELLO, extra_headers={"x-nexrl-session": "a-2"}, **options)
    async with AsyncAnthropic(base_url=world.url, api_key="nxr-a-1.wrong", max_retries=0) as anthropic:
        with pytest.raises(AuthenticationError, match="signature"):
            await anthropic.messages.create(messages=HELLO, **options)
    assert world.engine.requests == []


async def test_the_token_count_is_that_of_the_prompt(world):
    world.says("ok")
    body = {"model": "m", "messages": HELLO, "system": "be brief", "tools": TOOLS}
    async with client(world) as anthropic:
        counted = await anthropic.messages.count_tokens(**body)
        await anthropic.messages.create(max_tokens=9, **body)
    assert counted.input_tokens == len(world.engine.requests[0]["input_ids"])
    assert await world.flush() == 1
