"""`history: template`: earlier turns are rendered anew, and a chain ends, with its reason, where that changes them."""

from typing import Any

import pytest
from families import FAMILIES, Reply
from family_talk import CALL, CONVERSATIONS, TOOLS, Talk
from proxy_world import World, world_of

from nexrl.records import Call

HELLO = [{"role": "user", "content": "hello"}]
MORE = {"role": "user", "content": "more"}


async def said(world: World, messages: list[Any], **options: Any) -> dict[str, Any]:
    return (await world.chat(messages, **options))["choices"][0]["message"]


def becoming(calls: list[Call]) -> list[tuple[bool, str | None]]:
    return [(call.parent is not None, call.drift) for call in calls]


async def test_where_the_template_only_appends_the_chain_goes_on(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path, history="template") as world:
        world.says("hello", "world", "done")
        messages = list(HELLO)
        for _ in range(3):
            messages += [await said(world, messages), MORE]
        calls = await world.recorded()
        assert becoming(calls) == [(False, None), (True, None), (True, None)]
        for before, asked, call in zip(calls, world.engine.requests[1:], calls[1:], strict=False):
            start = asked["input_ids"][: -len(call.prompt_delta)]
            assert start[-len(before.completion) :] == list(before.completion)


async def test_reasoning_that_the_template_drops_ends_the_chain(model_dir, tmp_path):
    async with world_of(model_dir("thinking"), tmp_path, reasoning="think", history="template") as world:
        world.says("<think>\nhm\n</think>\n\nhello", "done")
        await said(world, [*HELLO, await said(world, HELLO), MORE])
        one, two = await world.recorded()
        assert (two.parent, two.drift) == (None, "template")
        assert list(two.prompt_delta) == world.engine.requests[1]["input_ids"]
        assert b"hm" not in world.renderer.spelled(two.prompt_delta)
        assert two.messages == [*HELLO, one.reply, MORE]


async def test_the_same_text_in_other_ids_ends_the_chain_as_retokenised(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path, history="template") as world:
        letters = [int(token) for letter in "hello" for token in world.renderer.encode(letter)]
        assert letters != world.ids("hello", eos=False)
        world.says("hello")
        line = world.engine.script({})
        line.ids = [*letters, *sorted(world.renderer.eos)]
        world.engine.script = lambda _: line
        await said(world, [*HELLO, await said(world, HELLO), MORE])
        assert becoming(await world.recorded()) == [(False, None), (False, "retokenised")]


async def test_an_edit_is_called_an_edit(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path, history="template") as world:
        world.says("hello", "world", "done")
        first = await said(world, HELLO)
        longer = [*HELLO, first, MORE]
        second = await said(world, longer)
        await said(world, [*longer[:2], {"role": "user", "content": "changed"}, second, MORE])
        await said(world, [{"role": "user", "content": "changed"}, first, MORE])
        assert [call.drift for call in await world.recorded()] == [None, None, "edited", "edited"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("conversation", ["chat", "tools", "reasoning"])
async def test_every_prompt_is_the_templates_own_rendering(name, conversation, model_of, tmp_path):
    family = FAMILIES[name]
    if "reasoning" in family.lacks and conversation == "reasoning":
        return
    directory = model_of(name)
    tools = TOOLS if conversation == "tools" else None
    async with world_of(directory, tmp_path / "spool", reasoning="auto", history="template") as world:
        talk = Talk(world, family, directory, tools)
        for new, reply in CONVERSATIONS[conversation]:
            ours, rendered = await talk.turn(new, reply)
            assert ours == rendered
        calls = await world.recorded()
    assert {call.drift for call in calls} <= {None, "template", "retokenised"}
    for call in calls:
        assert (call.drift is None) == (call.parent is not None or call is calls[0])


async def test_under_append_a_turn_stays_as_it_was_sampled(model_dir, tmp_path):
    async with world_of(model_dir("thinking"), tmp_path, reasoning="think") as world:
        world.says("<think>\nhm\n</think>\n\nhello", "done")
        await said(world, [*HELLO, await said(world, HELLO), MORE])
        assert becoming(await world.recorded()) == [(False, None), (True, None)]


@pytest.mark.parametrize("name", ["gpt_oss", "glm", "qwen3", "deepseek_r1"])
@pytest.mark.parametrize("with_call", [False, True], ids=["text", "a tool call"])
async def test_a_turn_that_was_cut_goes_on_however_the_template_ends_turns(name, with_call, model_of, tmp_path):
    family = FAMILIES[name]
    directory = model_of(name)
    async with world_of(directory, tmp_path / "spool", reasoning="auto") as world:
        talk = Talk(world, family, directory, TOOLS)
        reply = Reply(calls=[CALL]) if with_call else Reply(content="it is")
        behind = {"role": "tool", "content": "sunny"} if with_call else MORE
        await talk.turn(HELLO, reply, cut=True)
        ours, _ = await talk.turn([behind], Reply(content="done"))
        spelled = talk.text(ours)
        assert becoming(await world.recorded()) == [(False, None), (True, None)]
        assert spelled.count(family.write(reply, False) if name != "deepseek_r1" else family.write(reply, True)) == 1
