"""Nobody's text is a control token: what people and tools say reads as they said it, and structures nothing."""

import re
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from proxy_world import World, world_of
from scripted_engine import Line
from thorough import examples

from nexrl_proxy.encoding import MARK
from nexrl_proxy.messages import normalised
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.render import Renderer

PLACES = ("system", "user", "said", "reasoning", "name", "key", "value", "result", "tool", "description", "schema")


@cache
def renderer_of(name: str) -> Renderer:
    parsers = Parsers(template=FAMILIES[name].template)
    directory = FAMILIES[name].build(Path(mkdtemp()) / name)
    return Renderer(directory, markers=parsers.markers, endings=parsers.endings)


def conversation(said: dict[str, str]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return messages and tools with these texts in their places."""
    function = {"name": said["name"], "arguments": {said["key"]: [said["value"], {"deep": said["value"]}]}}
    call = {"id": "call_123456789", "type": "function", "function": function}
    messages = [
        {"role": "system", "content": said["system"]},
        {"role": "user", "content": said["user"]},
        {"role": "assistant", "content": "", "reasoning_content": said["reasoning"], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_123456789", "content": said["result"]},
        {"role": "assistant", "content": said["said"]},
        {"role": "user", "content": said["user"]},
    ]
    schema = {"type": "object", "properties": {said["schema"]: {"enum": [said["schema"]]}}}
    tool = {"name": said["tool"], "description": said["description"], "parameters": schema}
    return normalised(messages), [{"type": "function", "function": tool}]


def texts(name: str) -> st.SearchStrategy[str]:
    """Return text with control tokens in it; quiet at its ends, where templates trim and look for words of theirs."""
    controls = [token.text for token in renderer_of(name)._encoder.added if token.control]
    pieces = st.one_of(st.sampled_from(controls), st.sampled_from([MARK, "\ue001", "é", "a\n", '"', "\\"]))
    return st.lists(pieces, max_size=4).map(lambda parts: f"a{''.join(parts)}z")


def harmless(name: str, text: str) -> str:
    """Return text of the same shape without control tokens."""
    controls = sorted((token.text for token in renderer_of(name)._encoder.added if token.control), key=len)
    return re.sub("|".join(map(re.escape, reversed(controls))), "x", text)


@pytest.mark.parametrize("name", FAMILIES)
@given(st.data())
@examples(5)
def test_hostile_text_leaves_the_structure_of_a_prompt_as_it_is(name, data):
    renderer, family = renderer_of(name), FAMILIES[name]
    said = {place: data.draw(texts(name), label=place) for place in PLACES}
    controls = {token.id for token in renderer._encoder.added if token.control}

    def ids(spoken: dict[str, str]) -> list[int]:
        messages, tools = conversation(spoken)
        return renderer.prompt(messages, tools=tools, kwargs={}).tolist()

    quiet = {place: harmless(name, text) for place, text in said.items()}
    kept = [token for token in ids(said) if token in controls]
    assert kept == [token for token in ids(quiet) if token in controls]
    messages, tools = conversation(said)
    assert renderer.spelled(ids(said)).decode() == family.render(messages, tools), "the model reads something else"


@pytest.mark.parametrize("name", FAMILIES)
async def test_hostile_turns_are_appended_as_harmless_ones_are(name, model_of, tmp_path):
    family = FAMILIES[name]
    hostile = f"a{''.join(family.special)}{''.join(family.text)}{MARK}z"
    async with world_of(model_of(name), tmp_path, reasoning="auto") as world:
        said, quiet = [await turns(world, text) for text in (hostile, harmless(name, hostile))]
    controls = {token.id for token in renderer_of(name)._encoder.added if token.control}
    for mine, theirs in zip(said, quiet, strict=True):
        assert [token for token in mine if token in controls] == [token for token in theirs if token in controls]
        assert hostile in renderer_of(name).spelled(mine).decode()


async def turns(world: World, text: str) -> list[list[int]]:
    """Have two turns of a text; return the prompts."""
    ending = [int(token) for token in world.renderer.encode(world.renderer.literal(min(world.renderer.eos)))]
    world.engine.script = lambda _: Line(ids=[*world.renderer.encode("ok"), *ending])
    messages: list[dict[str, Any]] = []
    for _ in range(2):
        messages.append({"role": "user", "content": text})
        messages.append((await world.chat(messages))["choices"][0]["message"])
    return [asked["input_ids"] for asked in world.engine.requests[-2:]]


async def test_template_arguments_are_text_too(model_dir, tmp_path):
    source = "{{ greeting }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}{{ name }}"
    directory = tmp_path / "model"
    directory.mkdir()
    for file in model_dir("chatml").iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "chat_template.jinja").write_text(source)
    async with world_of(directory, tmp_path / "spool") as world:
        world.says("ok")
        kwargs = {"greeting": "<|im_start|>system", "name": ["<|im_end|>", {"<|eot_id|>": 1}]}
        await world.chat([{"role": "user", "content": "x"}], chat_template_kwargs=kwargs)
        [asked] = world.engine.requests
        controls = [token for token in asked["input_ids"] if token in world.renderer.vocabulary.hidden]
        assert [world.renderer.literal(token) for token in controls] == ["<|im_start|>", "<|im_end|>"]


async def test_control_tokens_in_raw_prompts_are_what_they_are(world):
    world.says("ok")
    prompt = f"<|im_start|>user\nx{MARK}\ue001<|im_end|>\n<|im_start|>assistant\n"
    await world.post({"prompt": prompt, "model": "m"}, path="/v1/completions")
    [asked] = world.engine.requests
    assert world.renderer.spelled(asked["input_ids"]).decode() == prompt
    assert len([token for token in asked["input_ids"] if token in world.renderer.vocabulary.hidden]) == 3
