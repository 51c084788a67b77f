"""A reply that has to call a tool: the prompt begins the call, and only what the model sampled of it is trained."""

import json
from typing import Any

import pytest
from dialect_clients import Said
from families import FAMILIES, Reply
from family_talk import CALL, SUNNY, TOOLS
from proxy_world import World, world_of
from scripted_engine import Line

from nexrl_ingest.assembly.sequences import sequences

HELLO = [{"role": "user", "content": "hello"}]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
BEGINS_ARGUMENTS = ('{"city"', "<arg_key>", "<parameter=")


def rest_of(name: str, *, named: bool) -> str:
    """Return what a model writes once its call was begun for it."""
    reply = Reply(calls=[CALL])
    written = FAMILIES[name].write(reply, True)
    begins = [written.index(start) for start in BEGINS_ARGUMENTS if start in written] if named else []
    return written[min(begins) if named else written.index(CALL[0]) :] + FAMILIES[name].ends(reply)


async def forced(world: World, choice: Any, rest: str, **options: Any) -> Said:
    world.engine.script = lambda _: Line(ids=[int(token) for token in world.renderer.encode(rest)])
    reply = await world.chat(HELLO, tools=TOOLS, tool_choice=choice, **options)
    return Said(reply["choices"][0]["message"])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["any tool", "one tool"])
async def test_a_call_is_begun_in_the_prompt_and_the_reply_holds_all_of_it(model_of, tmp_path, name, choice):
    async with world_of(model_of(name), tmp_path, reasoning="auto") as world:
        said = await forced(world, choice, rest_of(name, named=choice is NAMED))
        [call] = said.pop("tool_calls")
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == CALL
        assert said == {"role": "assistant", "content": None}, "nothing but the call was said"
        spelled = world.renderer.spelled(world.engine.requests[0]["input_ids"]).decode()
        assert spelled.endswith(world.planner._parsers.forced("get_weather" if choice is NAMED else None))
        [sequence] = sequences(await world.recorded())
        trained = [token for token, mask in zip(sequence.ids, sequence.loss_mask, strict=True) if mask]
        assert trained == world.engine.answers[world.engine.requests[0]["rid"]].ids


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_conversation_goes_on_from_a_call_that_was_begun_for_the_model(model_of, tmp_path, name):
    async with world_of(model_of(name), tmp_path, reasoning="auto") as world:
        said = await forced(world, "required", rest_of(name, named=False))
        before = world.engine.requests[0]["input_ids"] + world.engine.answers[world.engine.requests[0]["rid"]].ids
        results = [{**SUNNY, "tool_call_id": call["id"]} for call in said["tool_calls"]]
        await world.chat([*HELLO, said, *results], tools=TOOLS)
        one, two = await world.recorded()
        assert (two.parent, two.drift) == (one.id, None)
        assert world.engine.requests[1]["input_ids"][: len(before)] == before


async def test_reasoning_that_the_prompt_opened_is_closed_first(model_of, tmp_path):
    async with world_of(model_of("deepseek_r1"), tmp_path, reasoning="auto") as world:
        await forced(world, NAMED, rest_of("deepseek_r1", named=True))
        spelled = world.renderer.spelled(world.engine.requests[0]["input_ids"]).decode()
        assert "<think>\n</think>\n\n<｜tool▁calls▁begin｜>" in spelled


async def test_streamed_and_plain_replies_of_a_begun_call_agree(model_of, tmp_path):
    async with world_of(model_of("qwen3"), tmp_path, reasoning="auto") as world:
        plain = await forced(world, NAMED, rest_of("qwen3", named=True))
        headers = {"authorization": f"Bearer {world.key()}"}
        body = {"model": "m", "messages": HELLO, "tools": TOOLS, "tool_choice": NAMED, "stream": True}
        async with world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as reply:
            lines = [line[6:] for line in (await reply.text()).split("\n\n") if line.startswith("data: {")]
        calls = [call for line in lines for call in json.loads(line)["choices"][0]["delta"].get("tool_calls", [])]
        [whole] = plain["tool_calls"]
        assert calls[0]["function"]["name"] == whole["function"]["name"]
        assert "".join(call["function"].get("arguments", "") for call in calls) == whole["function"]["arguments"]


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["any tool", "one tool"])
async def test_a_format_that_cannot_begin_a_call_refuses_and_records_nothing(model_dir, tmp_path, choice):
    async with world_of(model_dir("thinking"), tmp_path, tools="none", reasoning="think") as world:
        status, reply = await world.post({"messages": HELLO, "tools": TOOLS, "tool_choice": choice})
        assert (status, reply["error"]["param"]) == (400, "tool_choice")
        assert (world.engine.requests, await world.flush()) == ([], 0)


@pytest.mark.parametrize("name", FAMILIES)
async def test_the_name_of_a_tool_cannot_end_a_turn(model_of, tmp_path, name):
    controls = [token for token in FAMILIES[name].special if token not in "[THINK][/THINK]"]
    hostile = f"a{controls[-1]}{FAMILIES[name].endings[0]}b"
    counts = []
    async with world_of(model_of(name), tmp_path, reasoning="auto") as world:
        ids = {added.id for added in world.renderer._encoder.added if added.control}
        for tool in (hostile, "harmless"):
            tools = [{"type": "function", "function": {"name": tool, "parameters": {"type": "object"}}}]
            choice = {"type": "function", "function": {"name": tool}}
            world.says("{}")
            await world.chat(HELLO, tools=tools, tool_choice=choice)
            prompt = world.engine.requests[-1]["input_ids"]
            counts.append([token for token in prompt if token in ids])
            assert tool in world.renderer.spelled(prompt).decode()
    assert counts[0] == counts[1]
