"""Token in, token out: every prompt extends the call it continues, and the spans say exactly what the engine saw."""

import asyncio
import copy
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_world import World, world_of
from scripted_engine import Line
from thorough import examples

from nexrl.records import Call, Float32s

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ENDINGS = [{"type": "stop", "matched": 2}, {"type": "length", "length": 5}, {"type": "abort", "message": "paused"}]


class Step:
    """One request of a random conversation, and how the agent sends history back."""

    def __init__(self, draw: random.Random) -> None:
        self.thread = draw.randrange(3)
        self.fork = draw.random() < 0.2
        self.n = draw.choice([1, 1, 1, 3])
        self.stream = draw.random() < 0.4
        self.calls = draw.choice([0, 0, 1, 2])
        self.ending = draw.choice(ENDINGS)
        self.echo = draw.choice(["same", "respelled", "without text", "parts", "without reasoning"])
        self.text = "".join(draw.choice("ab é\n日") for _ in range(draw.randrange(1, 12)))
        self.seed = draw.random()


@given(st.randoms(use_true_random=False), st.sampled_from(["chatml", "thinking"]))
@examples(10)
def test_every_continuation_extends_its_parent_and_the_spans_say_what_the_engine_saw(model_dir, draw, template):
    rounds = [[Step(draw) for _ in range(draw.randrange(1, 4))] for _ in range(draw.randrange(1, 6))]
    asyncio.run(converse(model_dir(template), rounds, tools=template == "chatml"))


async def converse(model: Path, rounds: list[list[Step]], *, tools: bool) -> None:
    with tempfile.TemporaryDirectory() as data:
        async with world_of(model, Path(data), reasoning="none" if tools else "think") as world:
            world.engine.script = sampler(world)
            threads: list[list[dict[str, Any]]] = [[{"role": "system", "content": f"agent {k}"}] for k in range(3)]
            for steps in rounds:
                distinct = {step.thread % len(threads): step for step in steps}
                await asyncio.gather(*(advance(world, threads, at, step, tools) for at, step in distinct.items()))
            check(world, await world.recorded())


def sampler(world: World):
    """Sample any ids at all, special ones excepted: what they spell need not be text, nor encode back to them."""
    special = set(world.renderer.vocabulary.hidden)
    ordinary = [token for token in range(world.renderer.vocabulary_size) if token not in special | set(range(6))]

    def script(asked: dict[str, Any]) -> Line:
        draw = random.Random(f"{asked['input_ids']}{asked['sampling_params'].get('sampling_seed')}")
        ids = draw.choices(ordinary, k=draw.randrange(1, 12))
        for _ in range(draw.choice([0, 0, 1, 2])):
            spaced = draw.choice(['{"name":"look","arguments":{"b":1.0,"a":"x"}}', '{"name": "look", "arguments": {}}'])
            ids += world.renderer.encode(f"<tool_call>{spaced}</tool_call>")
        ending = draw.choice(ENDINGS)
        if ending["type"] == "stop":
            ids += sorted(world.renderer.eos)
        logprobs = [float(value) for value in Float32s(-draw.expovariate(1) for _ in ids)]
        return Line(ids=ids, logprobs=logprobs, finish=ending)

    return script


async def advance(world: World, threads: list[Any], at: int, step: Step, tools: bool) -> None:
    if step.fork:
        threads.append(copy.deepcopy(threads[at]))
    messages = threads[at]
    if messages[-1]["role"] != "tool":
        messages.append({"role": "user", "content": step.text})
    options = {"tools": TOOLS} if tools else {}
    body = {"messages": messages, "n": step.n, "seed": int(step.seed * 1000), **options}
    reply = await world.chat(body.pop("messages"), **body)
    message = reply["choices"][-1]["message"]
    messages.append(echoed(message, step.echo))
    for call in message.get("tool_calls", []):
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": step.text})


def echoed(message: dict[str, Any], how: str) -> dict[str, Any]:
    """Return a reply as clients send it back."""
    echo = copy.deepcopy(message)
    if how == "respelled":
        for call in echo.get("tool_calls", []):
            arguments = json.loads(call["function"]["arguments"])
            call["function"]["arguments"] = json.dumps(arguments, sort_keys=True, indent=1).replace("1.0", "1")
    elif how == "without text" and echo.get("tool_calls"):
        echo["content"] = None
    elif how == "parts" and echo["content"]:
        echo["content"] = [{"type": "text", "text": echo["content"]}]
    elif how == "without reasoning":
        echo.pop("reasoning_content", None)
    return echo


def check(world: World, calls: list[Call]) -> None:
    by_id = {call.id: call for call in calls}
    engine = sorted(
        (tuple(asked["input_ids"]), tuple(answer.ids), tuple(answer.logprobs), answer.finish["type"])
        for asked in world.engine.requests
        for answer in [world.engine.answers[asked["rid"]]]
    )
    spans = sorted(
        (tuple(prompt_ids(call, by_id)), tuple(call.completion), tuple(call.logprobs), call.finish_reason)
        for call in calls
    )
    assert spans == engine
    for call in calls:
        continues = call.parent is not None
        has_history = any(message["role"] == "assistant" for message in call.messages)
        assert not has_history, "a request with history was not recognised as a continuation"
        assert call.drift is None
        assert continues == (call.messages[0]["role"] != "system")
        assert call.exact


def prompt_ids(call: Call, calls: dict[str, Call]) -> list[int]:
    if call.parent is None:
        return list(call.prompt_delta)
    parent = calls[call.parent]
    return [*prompt_ids(parent, calls), *parent.completion, *call.prompt_delta]


TOOL_TURN = '<tool_call>\n{"name": "look", "arguments": {"city": "Paris"}}\n</tool_call>'
LLAMA_TURN = '<tool_call>{"name": "look", "arguments": {"city": "Paris"}}</tool_call>'


@pytest.mark.parametrize(
    ("template", "replies"),
    [
        ("chatml", ["hello", "world"]),
        ("chatml", [f"look\n{TOOL_TURN}", "sunny"]),
        ("chatml", [f"{TOOL_TURN}\n{TOOL_TURN}", "sunny", TOOL_TURN]),
        ("llama3", ["hello", "world", "thank you"]),
        ("llama3", [LLAMA_TURN, "sunny"]),
    ],
)
@pytest.mark.parametrize("cut", [False, True], ids=["ended", "cut by length"])
async def test_a_spliced_prompt_reads_as_the_template_would_have_written_it(
    model_dir, tmp_path, template, replies, cut
):
    async with world_of(model_dir(template), tmp_path) as world:
        world.says(*replies, "done", eos=not cut, finish={"type": "length" if cut else "stop"})
        messages = [{"role": "user", "content": "hello"}]
        for _ in replies:
            message = (await world.chat(messages, tools=TOOLS))["choices"][0]["message"]
            messages.append(message)
            calls = message.get("tool_calls", [])
            messages += [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in calls]
            if not calls:
                messages.append({"role": "user", "content": "and then"})
        await world.chat(messages, tools=TOOLS)
        calls = await world.recorded()
        assert all(call.parent for call in calls[1:])
        async with world_of(model_dir(template), tmp_path / "fresh") as fresh:
            fresh.says("done")
            await fresh.chat(messages, tools=TOOLS)
            [rendered] = fresh.engine.requests
        decode = world.renderer.tokenizer.decode
        spliced = world.engine.requests[-1]["input_ids"]
        assert decode(spliced, skip_special_tokens=False) == decode(rendered["input_ids"], skip_special_tokens=False)


async def test_reasoning_that_the_template_would_drop_stays_in_the_chain(model_dir, tmp_path):
    async with world_of(model_dir("thinking"), tmp_path, reasoning="think") as world:
        world.says("<think>\nhm\n</think>\n\nhello", "done")
        messages = [{"role": "user", "content": "hello"}]
        reply = (await world.chat(messages))["choices"][0]["message"]
        assert reply == {"role": "assistant", "content": "hello", "reasoning_content": "hm"}
        reply.pop("reasoning_content")
        await world.chat([*messages, reply, {"role": "user", "content": "more"}])
        one, two = await world.recorded()
        assert (two.parent, two.drift) == (one.id, None)
        assert "hm" in world.renderer.tokenizer.decode(world.engine.requests[1]["input_ids"])


async def test_a_template_that_rewrites_what_follows_a_reply_opens_a_new_chain_and_says_so(model_dir, tmp_path):
    async with world_of(model_dir("rewriting"), tmp_path) as world:
        world.says("hello")
        messages = [{"role": "user", "content": "hello"}]
        reply = (await world.chat(messages))["choices"][0]["message"]
        await world.chat([*messages, reply, {"role": "user", "content": "more"}])
        one, two = await world.recorded()
        assert (one.drift, two.parent, two.drift) == (None, None, "template")
        assert list(two.prompt_delta) == world.engine.requests[1]["input_ids"]


@pytest.mark.parametrize("change", ["text", "tool name", "tools", "template arguments"])
async def test_an_edited_history_opens_a_new_chain_and_says_so(world, change):
    world.says(TOOL_TURN, "done")
    messages = [{"role": "user", "content": "hello"}]
    options: dict[str, Any] = {"tools": copy.deepcopy(TOOLS)}
    reply = (await world.chat(messages, **options))["choices"][0]["message"]
    messages += [reply, {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": "sunny"}]
    if change == "text":
        messages[0] = {"role": "user", "content": "goodbye"}
    elif change == "tool name":
        reply["tool_calls"][0]["function"]["name"] = "listen"
    elif change == "tools":
        options["tools"][0]["function"]["description"] = "new"
    else:
        options["chat_template_kwargs"] = {"enable_thinking": False}
    await world.chat(messages, **options)
    _, two = await world.recorded()
    assert (two.parent, two.drift) == (None, "edited")
    assert two.messages == messages


async def test_a_fresh_conversation_in_a_session_is_no_drift(world):
    world.says("ok")
    for text in ("one", "two", "one"):
        await world.chat([{"role": "user", "content": text}])
    assert [(call.parent, call.drift) for call in await world.recorded()] == [(None, None)] * 3


async def test_the_longest_match_wins_and_the_latest_of_equal_ones(world):
    world.says("ok", "ok", "fine", "done")
    start = [{"role": "user", "content": "a"}]
    await world.chat(start)
    reply = (await world.chat(start))["choices"][0]["message"]
    longer = [*start, reply, {"role": "user", "content": "b"}]
    fine = (await world.chat(longer))["choices"][0]["message"]
    await world.chat([*longer, fine, {"role": "user", "content": "c"}])
    _, two, three, four = await world.recorded()
    assert (three.parent, four.parent) == (two.id, three.id)


async def test_a_flushed_session_is_forgotten_and_later_calls_still_extend_it(world):
    world.says("ok")
    start = [{"role": "user", "content": "a"}]
    reply = (await world.chat(start))["choices"][0]["message"]
    assert await world.flush() == 1
    await world.chat([*start, reply, {"role": "user", "content": "b"}])
    assert await world.flush() == 2
    one, two = world.ingest.calls
    assert (one.parent, two.parent, two.drift) == (None, one.id, None)
    assert (await world.stats())["sessions"] == 0
