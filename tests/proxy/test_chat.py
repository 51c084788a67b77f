"""Chat completions, plain: what agents get, and what is recorded of it."""

import re

import pytest
from openai import AsyncOpenAI, BadRequestError
from scripted_engine import Line

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
HELLO = [{"role": "user", "content": "hello"}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


async def test_a_call_is_answered_and_recorded_as_the_engine_saw_it(world):
    world.says("it is sunny")
    reply = await world.chat(HELLO, temperature=0.7)
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "it is sunny"}
    assert reply["choices"][0]["finish_reason"] == "stop"
    [call] = await world.recorded()
    [asked] = world.engine.requests
    answer = world.engine.answers[asked["rid"]]
    assert world.renderer.tokenizer.decode(asked["input_ids"], skip_special_tokens=False) == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert list(call.prompt_delta) == asked["input_ids"]
    assert list(call.completion) == answer.ids
    assert list(call.logprobs) == answer.logprobs
    assert list(call.weight_versions) == [3] * len(answer.ids)
    assert (call.parent, call.drift, call.temperature, call.messages) == (None, None, 0.7, HELLO)
    assert call.reply == reply["choices"][0]["message"]
    assert call.response == reply["id"]
    assert reply["usage"]["prompt_tokens"] == len(asked["input_ids"])
    assert world.ingest.services == {"nexrl-proxy"}


async def test_a_second_turn_extends_the_first_call_token_for_token(world):
    world.says("hello world", "thank you")
    first = await world.chat(HELLO)
    more = [{"role": "user", "content": "what is the weather"}]
    await world.chat([*HELLO, first["choices"][0]["message"], *more])
    one, two = await world.recorded()
    assert two.parent == one.id
    assert world.engine.requests[1]["input_ids"] == [*one.prompt_delta, *one.completion, *two.prompt_delta]
    assert world.renderer.tokenizer.decode(list(two.prompt_delta), skip_special_tokens=False) == (
        "\n<|im_start|>user\nwhat is the weather<|im_end|>\n<|im_start|>assistant\n"
    )
    assert two.messages == more
    assert two.drift is None


async def test_the_official_client_calls_a_tool_and_goes_on(world):
    world.says(f"let me look{CALL}", "it is sunny")
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key()) as client:
        messages = list(HELLO)
        first = await client.chat.completions.create(model="anything", messages=messages, tools=TOOLS)
        message = first.choices[0].message
        [tool] = message.tool_calls
        assert first.choices[0].finish_reason == "tool_calls"
        assert (message.content, tool.function.name) == ("let me look", "get_weather")
        assert tool.function.arguments == '{"city": "Paris"}'
        messages += [message, {"role": "tool", "tool_call_id": tool.id, "content": "sunny"}]
        second = await client.chat.completions.create(model="anything", messages=messages, tools=TOOLS)
        assert second.choices[0].message.content == "it is sunny"
    one, two = await world.recorded()
    assert (two.parent, two.drift, two.tools) == (one.id, None, None)
    assert one.tools == TOOLS


async def test_n_choices_are_n_calls_that_share_a_reply(world):
    world.says("one", "two", "three")
    reply = await world.chat(HELLO, n=3, seed=5)
    calls = await world.recorded()
    assert {call.response for call in calls} == {reply["id"]}
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert sorted(choice["message"]["content"] for choice in reply["choices"]) == ["one", "three", "two"]
    assert sorted(asked["sampling_params"]["sampling_seed"] for asked in world.engine.requests) == [5, 6, 7]


async def test_logprobs_are_those_of_the_sampled_tokens(world):
    world.engine.script = lambda _: Line(ids=world.ids("hi"), logprobs=None)
    reply = await world.chat(HELLO, logprobs=True)
    shown = reply["choices"][0]["logprobs"]["content"]
    [call] = await world.recorded()
    assert [token["logprob"] for token in shown] == list(call.logprobs)
    assert "".join(token["token"] for token in shown) == "hi<|im_end|>"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"\xff\xfe", None),
        ({"messages": HELLO, "temperature": "hot"}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"messages": HELLO, "frobnicate": 1}, "frobnicate"),
        ({"messages": HELLO, "logit_bias": {"999999": 3}}, "logit_bias"),
        ({"messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format"),
        ({"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ({"messages": HELLO, "tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"messages": HELLO, "top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"messages": HELLO, "n": 0}, "n"),
        ({"messages": HELLO, "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
    ],
)
async def test_a_malformed_body_is_the_clients_error_and_records_nothing(world, body, param):
    status, reply = await world.post(body)
    assert status == 400
    assert reply["error"]["param"] == param
    assert reply["error"]["type"] == "invalid_request_error"
    assert await world.flush() == 0
    assert world.engine.requests == []


async def test_what_cannot_change_the_result_is_accepted(world):
    world.says("ok")
    accepted = {
        "user": "u", "store": True, "metadata": {"a": "b"}, "parallel_tool_calls": True, "service_tier": "auto",
        "prompt_cache_key": "k", "prompt_cache_options": {"ttl": "30m"}, "moderation": None, "reasoning_effort": "low",
        "response_format": {"type": "text"}, "logit_bias": {}, "presence_penalty": 0, "tool_choice": "auto",
    }  # fmt: skip
    await world.chat(HELLO, **accepted)
    assert world.engine.requests[0]["sampling_params"].keys() == {"temperature", "max_new_tokens", "stop_token_ids"}


async def test_sampling_parameters_reach_the_engine_under_its_names(world):
    world.says("ok")
    await world.chat(
        HELLO, temperature=0.5, top_p=0.9, top_k=20, min_p=0.1, max_completion_tokens=7, stop=["x"], presence_penalty=1
    )
    params = world.engine.requests[0]["sampling_params"]
    assert params.pop("stop_token_ids") == sorted(world.renderer.eos)
    assert params == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "max_new_tokens": 7, "stop": ["x"],
        "presence_penalty": 1.0,
    }  # fmt: skip


async def test_a_prompt_longer_than_the_context_is_refused_before_the_engine_sees_it(world):
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key()) as client:
        with pytest.raises(BadRequestError) as raised:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x y" * 5000}])
    assert raised.value.code == "context_length_exceeded"
    # The words that verifiers, LiteLLM and others look for.
    assert f"This model's maximum context length is {world.renderer.context} tokens" in str(raised.value)
    assert world.engine.requests == []


@pytest.mark.parametrize("text", ["x", "some words, ", "日本"])
async def test_of_a_prompt_much_longer_than_the_context_only_a_part_is_tokenised(world, text):
    status, reply = await world.post(
        {"model": "m", "messages": [{"role": "user", "content": (text * 100_000)[:100_000]}]}
    )
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")
    [counted] = re.findall(r"the prompt has more than (\d+) tokens", reply["error"]["message"])
    assert 2 * world.renderer.context < int(counted) < 2 * world.renderer.context + 4 * 4096


async def test_long_text_of_few_tokens_is_encoded(world):
    ids = world.renderer.encode("hello world")
    world.renderer.context = 1
    assert world.renderer.encode("hello world") == ids


async def test_a_base_url_with_too_little_or_too_much_is_told_apart(world):
    for path, hint in (
        ("/chat/completions", "the base URL of this client ends in /v1"),
        ("/s/a-1/responses", "the base URL of this client ends in /v1"),
        ("/v1/v1/messages", "leave it out of its base URL"),
    ):
        status, reply = await world.post({}, path=path)
        assert status == 404
        assert reply["error"]["message"].endswith(hint)
    status, reply = await world.post({}, path="/v1/nothing")
    assert (status, reply["error"]["message"]) == (404, "POST /v1/nothing: Not Found")


async def test_the_reply_may_fill_what_the_prompt_leaves_of_the_context(world):
    world.says("ok")
    await world.chat(HELLO, max_tokens=10**6)
    [asked] = world.engine.requests
    assert asked["sampling_params"]["max_new_tokens"] == world.renderer.context - len(asked["input_ids"])


async def test_a_stop_string_ends_the_text_but_not_the_record(world):
    world.says("hello world", eos=False, finish={"type": "stop", "matched": "wor"})
    reply = await world.chat(HELLO, stop="wor")
    assert reply["choices"][0]["message"]["content"] == "hello "
    [call] = await world.recorded()
    assert list(call.completion) == world.ids("hello world", eos=False)


async def test_a_malformed_tool_call_reaches_the_agent_as_text_and_is_marked(world):
    broken = 'look <tool_call>{"name": "get_weather", "arguments": {"city"}}</tool_call>'
    world.says(broken)
    reply = await world.chat(HELLO, tools=TOOLS)
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": broken}
    assert reply["choices"][0]["finish_reason"] == "stop"
    [call] = await world.recorded()
    assert call.malformed_tool_call
    assert list(call.completion) == world.ids(broken)


async def test_tool_calls_are_text_where_the_request_forbids_them(world):
    world.says(CALL)
    reply = await world.chat(HELLO, tools=TOOLS, tool_choice="none")
    assert reply["choices"][0]["message"]["content"] == CALL
    assert "Tools" in world.renderer.tokenizer.decode(world.engine.requests[0]["input_ids"], skip_special_tokens=False)


async def test_versions_per_token_are_the_engines(world):
    spans = [{"version": "4", "start": 0, "end": 1}, {"version": "5", "start": 1, "end": 9}]
    world.engine.script = lambda _: Line(ids=[300, 301, 302], versions=spans, version="5", finish={"type": "length"})
    reply = await world.chat(HELLO)
    [call] = await world.recorded()
    assert list(call.weight_versions) == [4, 5, 5]
    assert (call.finish_reason, reply["choices"][0]["finish_reason"]) == ("length", "length")


async def test_an_engine_without_a_version_number_counts_as_version_0(world):
    world.says("ok", version="default")
    await world.chat(HELLO)
    [call] = await world.recorded()
    assert set(call.weight_versions) == {0}


async def test_logprobs_that_do_not_belong_to_the_ids_make_a_call_inexact_instead_of_padded(world):
    world.engine.script = lambda _: Line(ids=[300, 301], logprobs=[-0.5])
    await world.chat(HELLO)
    [call] = await world.recorded()
    assert not call.exact
    assert list(call.logprobs) == []


async def test_models_lists_the_served_name_and_any_name_is_answered(world):
    world.says("ok")
    async with AsyncOpenAI(base_url=f"{world.url}/s/a-1/v1", api_key="sk-whatever") as client:
        listed = await client.models.list()
        reply = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert [model.id for model in listed.data] == ["tiny"]
    assert reply.model == "gpt-4o"
