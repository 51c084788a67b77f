"""Text completions: prompts of text or token ids, several at a time, plain and streamed."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError
from proxy_world import World, world_of

from nexrl.records import Int32s
from nexrl_proxy.dialects import Choice, Opening, TokenText, Usage
from nexrl_proxy.dialects.completions import CompletionsDialect
from nexrl_proxy.errors import ApiError
from nexrl_proxy.parsers import Content
from nexrl_proxy.text import shown_as

OPENING = Opening(response="cmpl-1", model="m", created=5, prompt_tokens=3)
USAGE = Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=1)


def decoded(**body):
    return CompletionsDialect().decode(json.dumps({"model": "m", "prompt": "hello", **body}).encode())


def answer(**body):
    return CompletionsDialect().answer(decoded(**body), OPENING)


def said(text, finish="stop", tokens=None):
    return Choice(message={"role": "assistant", "content": text or None}, finish_reason=finish, tokens=tokens)


def token(text, logprob, *top):
    return TokenText(shown_as(text, text.encode()), logprob, list(top))


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    *events, done = stream.decode().split("\n\n")[:-1]
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([5, 6], [Int32s([5, 6])]),
        ([[5], [6, 7]], [Int32s([5]), Int32s([6, 7])]),
    ],
)
def test_a_prompt_is_text_or_token_ids_one_or_several(prompt, expected):
    asked = decoded(prompt=prompt)
    assert list(asked.prompts) == expected
    assert [type(prompt) for prompt in asked.prompts] == [type(prompt) for prompt in expected]
    assert (asked.messages, asked.tools, asked.dialect) == ([], None, "completions")


def test_a_request_asks_for_what_it_sets_and_16_tokens():
    asked = decoded()
    assert (asked.sampling, asked.max_tokens, asked.n, asked.logprobs, asked.stops) == ({}, 16, 1, False, [])
    asked = decoded(
        temperature=0, top_p=0.5, top_k=3, min_p=0.1, frequency_penalty=1, presence_penalty=0, repetition_penalty=1,
        max_tokens=7, stop=["x", ""], seed=4, n=2, best_of=2, logprobs=3, stream=True, user="u",
        stream_options={"include_usage": True}, logit_bias={"5": -100}, echo=False, suffix="",
    )  # fmt: skip
    assert asked.sampling == {
        "temperature": 0.0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "frequency_penalty": 1.0, "stop": ["x"],
        "logit_bias": {"5": -100.0},
    }  # fmt: skip
    assert (asked.max_tokens, asked.n, asked.seed, asked.stops) == (7, 2, 4, ["x"])
    assert (asked.logprobs, asked.top_logprobs, asked.stream, asked.include_usage) == (True, 3, True, True)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt 0 is empty"),
        ({"prompt": []}, "number of prompts is 0"),
        ({"prompt": ["a", ""]}, "prompt 1 is empty"),
        ({"prompt": [[5], []]}, "prompt 1 is empty"),
        ({"prompt": ["a", 5]}, "mixes"),
        ({"prompt": ["a", [5]]}, "mixes"),
        ({"prompt": [5, -1]}, "prompt holds -1"),
        ({"prompt": [[2**31]]}, "prompt holds 2147483648"),
        ({"prompt": [5.5]}, "prompt"),
        ({"prompt": ["a"] * 2049}, "number of prompts is 2049"),
        ({"n": 0}, "n is 0: use 1 to 128"),
        ({"best_of": 3}, "best_of is not supported"),
        ({"best_of": 1, "n": 2}, "best_of is not supported"),
        ({"suffix": "end"}, "suffix is not supported"),
        ({"echo": True, "prompt": [5]}, "echo is not supported"),
        ({"echo": True, "logprobs": 0}, "echo is not supported"),
        ({"logprobs": 21}, "logprobs is 21"),
        ({"logit_bias": {"5": "much"}}, "logit_bias"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"stop": ["x"] * 17}, "number of stop is 17"),
        ({"temperature": "hot"}, "temperature"),
        ({"messages": []}, "messages"),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, dict) else None,
)
def test_what_is_malformed_or_cannot_be_honoured_is_refused_by_name(body, complaint):
    with pytest.raises(ApiError, match=complaint) as raised:
        decoded(**body)
    assert raised.value.status == 400
    assert raised.value.param in body


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]"])
def test_what_is_not_json_is_the_clients_error(body):
    with pytest.raises(ApiError) as raised:
        CompletionsDialect().decode(body)
    assert CompletionsDialect().error(raised.value)["error"]["type"] == "invalid_request_error"


def test_choices_come_prompt_by_prompt_and_may_repeat_the_prompt():
    whole = answer(prompt=["a", "b"], n=2, echo=True).whole(
        [said("1"), said("2"), said("3", "length"), said("")], USAGE
    )
    assert [(choice["index"], choice["text"]) for choice in whole["choices"]] == [
        (0, "a1"), (1, "a2"), (2, "b3"), (3, "b"),
    ]  # fmt: skip
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["stop", "stop", "length", "stop"]
    assert (whole["object"], whole["id"], whole["created"], whole["model"]) == ("text_completion", "cmpl-1", 5, "m")
    assert whole["usage"]["total_tokens"] == 7


def test_logprobs_are_lists_side_by_side():
    day = "日".encode()
    halves = [TokenText(shown_as("\ufffd", day[:2]), -3.0), TokenText(shown_as("\ufffd", day[2:]), -4.0)]
    tokens = [token("hi", -1.0, token("yo", -0.5), token("hi", -1.0)), *halves, token("!", -2.0)]
    [choice] = answer(logprobs=2).whole([said("hi日!", tokens=tokens)], USAGE)["choices"]
    assert choice["logprobs"] == {
        "tokens": ["hi", "bytes:\\xe6\\x97", "bytes:\\xa5", "!"],
        "token_logprobs": [-1.0, -3.0, -4.0, -2.0],
        "top_logprobs": [
            {"hi": -1.0, "yo": -0.5}, {"bytes:\\xe6\\x97": -3.0}, {"bytes:\\xa5": -4.0}, {"!": -2.0},
        ],
        "text_offset": [0, 2, 2, 3],
    }  # fmt: skip


def test_a_stream_adds_up_to_the_plain_reply():
    tokens = [token("hi", -1.0), token(" you", -2.0)]
    reply = answer(prompt=["a", "b"], logprobs=0, stream=True, stream_options={"include_usage": True})
    stream = reply.first()
    stream += reply.delta(1, [Content("hi")], tokens[:1]) + reply.delta(0, [], None)
    stream += reply.delta(1, [], tokens[1:]) + reply.delta(1, [Content(" you")], None)
    stream += reply.last(0, said("")) + reply.last(1, said("hi you", "length")) + reply.end(USAGE)
    *chunks, last = chunks_of(stream)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices if choice["index"] == 1) == "hi you"
    assert {choice["index"]: choice["finish_reason"] for choice in choices} == {0: "stop", 1: "length"}
    shown = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    assert [offset for logprobs in shown for offset in logprobs["text_offset"]] == [0, 2]
    assert [text for logprobs in shown for text in logprobs["tokens"]] == ["hi", " you"]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)


def test_an_echoed_prompt_opens_the_stream():
    [one, two] = chunks_of((reply := answer(prompt=["a", "b"], echo=True)).first() + reply.end(USAGE))
    assert [(chunk["choices"][0]["index"], chunk["choices"][0]["text"]) for chunk in (one, two)] == [(0, "a"), (1, "b")]


def test_an_error_ends_a_stream():
    event = answer().failed(ApiError("gone", status=503, kind="service_unavailable_error"))
    assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == "gone"


def client(world: World) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key(), max_retries=0)


async def test_the_official_client_completes_text_as_the_engine_saw_it(world):
    world.says("it is sunny")
    async with client(world) as openai:
        reply = await openai.completions.create(model="m", prompt="hello world", logprobs=1, temperature=0.5)
    [call] = await world.recorded()
    [asked] = world.engine.requests
    assert asked["input_ids"] == world.ids("hello world", eos=False) == list(call.prompt_delta)
    assert (list(call.completion), call.response, call.dialect, call.temperature) == (
        world.ids("it is sunny"), reply.id, "completions", 0.5
    )  # fmt: skip
    [choice] = reply.choices
    assert (choice.text, choice.finish_reason, reply.id[:5]) == ("it is sunny", "stop", "cmpl-")
    assert choice.logprobs.token_logprobs == list(call.logprobs)


async def test_text_is_never_taken_for_a_tool_call_or_for_thinking(model_dir, tmp_path):
    text = '<think>hm</think> <tool_call>{"name": "f", "arguments": {}}</tool_call>'
    async with world_of(model_dir("chatml"), tmp_path, reasoning="think") as world:
        world.says(text)
        status, reply = await world.post({"prompt": "hello"}, path="/v1/completions")
        assert (status, reply["choices"][0]["text"]) == (200, text)


async def test_every_prompt_is_sampled_n_times_and_each_sample_is_a_call(world):
    texts = ["one", "two", "three", "four"]
    world.says(*texts)
    prompts = [[300, 301], [302]]
    async with client(world) as openai:
        reply = await openai.completions.create(model="m", prompt=prompts, n=2, seed=5)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert sorted(choice.text for choice in reply.choices) == sorted(texts)
    calls = await world.recorded()
    assert sorted(list(call.prompt_delta) for call in calls) == [*[[300, 301]] * 2, *[[302]] * 2]
    assert {call.response for call in calls} == {reply.id}
    by_prompt = {choice.text: prompts[choice.index // 2] for choice in reply.choices}
    assert all(by_prompt[call.reply["content"]] == list(call.prompt_delta) for call in calls)


async def test_the_official_client_streams_several_prompts(world):
    world.says("it is sunny")
    texts = {0: "", 1: ""}
    async with client(world) as openai:
        options = {"stream_options": {"include_usage": True}, "echo": True}
        stream = await openai.completions.create(model="m", prompt=["hello", "world"], stream=True, **options)
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    assert texts == {0: "helloit is sunny", 1: "worldit is sunny"}
    assert chunk.usage.completion_tokens == 2 * len(world.ids("it is sunny"))


async def test_a_token_the_model_does_not_have_is_the_clients_error(world):
    async with client(world) as openai:
        with pytest.raises(BadRequestError, match="token ids lie between"):
            await openai.completions.create(model="m", prompt=[5, 100000])
    assert world.engine.requests == []
