"""Text to meaning: what is read never depends on the pieces the text arrived in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spelled_calls import read
from tiny_models import CHATML, THINKING, build_tokenizer

from nexrl_proxy.parsers import Content, Malformed, Reasoning, ToolCall
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.parsers.hermes import HermesParser
from nexrl_proxy.parsers.plain import PlainParser
from nexrl_proxy.parsers.think import ThinkParser
from nexrl_proxy.parsers.written import call_of
from nexrl_proxy.text import StopCut, Vocabulary, WindowDecoder

VOCABULARY = Vocabulary(build_tokenizer(), hidden=[0])
cuts = st.lists(st.integers(0, 60), max_size=6)


PIECES = ["<tool_call>", "</tool_call>", "<think>", " ", "\n", "x", "<"]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(text=texts, at=cuts, stops=st.lists(st.sampled_from(["x", "<th", "\n ", "</tool_call>x"]), max_size=2))
def test_stop_strings_cut_at_the_same_place_however_the_text_arrives(text, at, stops):
    def cut(at):
        stop = StopCut(stops)
        edges = [0, *sorted(place for place in at if place < len(text)), len(text)]
        return "".join(stop.push(text[a:b]) for a, b in itertools.pairwise(edges)) + stop.finish()

    first = min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))
    assert cut(at) == cut([]) == text[:first]


def test_content_is_all_that_is_no_call_without_the_whitespace_beside_calls():
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert read(HermesParser(), f"\n look \n{call}\n{call} after\n{call}\n") == [
        Content("look"), *[ToolCall("f", '{"a": 1}')] * 2, Content(" after"), ToolCall("f", '{"a": 1}')
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '{"name": "f"}', '{"name": "", "arguments": {}}', '{"name": "f", "arguments": [1]}',
     '{"name": 3, "arguments": {}}', '{"name": "f", "arguments": "text"}', '{"name": "f", "arguments": {}} more'],
)  # fmt: skip
def test_a_call_that_is_no_call_is_text(body):
    assert call_of(body) is None
    text = f"a <tool_call>{body}</tool_call> b"
    events = read(HermesParser(), text)
    assert "".join(event.text for event in events) == text
    assert any(isinstance(event, Malformed) for event in events)


def test_arguments_keep_the_models_spelling():
    assert call_of('{"name":"f","arguments":{"b":1.0,  "a":"é"}}') == ToolCall("f", '{"b":1.0,  "a":"é"}')
    assert call_of('{"name": "f", "arguments": "{\\"a\\": 1}"}') == ToolCall("f", '{"a": 1}')


def test_reasoning_is_split_off_and_only_at_the_start():
    assert read(ThinkParser(PlainParser(), inside=False), "<think>\nhm\n</think>\n\nyes <think>") == [
        Reasoning("hm"), Content("yes <think>")
    ]  # fmt: skip
    assert read(ThinkParser(PlainParser(), inside=True), "hm</think>yes") == [Reasoning("hm"), Content("yes")]
    assert read(ThinkParser(PlainParser(), inside=False), "no thought") == [Content("no thought")]


def test_auto_reads_the_chat_template():
    assert Parsers(tools="auto", reasoning="none", template=CHATML).tools == "hermes"
    assert Parsers(tools="auto", reasoning="none", template=THINKING).tools == "none"


@given(st.text(max_size=30))
def test_both_decoders_give_back_the_text_and_never_half_a_character(text):
    vocabulary = VOCABULARY
    ids = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
    for decoder in (vocabulary.decoder(), WindowDecoder(vocabulary)):
        pieces = [decoder.push([token]) for token in ids]
        assert "".join(pieces) + decoder.finish() == text
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
