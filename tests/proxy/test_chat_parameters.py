"""Chat completions, what a request may ask for: how it reaches the engine, the reply and the record."""

import json
from typing import Any

import pytest
from proxy_world import World
from scripted_engine import Line

from nexrl.sampling import altered

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


async def streamed(world: World, **options: Any) -> list[dict[str, Any]]:
    """Return the choices of every chunk of a stream."""
    body = {"model": "m", "messages": HELLO, "stream": True, **options}
    headers = {"authorization": f"Bearer {world.key()}"}
    async with world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as reply:
        lines = [line[6:] for line in (await reply.text()).split("\n\n") if line.startswith("data: {")]
    return [choice for line in lines for choice in json.loads(line)["choices"]]


def params(world: World) -> dict[str, Any]:
    return world.engine.requests[-1]["sampling_params"]


async def test_a_logit_bias_reaches_the_engine_and_the_record(world):
    world.says("ok")
    await world.chat(HELLO, logit_bias={"300": -100, "7": 1.5})
    assert params(world)["logit_bias"] == {"300": -100, "7": 1.5}
    [call] = await world.recorded()
    assert call.sampling["logit_bias"] == {"300": -100, "7": 1.5}


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
async def test_a_least_length_and_a_deaf_ear_reach_the_engine_and_the_record(world, path):
    world.says("ok")
    said = {"chat/completions": {"messages": HELLO}, "completions": {"prompt": "x"}, "responses": {"input": "x"}}
    for given in ({"min_tokens": 8, "ignore_eos": True}, {"min_tokens": 0, "ignore_eos": False}):
        status, reply = await world.post({"model": "m", **said[path], **given}, path=f"/v1/{path}")
        assert status == 200, reply
    deaf, plain = [asked["sampling_params"] for asked in world.engine.requests]
    # The ids that end a turn are not named either: vLLM would stop at them all the same.
    assert (deaf["min_new_tokens"], deaf["ignore_eos"], "stop_token_ids" in deaf) == (8, True, False)
    assert plain["stop_token_ids"] == sorted(world.renderer.eos)
    assert not {"min_new_tokens", "ignore_eos"} & plain.keys()
    one, two = await world.recorded()
    assert (one.sampling["min_new_tokens"], one.sampling["ignore_eos"]) == (8, True)
    assert (altered(one.sampling), altered(two.sampling)) == (["min_new_tokens"], [])


@pytest.mark.parametrize("given", [{"min_tokens": 9, "max_tokens": 8}, {"min_tokens": 10**6}, {"min_tokens": -1}])
async def test_a_least_length_that_cannot_be_reached_is_refused(world, given):
    status, reply = await world.post({"messages": HELLO, **given})
    assert (status, reply["error"]["param"], world.engine.requests) == (400, "min_tokens", [])


@pytest.mark.parametrize("last", ["", "<|im_end|>"], ids=["cut within a turn", "cut behind one"])
async def test_a_conversation_goes_on_behind_ends_of_turns_that_were_not_heard(world, last):
    [eos] = world.renderer.eos
    ids = [*world.ids("one"), *world.ids("two", eos=bool(last))]
    world.engine.script = lambda _: Line(ids=ids, finish={"type": "length", "length": len(ids)})
    reply = await world.chat(HELLO, ignore_eos=True, max_tokens=len(ids))
    assert (reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]) == ("onetwo", "length")
    await world.chat([*HELLO, reply["choices"][0]["message"], *HELLO])
    one, two = await world.recorded()
    assert (list(one.completion), two.parent, two.drift) == (ids, one.id, None)
    assert eos in ids[:-1]
    spelled = world.renderer.spelled(world.engine.requests[1]["input_ids"]).decode()
    assert "assistant\none<|im_end|>two<|im_end|>\n<|im_start|>user\n" in spelled


@pytest.mark.parametrize("token", ["-1", "x", "1.0", "٣", "100000", ""])
async def test_a_logit_bias_for_what_is_no_token_is_refused(world, token):
    status, reply = await world.post({"messages": HELLO, "logit_bias": {token: 1}})
    assert (status, reply["error"]["param"], world.engine.requests) == (400, "logit_bias", [])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_alternatives_are_shown_beside_every_token(world, stream):
    world.says("hi")
    if stream:
        chunks = await streamed(world, logprobs=True, top_logprobs=2)
        shown = [token for chunk in chunks for token in (chunk.get("logprobs") or {}).get("content") or []]
    else:
        reply = await world.chat(HELLO, logprobs=True, top_logprobs=2)
        shown = reply["choices"][0]["logprobs"]["content"]
    assert world.engine.requests[0]["top_logprobs_num"] == 2
    [call] = await world.recorded()
    assert [token["logprob"] for token in shown] == list(call.logprobs)
    literal = world.renderer.literal
    expected = [
        [(literal(token), logprob), (literal(token + 1), logprob - 1)]
        for token, logprob in zip(call.completion, call.logprobs, strict=True)
    ]
    assert [[(top["token"], top["logprob"]) for top in token["top_logprobs"]] for token in shown] == expected


async def test_no_alternatives_are_asked_for_where_nobody_wants_them(world):
    world.says("hi")
    reply = await world.chat(HELLO, logprobs=True)
    assert "top_logprobs_num" not in world.engine.requests[0]
    assert all(token["top_logprobs"] == [] for token in reply["choices"][0]["logprobs"]["content"])


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_object"}, {"type": "object"}),
    ],
)
async def test_a_format_is_a_grammar_for_the_engine(world, form, schema):
    world.says('{"a": "b"}')
    reply = await world.chat(HELLO, response_format=form)
    assert json.loads(params(world)["json_schema"]) == schema
    assert json.loads(reply["choices"][0]["message"]["content"]) == {"a": "b"}
    [call] = await world.recorded()
    assert json.loads(call.sampling["json_schema"]) == schema


async def test_a_format_beside_tools_is_allowed_where_none_may_be_called(world):
    world.says("{}")
    form = {"type": "json_object"}
    await world.chat(HELLO, response_format=form, tools=TOOLS, tool_choice="none")
    assert json.loads(params(world)["json_schema"]) == {"type": "object"}


@pytest.mark.parametrize("seed", [0, 41, -3])
async def test_each_choice_has_a_seed_of_its_own_and_its_record_says_which(world, seed):
    world.engine.script = lambda asked: Line(ids=world.ids(f"{asked['sampling_params']['sampling_seed']}"))
    reply = await world.chat(HELLO, n=3, seed=seed)
    assert [choice["message"]["content"] for choice in reply["choices"]] == [str(seed + k) for k in range(3)]
    calls = await world.recorded()
    assert sorted(call.sampling["sampling_seed"] for call in calls) == [seed, seed + 1, seed + 2]
    assert all(call.reply["content"] == str(call.sampling["sampling_seed"]) for call in calls)
    assert len({tuple(call.prompt_delta) for call in calls}) == 1
    assert reply["usage"]["completion_tokens"] == sum(len(call.completion) for call in calls)
    assert reply["usage"]["prompt_tokens"] == len(calls[0].prompt_delta)


async def test_without_a_seed_none_is_made_up(world):
    world.says("ok")
    await world.chat(HELLO, n=2)
    assert all("sampling_seed" not in asked["sampling_params"] for asked in world.engine.requests)


@pytest.mark.parametrize("stop", ["wor", ["x", "wor"], ["o w", "wor"]])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_the_text_ends_before_the_first_stop_string_and_the_record_does_not(world, stop, stream):
    world.says("hello world", eos=False, finish={"type": "stop", "matched": "wor"})
    if stream:
        chunks = await streamed(world, stop=stop)
        content = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
    else:
        content = (await world.chat(HELLO, stop=stop))["choices"][0]["message"]["content"]
    assert content == ("hell" if "o w" in stop else "hello ")
    assert params(world)["stop"] == ([stop] if isinstance(stop, str) else stop)
    [call] = await world.recorded()
    assert list(call.completion) == world.ids("hello world", eos=False)


async def test_a_conversation_goes_on_behind_a_stop_string_that_was_sampled(world):
    world.says("hello world", eos=False, finish={"type": "stop", "matched": "wor"})
    said = (await world.chat(HELLO, stop="wor"))["choices"][0]["message"]
    await world.chat([*HELLO, said, *HELLO])
    one, two = await world.recorded()
    assert (two.parent, two.drift) == (one.id, None)
    spelled = world.renderer.spelled(world.engine.requests[1]["input_ids"]).decode()
    assert "assistant\nhello world<|im_end|>\n<|im_start|>user\n" in spelled


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("1" * 60, 200), ("[" * 400 + "]" * 400, 200), ("[" * 100_000 + "]" * 100_000, 400)],
    ids=["a number beyond 64 bits", "deeply nested", "nested beyond all measure"],
)
async def test_arguments_of_any_size_are_answered(world, arguments, status):
    world.says("ok")
    function = {"name": "look", "arguments": f'{{"a": {arguments}}}'}
    call = {"id": "c", "type": "function", "function": function}
    history = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "c"},
    ]
    answered, reply = await world.post({"messages": history, "tools": TOOLS})
    assert answered == status, reply
    nested = json.dumps({"messages": HELLO, "metadata": {}}).replace("{}", arguments)
    assert (await world.post(nested.encode()))[0] == status
