"""Sessions read back from ingest: a proxy that forgot goes on as one that did not."""

import asyncio
import itertools
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
from dialect_clients import ask
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from proxy_world import World, world_of
from random_sessions import RandomSession
from random_speech import Speaker
from scripted_engine import Line
from thorough import examples

from nexrl.records import Call

HELLO = [{"role": "user", "content": "hello"}]
MORE = {"role": "user", "content": "more"}
CALL = '<tool_call>{"name": "look", "arguments": {"b": 1.0, "a": "x"}}</tool_call>'
TOOLS = [{"name": "look", "description": "looks", "parameters": {"type": "object"}}]


class Forgetful(RandomSession):
    """A session whose proxy forgets everything now and then, and whose agents echo calls in one way."""

    at_once = False

    async def step(self) -> None:
        forgets = self.draw.random() < 0.4
        await super().step()
        if forgets and self.speaker.forgets:
            await self.world.restart()


class Steady(Speaker):
    """A speaker that says the same to the same prompt however often it is asked, and to each choice of it."""

    forgets = False


@pytest.mark.parametrize("model", ["chatml", "thinking", "qwen3", "glm", "gpt_oss", "deepseek_r1"])
@given(st.integers(0, 2**32))
@examples(1, shrink=False)
def test_a_proxy_that_forgot_goes_on_as_one_that_did_not(model_of, model, seed):
    remembered, forgot = (asyncio.run(has_a_session(model_of(model), model, seed, forgets=k)) for k in (False, True))
    assert forgot == remembered


async def has_a_session(directory: Path, model: str, seed: int, *, forgets: bool) -> list[Any]:
    """Return every call with the chain that led to it."""
    with tempfile.TemporaryDirectory() as data:
        reasoning = {"chatml": "none", "thinking": "think"}.get(model, "auto")
        async with world_of(directory, Path(data), reasoning=reasoning) as world:
            world.engine.script = speaker = Steady(world, FAMILIES.get(model))
            speaker.forgets = forgets
            session = Forgetful(world, speaker, seed, tools=model != "thinking", echoes=["same", "parts"])
            for _ in range(9):
                await session.step()
            return sorted(shapes(await world.recorded()))


def shapes(calls: list[Call]) -> list[Any]:
    """Return every call without the names that were given at random."""
    by_id = {call.id: call for call in calls}

    def shape(call: Call) -> Any:
        parent = shape(by_id[call.parent]) if call.parent else ()
        return (*parent, tuple(call.prompt_delta), tuple(call.completion), call.drift or "")

    return [shape(call) for call in calls]


async def turns(world: World, texts: list[str], forgets: set[int], *, dialect: str = "chat", **options: Any) -> Any:
    """Have one conversation, forgetting before some turns; return its calls."""
    messages: list[dict[str, Any]] = []
    for turn, text in enumerate(texts):
        if turn in forgets:
            await world.restart()
        messages.append({"role": "user", "content": text})
        [said] = await ask(world, dialect, messages, **options)
        messages.append(said)
    return await world.recorded()


def chained(calls: list[Call]) -> bool:
    return all(call.parent == before.id and not call.drift for before, call in itertools.pairwise(calls))


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
async def test_a_conversation_goes_on_after_a_restart_in_every_dialect(world, dialect):
    world.says("one", "two", "three", "four")
    calls = await turns(world, ["a", "b", "c", "d"], {1, 3}, dialect=dialect, tools=TOOLS)
    assert chained(calls)
    assert len(world.ingest.reads) == 2


async def test_a_new_conversation_in_a_forgotten_session_does_not_hide_the_old_one(world):
    world.says("ok")
    first = (await world.chat(HELLO))["choices"][0]["message"]
    await world.restart()
    await world.chat([{"role": "user", "content": "a sub-agent's question"}])
    await world.chat([*HELLO, first, MORE])
    one, _, three = await world.recorded()
    assert (three.parent, three.drift) == (one.id, None)


async def test_what_was_said_since_a_restart_is_known_beside_what_was_read_back(world):
    world.says("one", "two", "three", "four")
    first = (await world.chat(HELLO))["choices"][0]["message"]
    await world.restart()
    other = [{"role": "user", "content": "other"}]
    second = (await world.chat(other))["choices"][0]["message"]
    await world.chat([*HELLO, first, MORE])
    await world.chat([*other, second, MORE])
    one, two, three, four = await world.recorded()
    assert (three.parent, four.parent) == (one.id, two.id)


async def test_a_session_that_is_in_memory_is_not_read(world):
    world.says("ok")
    assert chained(await turns(world, ["a", "b", "c"], set()))
    assert world.ingest.reads == []


async def test_a_session_is_read_back_once_however_often_nothing_is_found(world):
    world.says("ok")
    for text in ("a", "b", "c"):
        await world.chat([{"role": "user", "content": text}, {"role": "assistant", "content": "an example"}, MORE])
    assert len(world.ingest.reads) == 1
    assert [call.drift for call in await world.recorded()] == [None] * 3


@pytest.mark.parametrize("finish", ["stop", "length"])
async def test_raw_prompts_go_on_after_a_restart(world, finish):
    said = {"stop": " sunny<|im_end|>", "length": " sunny"}[finish]
    world.says(" sunny", eos=finish == "stop", finish={"type": finish})
    text, ids = "it is", [300, 301]
    for _ in range(3):
        for prompt in (text, ids):
            status, _ = await world.post({"prompt": prompt, "model": "m"}, path="/v1/completions")
            assert status == 200
        text += f"{said} today"
        ids = [*ids, *world.engine.answers[world.engine.requests[-1]["rid"]].ids, 302]
        await world.restart()
    calls = await world.recorded()
    assert chained(calls[0::2])
    assert chained(calls[1::2])


async def test_a_prompt_of_ids_is_never_taken_for_text_that_reads_like_its_reply(world):
    world.says("hello", eos=False, finish={"type": "length"})
    await world.post({"prompt": [300, 301], "model": "m"}, path="/v1/completions")
    await world.restart()
    await world.post({"prompt": "hello world", "model": "m"}, path="/v1/completions")
    _, two = await world.recorded()
    assert two.parent is None
    assert world.engine.requests[-1]["input_ids"] == world.ids("hello world", eos=False)


async def test_a_stop_string_is_part_of_what_a_raw_prompt_repeats(world):
    world.says("look\nObs", eos=False, finish={"type": "stop", "matched": "\nObs"})
    body = {"prompt": "go ", "model": "m", "stop": "\nObs"}
    for forgets in (False, True):
        prompt = "go "
        for _ in range(2):
            status, reply = await world.post(body | {"prompt": prompt}, path="/v1/completions")
            assert (status, reply["choices"][0]["text"]) == (200, "look")
            prompt += "look\nObservation: x "
            if forgets:
                await world.restart()
        assert world.renderer.spelled(world.engine.requests[-1]["input_ids"]) == b"go look\nObservation: x "
    first, second, third, fourth = await world.recorded()
    assert (first.parent, second.parent, third.parent) == (None, first.id, None)
    assert fourth.parent == third.id


@pytest.mark.parametrize("instructed", [False, True])
async def test_a_response_is_gone_on_from_by_its_id_after_a_restart(world, instructed):
    world.says("one", "two", "three")
    given = {"instructions": "be brief"} if instructed else {}
    previous: dict[str, str] = {}
    for text in ("a", "b", "c"):
        body = {"model": "m", "input": text, **given, **previous}
        status, reply = await world.post(body, path="/v1/responses")
        assert status == 200, reply
        previous = {"previous_response_id": reply["id"]}
        await world.restart()
    assert chained(await world.recorded())


async def test_a_response_goes_on_from_a_conversation_that_other_dialects_had(world):
    world.says("one", "two", "three")
    messages = [{"role": "system", "content": "be brief"}, *HELLO]
    [said] = await ask(world, "chat", messages)
    messages += [said, MORE]
    [said] = await ask(world, "responses", messages)
    await world.restart()
    await ask(world, "responses", [messages[0], MORE], previous=said.response)
    calls = await world.recorded()
    assert chained(calls)
    assert [len(call.messages) for call in calls] == [2, 1, 1]


@pytest.mark.parametrize("echo", ["whole", "without the text"])
async def test_both_ways_of_echoing_a_call_with_text_are_known_after_a_restart(world, echo):
    world.says(f"I look{CALL}", f"again{CALL}", "done")
    messages: list[dict[str, Any]] = list(HELLO)
    for _ in range(3):
        [said] = await ask(world, "chat", messages, tools=TOOLS)
        calls = said.get("tool_calls", [])
        messages.append(said if echo == "whole" else {**said, "content": None})
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in calls]
        await world.restart()
    assert chained(await world.recorded())


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("echo", ["<look/>", ""])
async def test_a_reply_that_a_stop_string_ended_is_echoed_with_it_or_without(world, echo, forgets):
    world.says(*["first <look/>"] * 2, eos=False, finish={"type": "stop", "matched": "<look/>"})
    messages: list[dict[str, Any]] = list(HELLO)
    for _ in range(3):
        reply = await world.chat(messages, stop=["</wait>", "<look/>"])
        said = reply["choices"][0]["message"]
        messages += [said | {"content": said["content"] + echo}, MORE]
        if forgets:
            await world.restart()
    assert chained(await world.recorded())
    prompt = world.renderer.spelled(world.engine.requests[-1]["input_ids"])
    assert prompt.count(b"first <look/><|im_end|>") == 2


async def test_a_stop_string_that_the_model_did_not_say_is_an_edit(world):
    world.says("first <look/>", eos=False, finish={"type": "stop", "matched": "<look/>"})
    said = (await world.chat(HELLO, stop=["</wait>", "<look/>"]))["choices"][0]["message"]
    await world.chat([*HELLO, said | {"content": said["content"] + "</wait>"}, MORE], stop=["</wait>", "<look/>"])
    assert [call.drift for call in await world.recorded()] == [None, "edited"]


async def test_a_session_that_had_to_make_room_is_read_back(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path, most_bytes=3000) as world:
        world.says("ok")
        threads = {f"a-{k}": list(HELLO) for k in range(6)}
        for _ in range(4):
            for attempt, messages in threads.items():
                reply = await world.chat(messages, attempt=attempt)
                messages += [reply["choices"][0]["message"], MORE]
                assert (await world.stats())["sessions"] <= 2
        for attempt in threads:
            assert chained(await world.recorded(attempt))


async def test_room_is_made_again_by_sessions_of_raw_prompts(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path, most_bytes=10_000) as world:
        world.says("ok")
        for k in range(30):
            await world.post({"prompt": "hello", "model": "m"}, path="/v1/completions", attempt=f"a-{k}")
        assert 3 <= (await world.stats())["sessions"] <= 8
        for k in range(30):
            await world.flush(f"a-{k}")
        assert world.sampler.sessions._size == 0


@pytest.mark.parametrize("status", [500, 401, 404])
async def test_where_ingest_cannot_tell_a_new_chain_begins_and_the_agent_gets_its_reply(world, status, caplog):
    world.says("ok")
    await turns(world, ["a"], set())
    await world.restart()
    world.ingest.status_of_reading = status
    caplog.set_level(logging.WARNING)
    answered = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ok"}, MORE]
    assert (await world.chat(answered))["choices"][0]["message"]["content"] == "ok"
    _, two = await world.recorded()
    assert (two.parent, two.messages) == (None, answered)
    logged = [record.message for record in caplog.records if "cannot be read back" in record.message]
    assert len(logged) == (0 if status == 404 else 1)


async def test_an_ingest_that_is_gone_costs_a_chain_and_no_reply(model_dir, tmp_path, caplog):
    async with world_of(model_dir("chatml"), tmp_path) as world:
        world.says("ok")
        world.planner._restorer._url = "http://127.0.0.1:1/api/sessions"
        reply = await world.chat([*HELLO, {"role": "assistant", "content": "said"}, MORE])
        assert reply["choices"][0]["message"]["content"] == "ok"
    assert "begins a new chain" in caplog.text


async def test_calls_that_are_not_exact_are_not_gone_on_from(world):
    world.engine.script = lambda _: Line(ids=[300, 301], logprobs=[-0.5])
    said = (await world.chat(HELLO))["choices"][0]["message"]
    await world.restart()
    await world.chat([*HELLO, said, MORE])
    assert [(call.exact, call.parent) for call in await world.recorded()] == [(False, None)] * 2
