"""The items of a Responses request: chat messages again, whatever a client did to the items it was sent."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexrl_proxy.dialects import Choice, Opening, Usage
from nexrl_proxy.dialects.responses import ResponsesDialect, decode
from nexrl_proxy.dialects.responses_input import Item, told_of
from nexrl_proxy.dialects.responses_items import told, untold
from nexrl_proxy.messages import canonical, normalised

SHORT = [{"type": "summary_text", "text": "short"}]
TOOLS = [{"type": "function", "name": "look"}, {"type": "custom", "name": "patch"}]


def messages_of(items: list[dict[str, Any]]):
    return told_of(msgspec.convert(items, list[Item])).messages


def call(name="look", arguments="{}", ident="call_1"):
    return {"type": "function_call", "call_id": ident, "name": name, "arguments": arguments}


def chat_call(name="look", arguments="{}", ident="call_1"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_items_become_chat_messages_in_their_order():
    items = [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": part} for part in "ab"]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me look"}]},
        call(arguments='{"x": 1}'),
        call(ident="call_2"),
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "rainy"}]},
        {"role": "system", "content": "hurry"},
        {"role": "user", "content": "c"},
    ]  # fmt: skip
    body = {"model": "m", "input": items, "instructions": "you are a tool"}
    assert decode(json.dumps(body).encode()).messages == [
        {"role": "system", "content": "you are a tool"},
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "let me look",
            "reasoning_content": "hm",
            "tool_calls": [chat_call(arguments='{"x": 1}'), chat_call(ident="call_2")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call_2", "content": "rainy"},
        {"role": "system", "content": "hurry"},
        {"role": "user", "content": "c"},
    ]


@pytest.mark.parametrize(
    ("item", "reasoning"),
    [
        ({"summary": SHORT}, "short"),
        ({"summary": SHORT, "content": [{"type": "reasoning_text", "text": "long"}]}, "long"),
        ({"summary": [], "content": None, "encrypted_content": "gAAA"}, None),
        ({}, None),
    ],
    ids=["a summary", "content before a summary", "encrypted", "empty"],
)
def test_reasoning_is_kept_where_its_text_is_there(item, reasoning):
    [message] = messages_of([{"type": "reasoning", **item}, {"role": "assistant", "content": "so"}])
    assert message == {"role": "assistant", "content": "so"} | ({"reasoning_content": reasoning} if reasoning else {})


def test_two_texts_without_ids_are_two_messages():
    items = [{"role": "assistant", "content": "one"}, call(), {"role": "assistant", "content": "two"}]
    assert [message["content"] for message in messages_of(items)] == ["one", "two"]


def test_ids_keep_two_replies_in_a_row_apart_and_parallel_calls_together():
    one, two = (reply({"content": f"{name}", "tool_calls": [chat_call(ident=name)]}, name) for name in ("c1", "c2"))
    both = [message["content"] for message in messages_of([*one, *two])]
    [message_item, first, second] = reply(
        {"content": "look", "tool_calls": [chat_call(ident="c1"), chat_call(ident="c2")]}, "c"
    )
    outputs = [{"type": "function_call_output", "call_id": ident, "output": "x"} for ident in ("c1", "c2")]
    told = messages_of([message_item, first, outputs[0], second, outputs[1]])
    assert both == ["c1", "c2"]
    assert [message["role"] for message in told] == ["assistant", "tool", "tool"]
    assert [made["id"] for made in told[0]["tool_calls"]] == ["c1", "c2"]


def test_a_custom_call_whose_arguments_are_no_json_is_told_as_they_are():
    assert untold(*told("call_1", "{oops")) == ("call_1", "{oops")


arguments = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none(), max_size=3)


@settings(deadline=None)
@given(
    written=arguments | st.fixed_dictionaries({"input": st.text() | st.integers()}, optional={"more": st.none()}),
    indent=st.sampled_from([None, 1]),
)
def test_a_custom_call_is_told_as_text_and_comes_back_as_it_was_written(written, indent):
    spelled = json.dumps(written, indent=indent)
    ident, text = told("call_1", spelled)
    back, again = untold(ident, text)
    assert (back, json.loads(again)) == ("call_1", written)
    if written.keys() == {"input"} and isinstance(written["input"], str):
        assert (ident, text) == ("call_1", written["input"])


def reply(message: dict[str, Any], ident: str):
    """Return the output of a plain reply."""
    answer = ResponsesDialect().answer(
        decode(json.dumps({"model": "m", "input": "hello", "tools": TOOLS}).encode()),
        Opening(response=f"resp_{ident}", model="m", created=0, prompt_tokens=1),
    )
    choice = Choice(message={"role": "assistant", "content": None, **message}, finish_reason="stop")
    return answer.whole([choice], Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=0))["output"]


@st.composite
def completions(draw):
    """Draw an assistant message as the reader returns it."""
    message: dict[str, Any] = {"role": "assistant", "content": draw(st.text(max_size=4)) or None}
    if thought := draw(st.text(max_size=4)):
        message["reasoning_content"] = thought
    spelled = st.builds(json.dumps, arguments, indent=st.sampled_from([None, 2]))
    names = st.sampled_from(["look", "patch", "unknown"])
    if calls := draw(st.lists(st.tuples(names, spelled), max_size=3)):
        message["tool_calls"] = [chat_call(name, text, f"call_{place}") for place, (name, text) in enumerate(calls)]
    return message


@st.composite
def echoes(draw, output):
    """Draw a spelling in which clients send an output back."""
    items = [dict(item) for item in output]
    thoughts = [item for item in items if item["type"] == "reasoning" and draw(st.booleans())]
    texts = [item for item in items if item["type"] == "message"]
    calls = [item for item in items if item["type"].endswith("_call")]
    if texts and calls and draw(st.booleans()):
        texts = []
    parts = [thoughts, texts, calls]
    if draw(st.booleans()):
        parts = draw(st.permutations(parts))
    return [draw(spellings(item)) for part in parts for item in part]


@st.composite
def spellings(draw, item):
    for name in ("id", "status", "encrypted_content"):
        if draw(st.booleans()):
            item.pop(name, None)
    match item["type"]:
        case "message":
            [part] = item["content"]
            text = part["text"]
            cut = draw(st.integers(0, len(text)))
            item["content"] = draw(
                st.sampled_from(
                    [
                        text,
                        item["content"],
                        [{"type": "output_text", "text": piece} for piece in (text[:cut], text[cut:])],
                    ]
                )
            )
            if draw(st.booleans()):
                del item["type"]
        case "function_call":
            item["arguments"] = draw(st.sampled_from([item["arguments"], json.dumps(json.loads(item["arguments"]))]))
        case "reasoning":
            item["content"] = draw(st.sampled_from([item["content"], None, []]))
    return item


@settings(deadline=None)
@given(completions(), st.data())
def test_an_output_sent_back_in_any_spelling_is_the_message_that_was_sampled(message, data):
    items = data.draw(echoes(reply(message, "a1")))
    told = normalised(messages_of([*items, {"role": "user", "content": "go on"}]))
    assert [entry["role"] for entry in told] == ["assistant", "user"]
    [sampled] = normalised([message])
    without_text = sampled | {"content": ""} if message.get("tool_calls") else sampled
    assert canonical(told[0]) in (canonical(sampled), canonical(without_text))
